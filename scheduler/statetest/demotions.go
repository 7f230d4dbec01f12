package statetest

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

func endpoint(e scheduler.Endpoint) func(*scheduler.Ask) {
	return func(a *scheduler.Ask) { a.Endpoint = e }
}
func fast(a *scheduler.Ask)     { a.Fast = true }
func question(a *scheduler.Ask) { a.Question = true }

var demotionTests = map[string]func(*bench){
	"who comes last comes after all others": func(b *bench) {
		c := places(2, "a", "b", "c")
		c.Places[0].Priority, c.Places[1].Priority, c.Places[2].Priority = 1, 2, 3
		b.demote("a", "m", time.Minute)
		b.wantHow(scheduler.Answer{Place: "b"}, b.ask(c))
		b.grant("b", b.ask(c))
		b.grant("c", b.ask(c))
		b.grant("c", b.ask(c))
		b.wantHow(scheduler.Answer{Place: "a", Last: true}, b.ask(c))
	},
	"of those that come last the one that is back first": func(b *bench) {
		c := places(1, "a", "b", "c")
		c.Places[0].Priority, c.Places[1].Priority, c.Places[2].Priority = 1, 2, 3
		b.demote("a", "m", 3*time.Minute)
		b.demote("b", "m", time.Minute)
		b.demote("c", "m", 2*time.Minute)
		for _, place := range []string{"b", "c", "a"} {
			b.wantHow(scheduler.Answer{Place: place, Last: true}, b.ask(c))
		}
	},
	"the later of two ends counts": func(b *bench) {
		c := places(0, "a", "b")
		b.demote("a", "m", time.Minute)
		b.demote("a", "", 3*time.Minute)
		b.demote("b", "m", 2*time.Minute)
		b.wantHow(scheduler.Answer{Place: "b", Last: true}, b.ask(c))
	},
	"last for what it names": func(b *bench) {
		c := places(0, "a", "b")
		c.Places[1].Priority = 1
		b.demote("a", "m", time.Minute)
		b.grant("b", b.ask(c))
		b.wantHow(scheduler.Answer{Place: "a"}, b.ask(c, model("n")))
		b.wantHow(scheduler.Answer{Place: "a"}, b.ask(c, fast))
		b.wantHow(scheduler.Answer{Place: "a"}, b.ask(c, endpoint(scheduler.CountTokens)))
		b.demote("a", "n", time.Minute, func(d *scheduler.Demotion) { d.AnySpeed = true })
		b.grant("b", b.ask(c, model("n")))
		b.grant("b", b.ask(c, model("n"), fast))
		b.grant("a", b.ask(c, model("n"), endpoint(scheduler.CountTokens)))
		b.demote("a", "n", time.Minute, func(d *scheduler.Demotion) { d.AnySpeed, d.Endpoint = true, scheduler.CountTokens })
		b.grant("b", b.ask(c, model("n"), endpoint(scheduler.CountTokens)))
		b.demote("a", "o", time.Minute, func(d *scheduler.Demotion) { d.Fast = true })
		b.grant("b", b.ask(c, model("o"), fast))
		b.grant("a", b.ask(c, model("o")))
		b.demote("a", "", time.Minute)
		b.grant("b", b.ask(c, model("p")))
		b.grant("b", b.ask(c, model("p"), fast, endpoint(scheduler.CountTokens)))
	},
	"last no longer than its time": func(b *bench) {
		c := places(0, "a", "b")
		c.Places[1].Priority = 1
		b.demote("a", "m", 10*time.Second)
		b.grant("b", b.ask(c))
		b.Advance(9 * time.Second)
		b.grant("b", b.ask(c))
		b.Advance(time.Second)
		b.wantHow(scheduler.Answer{Place: "a"}, b.ask(c))
	},
	"a session asks its own first all the same": func(b *bench) {
		c := places(0, "a", "b")
		b.grant("a", b.ask(c, session("s")))
		b.demote("a", "m", time.Minute)
		b.wantHow(scheduler.Answer{Place: "a", Own: true, Last: true}, b.ask(c, session("s")))
		b.wantHow(scheduler.Answer{Place: "b", Moved: true}, b.ask(c, session("s"), unstick))
	},
	"but not where no connection can be made": func(b *bench) {
		c := places(0, "a", "b")
		b.grant("a", b.ask(c, session("s")))
		b.demote("a", "", time.Minute)
		b.wantHow(scheduler.Answer{Place: "b", Moved: true}, b.ask(c, session("s")))
		b.demote("b", "", 2*time.Minute)
		b.wantHow(scheduler.Answer{Place: "a", Moved: true, Last: true}, b.ask(c, session("s")))
	},
	"its own, which it waited for": func(b *bench) {
		c := places(1, "a", "b")
		first := b.wantHow(scheduler.Answer{Place: "a"}, b.ask(c, session("s")))
		b.demote("a", "m", time.Minute)
		w := b.line(b.ask(c, session("s")))
		b.release(first)
		w.getsHow(scheduler.Answer{Place: "a", Own: true, Last: true})
	},
	"a place that comes last serves the line": func(b *bench) {
		c := places(1, "a", "b")
		first, _ := b.grant("a", b.ask(c)), b.grant("b", b.ask(c))
		b.demote("a", "m", time.Minute)
		w := b.line(b.ask(c))
		b.release(first)
		w.getsHow(scheduler.Answer{Place: "a", Last: true})
	},
	"a trial keeps others away for a while": func(b *bench) {
		c := places(5, "a")
		b.limit("a", "", time.Second)
		b.Advance(time.Second)
		b.wantHow(scheduler.Answer{Place: "a", Trial: true}, b.ask(c))
		w := b.line(b.ask(c))
		b.Advance(scheduler.TrialLasts - time.Second)
		w.waits()
		b.Advance(time.Second)
		w.getsHow(scheduler.Answer{Place: "a", Trial: true})
		b.load("a", 2, 0)
	},
	"a limited account that comes last as well": func(b *bench) {
		c := places(5, "a", "b")
		b.limit("a", "", time.Second)
		b.demote("a", "m", time.Minute)
		b.Advance(time.Second)
		b.wantHow(scheduler.Answer{Place: "b"}, b.ask(c))
		b.wantHow(scheduler.Answer{Place: "a", Last: true, Trial: true}, b.ask(places(5, "a")))
	},
	"out until the account in error is asked again": func(b *bench) {
		next := time.Now().Add(time.Minute).UTC().Truncate(time.Millisecond)
		b.change("a", func(st *scheduler.AccountState) { st.Error, st.ErrorNext = "401", next })
		b.limit("b", "", time.Hour)
		b.want(scheduler.Answer{Kind: scheduler.Out, Until: next}, b.ask(places(1, "a", "b")))
	},
	"a question goes to an account that is out": func(b *bench) {
		c := places(1, "a")
		b.change("a", func(st *scheduler.AccountState) { st.Error = "401" })
		b.want(scheduler.Answer{Kind: scheduler.Out}, b.ask(c))
		own := &scheduler.Candidates{Pool: "a", Places: c.Places}
		first := b.wantHow(scheduler.Answer{Place: "a"}, b.ask(own, question))
		w := b.line(b.ask(own, question))
		b.change("a", func(st *scheduler.AccountState) { st.Error = "402" })
		w.waits()
		b.release(first)
		w.getsHow(scheduler.Answer{Place: "a"})
		b.change("a", func(st *scheduler.AccountState) { st.Error, st.Pause = "", &scheduler.Pause{} })
		if got := b.acquire(b.ask(own, question)); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v, want Queued: the slot is in use", got)
		}
		_ = b.s.Release(context.Background(), w.lease)
	},
}
