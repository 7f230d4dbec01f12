package redisstate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// remember returns what brings a server back to what it has now.
func remember(t *testing.T, server *miniredis.Miniredis) (rewind func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var again []func()
	for _, key := range server.Keys() {
		switch kind := server.DB(0).Type(key); kind {
		case "string":
			text, err := server.Get(key)
			must(err)
			again = append(again, func() { must(server.Set(key, text)) })
		case "hash":
			fields, err := server.HKeys(key)
			must(err)
			for _, field := range fields {
				text := server.HGet(key, field)
				again = append(again, func() { server.HSet(key, field, text) })
			}
		case "set":
			members, err := server.Members(key)
			must(err)
			again = append(again, func() { _, err := server.SAdd(key, members...); must(err) })
		case "zset":
			scores, err := server.SortedSet(key)
			must(err)
			for member, score := range scores {
				again = append(again, func() { _, err := server.ZAdd(key, score, member); must(err) })
			}
		default:
			t.Fatalf("%s is a %s", key, kind)
		}
	}
	return func() {
		server.FlushAll()
		for _, f := range again {
			f()
		}
	}
}

// along releases leases in the round trip of something else.
func (n *node) along(leases ...string) {
	n.t.Helper()
	batch, done := n.ReleaseAlong(leases...)
	err := n.link.Exec(n.t.Context(), redislink.Guard{}, batch, func(pipe redis.Pipeliner) { pipe.Ping(n.t.Context()) })
	if err != nil {
		n.t.Fatal(err)
	}
	done(n.t.Context())
}

// TestSlotsGivenBackToARedisThatGoesBackInTime are free soon after, and not only when
// they expire.
func TestSlotsGivenBackToARedisThatGoesBackInTime(t *testing.T) {
	for name, test := range map[string]struct {
		serves bool
		down   time.Duration // 0: nobody notices that the server is another
	}{
		"unnoticed":                   {true, 0},
		"after an outage":             {true, 4 * time.Second},
		"after a long one":            {true, 30 * time.Second},
		"after one that was refused":  {false, 4 * time.Second},
		"unnoticed, without fallback": {false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := startMini(t)
				a, b := startNode(t, server, test.serves), startNode(t, server, test.serves)
				c := places(4, "x")
				kept, first, second, third := a.grant("x", ask(c)), a.grant("x", ask(c)), a.grant("x", ask(c)), b.grant("x", ask(c))
				w, impatient := a.line(ask(c)), a.line(ask(c))
				time.Sleep(2 * time.Second)
				rewind := remember(t, server)

				a.release(first)
				<-w.done // served
				impatient.cancel()
				<-impatient.done
				a.along(second, w.lease)
				b.release(third)
				later := b.grant("x", ask(c))
				time.Sleep(time.Second)
				if test.down > 0 {
					a.cut()
					b.cut()
					a.renew(kept)
					b.renew(later)
				}
				rewind()
				time.Sleep(test.down)
				a.mend()
				b.mend()
				time.Sleep(3 * time.Second)
				b.inUse("x", 2)
				if lost := append(a.renew(kept), b.renew(later)...); len(lost) > 0 {
					t.Errorf("lost %v", lost)
				}
				one, two := a.grant("x", ask(c)), b.grant("x", ask(c))
				if got := a.acquire(ask(c)); got.Kind != scheduler.Queued {
					t.Errorf("%+v", got)
				}
				a.release(kept, one)
				b.release(later, two)
				time.Sleep(2 * time.Minute) // nobody awaits the last
				b.inUse("x", 0)
			})
		})
	}
}
