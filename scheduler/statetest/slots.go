package statetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var slotTests = map[string]func(*bench){
	"order/priority first": func(b *bench) {
		c := places(2, "a", "b")
		c.Places[0].Priority = 2
		c.Places[1].Priority = 1
		b.grant("b", b.ask(c))
		b.grant("b", b.ask(c))
		b.grant("a", b.ask(c))
	},
	"order/then the lowest share in use": func(b *bench) {
		c := places(0, "a", "b")
		c.Places[0].Limit, c.Places[1].Limit = 2, 10
		b.grant("a", b.ask(c))
		for range 4 { // up to 4/10 < 1/2
			b.grant("b", b.ask(c))
		}
		b.grant("b", b.ask(c)) // 4/10 < 1/2
		b.grant("a", b.ask(c)) // 5/10 = 1/2, a is used less recently
	},
	"order/then the least recently used, never used first": func(b *bench) {
		c := places(5, "a", "b", "c")
		for _, place := range []string{"a", "b", "c", "a", "b", "c"} {
			b.release(b.grant(place, b.ask(c)))
		}
	},
	"order/of the unused, those that go first": func(b *bench) {
		c := places(5, "a", "b", "c")
		c.Places[1].UnusedFirst = true
		b.release(b.grant("b", b.ask(c)))
		b.release(b.grant("a", b.ask(c)))
		b.release(b.grant("c", b.ask(c)))
		b.release(b.grant("b", b.ask(c)))
	},
	"order/load ignored on demand": func(b *bench) {
		c := places(5, "a", "b")
		ignore := func(a *scheduler.Ask) { a.IgnoreLoad = true }
		b.grant("a", b.ask(c, ignore))
		b.grant("b", b.ask(c, ignore))
		b.grant("a", b.ask(c, ignore))
		b.grant("b", b.ask(c, ignore))
		b.release(b.grant("a", b.ask(c, ignore)))
		b.grant("b", b.ask(c, ignore))
		b.grant("a", b.ask(c)) // 2/5 against 3/5
	},
	"no limit is never full": func(b *bench) {
		c := places(0, "a")
		for range 50 {
			b.grant("a", b.ask(c))
		}
		b.load("a", 50, 0)
	},
	"excluded places don't serve": func(b *bench) {
		c := places(1, "a", "b")
		b.grant("b", b.ask(c, exclude("a")))
		b.want(scheduler.Answer{Kind: scheduler.Out}, b.ask(c, exclude("a", "b")))
		w := b.line(b.ask(c, exclude("a")))
		b.grant("a", b.ask(c))
		w.waits()
	},
	"full lines refuse": func(b *bench) {
		c := places(1, "a", "b")
		one := func(a *scheduler.Ask) { a.MaxWaiting = 1 }
		b.grant("a", b.ask(c))
		b.grant("b", b.ask(c))
		b.line(b.ask(c, one))
		b.line(b.ask(c, one))
		b.load("a", 1, 1)
		b.load("b", 1, 1)
		b.want(scheduler.Answer{Kind: scheduler.Full}, b.ask(c, one))
		b.want(scheduler.Answer{Kind: scheduler.Full}, b.ask(c, func(a *scheduler.Ask) { a.MaxWaiting = 0 }))
	},
	"releasing twice is releasing once": func(b *bench) {
		c := places(2, "a")
		first := b.grant("a", b.ask(c))
		b.grant("a", b.ask(c))
		b.release(first)
		b.release(first)
		b.release("never heard of")
		b.load("a", 1, 0)
	},
	"leases are released along": func(b *bench) {
		c := places(2, "a")
		first, second := b.grant("a", b.ask(c)), b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		_, done := b.s.ReleaseAlong(first, second)
		done(context.Background())
		w.granted("a")
		b.load("a", 1, 0)
	},
	"a lease id is used once": func(b *bench) {
		c := places(0, "a")
		a := b.ask(c)
		b.grant("a", a)
		if _, err := b.s.Acquire(context.Background(), a); err == nil {
			b.Fatal("a lease id in use was granted again")
		}
	},
	"a set without places is an error": func(b *bench) {
		if _, err := b.s.Acquire(context.Background(), b.ask(places(1))); err == nil {
			b.Fatal("no error")
		}
	},
	"a context that has ended gets nothing": func(b *bench) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("gone")
		cancel(cause)
		if _, err := b.s.Acquire(ctx, b.ask(places(1, "a"))); !errors.Is(err, cause) {
			b.Fatalf("got %v, want the cause", err)
		}
		b.load("a", 0, 0)
	},
	"leases expire": func(b *bench) {
		c := places(1, "a")
		lease := b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		b.Advance(ttl - time.Second)
		w.waits()
		b.Advance(time.Second)
		w.granted("a")
		b.release(lease) // is another's by now
		b.load("a", 1, 0)
		b.Advance(ttl)
		b.load("a", 0, 0)
	},
	"renewed leases live on": func(b *bench) {
		c := places(2, "a")
		kept, left := b.grant("a", b.ask(c)), b.grant("a", b.ask(c))
		for range 3 {
			b.Advance(ttl / 2)
			lost, err := b.s.Renew(context.Background(), []string{kept}, ttl)
			if err != nil || len(lost) > 0 {
				b.Fatalf("Renew: lost %v, %v", lost, err)
			}
		}
		b.load("a", 1, 0)
		lost, err := b.s.Renew(context.Background(), []string{left, kept, "never"}, ttl)
		slices.Sort(lost)
		if diff := cmp.Diff([]string{left, "never"}, lost); diff != "" || err != nil {
			b.Fatalf("lost (-want +got):\n%s%v", diff, err)
		}
		b.Advance(ttl)
		b.load("a", 0, 0)
	},
	"a renewal may shorten": func(b *bench) {
		lease := b.grant("a", b.ask(places(1, "a")))
		if _, err := b.s.Renew(context.Background(), []string{lease}, time.Second); err != nil {
			b.Fatal(err)
		}
		b.Advance(time.Second)
		b.load("a", 0, 0)
	},
	"last use is remembered": func(b *bench) {
		if load, _ := b.s.Load(context.Background(), "a"); !load.LastUsed.IsZero() {
			b.Fatalf("used at %v before it was", load.LastUsed)
		}
		before := time.Now()
		b.Advance(time.Second)
		b.release(b.grant("a", b.ask(places(1, "a"))))
		b.Advance(time.Minute)
		load, err := b.s.Load(context.Background(), "a")
		if since := load.LastUsed.Sub(before); err != nil || since < 500*time.Millisecond || since > 30*time.Second {
			b.Fatalf("last used %v after the start, %v; want about 1s", since, err)
		}
	},
	"the loads of many places": func(b *bench) {
		c := places(2, "a", "b")
		b.grant("a", b.ask(c))
		b.grant("b", b.ask(c))
		b.grant("a", b.ask(c))
		b.grant("b", b.ask(c))
		b.line(b.ask(c, exclude("b"))).waits()
		got, err := b.s.Loads(context.Background(), []string{"b", "unused", "a"})
		if err != nil || len(got) != 3 {
			b.Fatalf("%+v, %v", got, err)
		}
		for i, want := range []scheduler.Load{{InUse: 2}, {}, {InUse: 2, Waiting: 1}} {
			if got[i].InUse != want.InUse || got[i].Waiting != want.Waiting || got[i].LastUsed.IsZero() != (want.InUse == 0) {
				b.Errorf("place %d: %+v, want %+v", i, got[i], want)
			}
		}
		if none, err := b.s.Loads(context.Background(), nil); err != nil || len(none) != 0 {
			b.Errorf("of no places: %+v, %v", none, err)
		}
	},
	"closing ends the waits": func(b *bench) {
		c := places(1, "a")
		b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		w.waits()
		if err := b.s.Close(); err != nil {
			b.Fatal(err)
		}
		w.fails(scheduler.ErrClosed)
		if _, err := b.s.Acquire(context.Background(), b.ask(c)); err != scheduler.ErrClosed {
			b.Fatalf("got %v, want ErrClosed", err)
		}
	},
}
