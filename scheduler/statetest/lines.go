package statetest

import (
	"context"
	"errors"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var lineTests = map[string]func(*bench){
	"the first slot that any candidate frees serves the line": func(b *bench) {
		c := places(1, "a", "b", "c")
		leases := map[string]string{}
		for _, place := range []string{"a", "b", "c"} {
			leases[place] = b.grant(place, b.ask(c))
		}
		first, second := b.line(b.ask(c)), b.line(b.ask(c))
		b.release(leases["c"])
		first.granted("c")
		second.waits()
		b.release(leases["a"])
		second.granted("a")
		b.load("a", 1, 0)
		b.load("b", 1, 0)
		b.load("c", 1, 0)
	},
	"arrival decides for one user": func(b *bench) {
		c := places(1, "a", "b")
		x, y := b.grant("a", b.ask(c)), b.grant("b", b.ask(c))
		var line []*waiter
		for range 4 {
			line = append(line, b.line(b.ask(c, user("u"))))
		}
		for i, w := range line {
			line[min(i+1, 3)].waits()
			if i%2 == 0 {
				b.release(x)
				x = w.lease
				w.granted("a")
			} else {
				b.release(y)
				y = w.lease
				w.granted("b")
			}
		}
	},
	"users take turns": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		var many []*waiter
		for range 5 {
			many = append(many, b.line(b.ask(c, user("many"))))
		}
		few := b.line(b.ask(c, user("few")))
		few2 := b.line(b.ask(c, user("few")))
		for _, next := range []*waiter{many[0], few, many[1], few2, many[2], many[3], many[4]} {
			next.waits()
			b.release(held)
			next.granted("a")
			held = next.lease
		}
	},
	"a user who comes late is not owed the past": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		early := []*waiter{}
		for range 6 {
			early = append(early, b.line(b.ask(c, user("early"))))
		}
		for _, w := range early[:3] {
			b.release(held)
			w.granted("a")
			held = w.lease
		}
		late := []*waiter{b.line(b.ask(c, user("late"))), b.line(b.ask(c, user("late")))}
		for _, next := range []*waiter{late[0], early[3], late[1], early[4], early[5]} {
			b.release(held)
			next.granted("a")
			held = next.lease
		}
	},
	"users take turns over all models of a pool": func(b *bench) {
		one, two := places(1, "a", "b"), places(1, "a", "c")
		held := b.grant("a", b.ask(one))
		b.grant("b", b.ask(one))
		b.grant("c", b.ask(two))
		first := b.line(b.ask(one, user("many"), model("x")))
		second := b.line(b.ask(two, user("many"), model("y")))
		few := b.line(b.ask(two, user("few"), model("y")))
		for _, next := range []*waiter{first, few, second} {
			next.waits()
			b.release(held)
			next.granted("a")
			held = next.lease
		}
	},
	"asks that gave up are not held against a user": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		other := []*waiter{b.line(b.ask(c, user("other"))), b.line(b.ask(c, user("other")))}
		for range 5 {
			w := b.line(b.ask(c, user("restless")))
			w.cancel(nil)
			<-w.done
		}
		w := b.line(b.ask(c, user("restless")))
		for _, next := range []*waiter{other[0], w, other[1]} {
			b.release(held)
			next.granted("a")
			held = next.lease
		}
	},
	"nobody passes the line": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		b.release(held)
		if got := b.acquire(b.ask(c)); got.Kind != scheduler.Queued {
			b.Fatalf("passed the line: %+v", got)
		}
		w.granted("a")
	},
	"a slot that the line's first can't use serves the next": func(b *bench) {
		c := places(1, "a", "b")
		b.grant("a", b.ask(c))
		held := b.grant("b", b.ask(c))
		first := b.line(b.ask(c, exclude("b")))
		second := b.line(b.ask(c))
		b.release(held)
		second.granted("b")
		first.waits()
	},
	"a larger limit for later asks counts for them": func(b *bench) {
		b.grant("a", b.ask(places(1, "a")))
		b.grant("a", b.ask(places(2, "a")))
		if got := b.acquire(b.ask(places(2, "a"))); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v, want Queued", got)
		}
	},
	"who leaves the line gives the place back": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		first, second := b.line(b.ask(c)), b.line(b.ask(c))
		cause := errors.New("client gone")
		first.cancel(cause)
		first.fails(cause)
		b.load("a", 1, 1)
		b.release(held)
		second.granted("a")
	},
	"leaving at the moment of the grant gives the slot back": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		for range 50 {
			leaver, next := b.line(b.ask(c)), b.line(b.ask(c))
			go leaver.cancel(nil)
			b.release(held)
			<-leaver.done
			if leaver.err == nil {
				b.release(leaver.lease)
			}
			next.granted("a")
			held = next.lease
		}
	},
	"a place in line can be released": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		ask := b.ask(c)
		if got := b.acquire(ask); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v", got)
		}
		b.release(ask.Lease)
		b.load("a", 1, 0)
		b.release(held)
		b.load("a", 0, 0)
	},
	"an ask served before it is awaited": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		ask := b.ask(c)
		if got := b.acquire(ask); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v", got)
		}
		b.release(held)
		b.await(ask.Lease).granted("a")
	},
	"an ask that nobody awaits is dropped": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		if got := b.acquire(b.ask(c)); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v", got)
		}
		b.Advance(ttl / 2)
		if _, err := b.s.Renew(context.Background(), []string{held}, ttl); err != nil {
			b.Fatal(err)
		}
		b.load("a", 1, 1)
		b.Advance(ttl / 2)
		b.load("a", 1, 0)
	},
	"long waits outlive the TTL": func(b *bench) {
		c := places(1, "a")
		held := b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		for range 6 {
			b.Advance(ttl / 2)
			if _, err := b.s.Renew(context.Background(), []string{held}, ttl); err != nil {
				b.Fatal(err)
			}
		}
		w.waits()
		b.release(held)
		w.granted("a")
		b.Advance(ttl - time.Second)
		b.load("a", 1, 0)
	},
	"awaiting what is not in line is an error": func(b *bench) {
		held := b.grant("a", b.ask(places(1, "a")))
		for _, lease := range []string{held, "never"} {
			if _, err := b.s.Await(context.Background(), lease); err == nil {
				b.Fatalf("Await of %q: no error", lease)
			}
		}
	},
}
