package statetest

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// sticky is the answer to an ask that waits for one place alone.
func sticky(place string) scheduler.Answer {
	return scheduler.Answer{Kind: scheduler.Queued, Place: place, Sticky: true}
}

// moved is the answer to an ask whose session changed places.
func moved(place string) scheduler.Answer {
	return scheduler.Answer{Kind: scheduler.Granted, Place: place, Moved: true}
}

var sessionTests = map[string]func(*bench){
	"a session stays where it is": func(b *bench) {
		c := places(5, "a", "b", "c")
		b.release(b.grant("a", b.ask(c, session("s"))))
		b.grant("b", b.ask(c))
		for range 5 { // a is used most recently and is loaded more and more
			b.grant("a", b.ask(c, session("s")))
		}
		b.grant("c", b.ask(c, session("t")))
	},
	"a binding lives from its last use": func(b *bench) {
		c := places(0, "a", "b")
		b.release(b.grant("a", b.ask(c, session("s"))))
		for range 3 {
			b.Advance(bindTTL - time.Second)
			b.release(b.grant("a", b.ask(c, session("s"))))
		}
		b.Advance(bindTTL)
		b.release(b.grant("b", b.ask(c, session("s")))) // not "moved": forgotten
	},
	"a session moves when its place is out": func(b *bench) {
		c := places(1, "a", "b")
		b.release(b.grant("a", b.ask(c, session("s"))))
		b.limit("a", "", time.Hour)
		ask := b.ask(c, session("s"))
		b.want(moved("b"), ask)
		b.release(ask.Lease)
		b.change("a", (*scheduler.AccountState).Reset)
		b.release(b.grant("b", b.ask(c, session("s"))))
		ask = b.ask(c, session("s"), exclude("b"))
		b.want(moved("a"), ask)
	},
	"a session bound outside of the candidates moves": func(b *bench) {
		b.release(b.grant("a", b.ask(places(1, "a", "b"), session("s"))))
		b.want(moved("c"), b.ask(places(1, "c", "d"), session("s")))
	},
	"sticky asks wait for their place alone": func(b *bench) {
		c := places(1, "a", "b")
		first := b.grant("a", b.ask(c, session("s")))
		ask := b.ask(c, session("s"))
		b.want(sticky("a"), ask)
		w := b.await(ask.Lease)
		b.load("a", 1, 1)
		b.release(b.grant("b", b.ask(c)))
		w.waits()
		b.release(first)
		w.granted("a")
	},
	"few wait for one place": func(b *bench) {
		c := places(1, "a", "b")
		b.grant("a", b.ask(c, session("s")))
		for range 3 {
			b.want(sticky("a"), b.ask(c, session("s")))
		}
		b.want(moved("b"), b.ask(c, session("s")))
		b.load("a", 1, 3)
	},
	"unstick looks elsewhere": func(b *bench) {
		c := places(1, "a", "b")
		first := b.grant("a", b.ask(c, session("s")))
		b.want(moved("b"), b.ask(c, session("s"), unstick))
		w := b.line(b.ask(c, session("s"), unstick))
		b.release(first)
		w.gets(moved("a"))
	},
	"a sticky ask is out when its place is": func(b *bench) {
		c := places(1, "a", "b")
		b.grant("a", b.ask(c, session("s")))
		w := b.line(b.ask(c, session("s")))
		until := time.Now().Add(time.Hour)
		b.change("a", func(st *scheduler.AccountState) {
			st.Limits = []scheduler.Limit{{Claim: "5h", Until: until}}
		})
		w.gets(scheduler.Answer{Kind: scheduler.Out, Until: until})
		b.load("a", 1, 0)
	},
	"waiting asks bind when they are served": func(b *bench) {
		c := places(1, "a", "b")
		b.grant("a", b.ask(c))
		second := b.grant("b", b.ask(c))
		w := b.line(b.ask(c, session("s")))
		b.release(second)
		w.granted("b")
		b.release(w.lease)
		b.release(b.grant("b", b.ask(c, session("s"))))
	},
	"marks come with the session": func(b *bench) {
		c := places(0, "a")
		ctx := context.Background()
		if err := b.s.Mark(ctx, "s", scheduler.StripThinking, bindTTL); err != nil {
			b.Fatal(err)
		}
		b.grant("a", b.ask(c, session("t")))
		marked := scheduler.Answer{Kind: scheduler.Granted, Place: "a", Marks: scheduler.StripThinking}
		for range 3 {
			b.want(marked, b.ask(c, session("s")))
			b.Advance(bindTTL - time.Second)
		}
		b.Advance(time.Second)
		b.grant("a", b.ask(c, session("s")))
	},
	"marks of a binding that others share are one's own": func(b *bench) {
		c := places(1, "a", "b")
		ctx := context.Background()
		mine := func(a *scheduler.Ask) { a.Memory = "mine" }
		other := func(a *scheduler.Ask) { a.Memory = "other" }
		if err := b.s.Mark(ctx, "mine", scheduler.StripThinking, bindTTL); err != nil {
			b.Fatal(err)
		}
		marked := scheduler.Answer{Kind: scheduler.Granted, Place: "a", Marks: scheduler.StripThinking}
		for range 3 {
			ask := b.ask(c, session("s"), mine)
			b.want(marked, ask)
			w := b.line(b.ask(c, session("s"), mine))
			b.release(ask.Lease)
			w.gets(marked)
			b.release(w.lease)
			b.release(b.grant("a", b.ask(c, session("s"), other)))
			b.Advance(bindTTL - time.Second)
		}
		b.Advance(time.Second)
		b.release(b.grant("a", b.ask(places(1, "a"), session("t"), mine)))
	},
	"marks don't unbind": func(b *bench) {
		c := places(0, "a", "b")
		b.release(b.grant("a", b.ask(c, session("s"))))
		if err := b.s.Mark(context.Background(), "s", scheduler.StripThinking, bindTTL); err != nil {
			b.Fatal(err)
		}
		b.want(scheduler.Answer{Kind: scheduler.Granted, Place: "a", Marks: scheduler.StripThinking}, b.ask(c, session("s")))
	},
}
