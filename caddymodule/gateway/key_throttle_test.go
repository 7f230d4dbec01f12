package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func digestOf(n int) (d [sha256.Size]byte) {
	binary.BigEndian.PutUint64(d[:], uint64(n))
	return d
}

func TestWhoGuessesKeysMustWait(t *testing.T) {
	const limit = 3
	var v keyThrottle
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	guesser, other := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	v.right(digestOf(1000))
	for i := range limit {
		if wait := v.mustWait(digestOf(i), guesser, limit, now); wait != 0 {
			t.Fatalf("guess %d must wait %v", i, wait)
		}
		v.wrong(digestOf(i), guesser, now)
	}
	now = now.Add(20 * time.Second)
	for name, test := range map[string]struct {
		digest [sha256.Size]byte
		from   netip.Prefix
		limit  int
		at     time.Time
		want   time.Duration
	}{
		"one more":                        {digestOf(9), guesser, limit, now, 40 * time.Second},
		"a key that was right":            {digestOf(1000), guesser, limit, now, 0},
		"another address":                 {digestOf(9), other, limit, now, 0},
		"without a limit":                 {digestOf(9), guesser, 0, now, 0},
		"with a higher limit":             {digestOf(9), guesser, limit + 1, now, 0},
		"when the minute is over":         {digestOf(9), guesser, limit, now.Add(40 * time.Second), 0},
		"a moment before that":            {digestOf(9), guesser, limit, now.Add(40*time.Second - 1), 1},
		"an address that can't be parsed": {digestOf(9), netip.Prefix{}, limit, now, 0},
	} {
		if got := v.mustWait(test.digest, test.from, test.limit, test.at); got != test.want {
			t.Errorf("%s: must wait %v, want %v", name, got, test.want)
		}
	}
	v.wrong(digestOf(1000), other, now) // it was revoked
	if v.mustWait(digestOf(1000), guesser, limit, now) == 0 {
		t.Error("a revoked key is looked at")
	}
	v.wrong(digestOf(9), guesser, now.Add(time.Hour))
	if wait := v.mustWait(digestOf(9), guesser, limit, now.Add(time.Hour)); wait != 0 {
		t.Errorf("in another minute, one guess must wait %v", wait)
	}
}

func TestVisitorsTakeBoundedMemory(t *testing.T) {
	var v keyThrottle
	now := time.Now()
	address := func(n int) netip.Prefix {
		var bytes [4]byte
		binary.BigEndian.PutUint32(bytes[:], uint32(n))
		return netip.PrefixFrom(netip.AddrFrom4(bytes), 32)
	}
	for i := range maxVisitors + 1000 {
		v.wrong(digestOf(i), address(i), now)
		v.right(digestOf(i))
	}
	if len(v.guesses) > maxVisitors+1 || len(v.known) > maxVisitors {
		t.Errorf("%d addresses and %d keys are remembered", len(v.guesses), len(v.known))
	}
	if v.mustWait(digestOf(-1), address(maxVisitors+5000), 1000, now) == 0 {
		t.Error("those who came late are not counted together")
	}
}

func TestVisitorAddress(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":         "192.0.2.1/32",
		"::ffff:192.0.2.1":  "192.0.2.1/32",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64",
		"fe80::1%eth0":      "fe80::/64",
		"unix socket":       "invalid Prefix",
		"":                  "invalid Prefix",
	} {
		if got := visitorAddress(text).String(); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}
