package gateway

import (
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

const (
	// guessPeriod is how long wrong keys of an address are counted together.
	guessPeriod = time.Minute
	// maxVisitors bounds how many addresses are told apart in a period, and how many
	// keys are remembered.
	maxVisitors = 100_000
)

// keyThrottle tells those who have a right key from those who guess. Keys of the
// config don't come here.
type keyThrottle struct {
	mu      sync.Mutex
	began   time.Time            // of the period
	guesses map[netip.Prefix]int // in the period
	known   map[[sha256.Size]byte]struct{}
}

// mustWait is how long an address that has sent too many wrong keys must wait until
// a key that was not right before is looked at; 0 = it need not.
func (v *keyThrottle) mustWait(digest [sha256.Size]byte, from netip.Prefix, limit int, now time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.known[digest]; known || limit == 0 || now.Sub(v.began) >= guessPeriod {
		return 0
	}
	if v.guesses[v.place(from)] < limit {
		return 0
	}
	return guessPeriod - now.Sub(v.began)
}

// wrong counts a wrong key.
func (v *keyThrottle) wrong(digest [sha256.Size]byte, from netip.Prefix, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.known, digest) // it was revoked
	if v.guesses == nil || now.Sub(v.began) >= guessPeriod {
		v.began, v.guesses = now, make(map[netip.Prefix]int)
	}
	v.guesses[v.place(from)]++
}

// place is where the guesses of an address are counted: with more addresses than
// are told apart, all new ones together.
func (v *keyThrottle) place(from netip.Prefix) netip.Prefix {
	if _, told := v.guesses[from]; !told && len(v.guesses) >= maxVisitors {
		return netip.Prefix{}
	}
	return from
}

// right remembers a right key.
func (v *keyThrottle) right(digest [sha256.Size]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.known[digest]; known {
		return
	}
	if v.known == nil || len(v.known) >= maxVisitors {
		v.known = make(map[[sha256.Size]byte]struct{})
	}
	v.known[digest] = struct{}{}
}

// visitorAddress is what counts as one address: of one customer's IPv6 addresses, a
// /64, all.
func visitorAddress(text string) netip.Prefix {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
