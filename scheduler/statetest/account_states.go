package statetest

import (
	"context"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var accountStateTests = map[string]func(*bench){
	"account states are kept": func(b *bench) {
		if got := b.s.AccountState("a"); !got.Clear(time.Now()) {
			b.Fatalf("never seen, and yet %+v", got)
		}
		want := scheduler.AccountState{
			Error: "because", ErrorSince: time.Unix(3e8, 0).UTC(), ErrorNext: time.Unix(4e8, 0).UTC(), ErrorTimes: 2, ByRefresh: true,
			Asked: time.Unix(5e8, 0).UTC(), Served: "claude-x", Credential: "fingerprint",
			Pause:  &scheduler.Pause{By: "somebody", At: time.Unix(6e8, 0).UTC()},
			Limits: []scheduler.Limit{{Claim: "7d_opus", Family: "opus", Fast: true, Since: time.Unix(9e8, 0).UTC(), Until: time.Unix(1e9, 0).UTC(), Reason: "r"}},
			Demotions: []scheduler.Demotion{{
				Model: "m", Endpoint: scheduler.CountTokens, AnySpeed: true, Fast: true,
				Since: time.Unix(2e9, 0).UTC(), Until: time.Unix(21e8, 0).UTC(), Times: 3, Answer: "529 overloaded_error", Reason: "why",
			}},
			Windows: []scheduler.Window{{Name: "5h", Start: time.Unix(1, 0).UTC(), End: time.Unix(2, 0).UTC(), Status: "allowed", Utilization: 0.25}},
		}
		got, err := b.s.Change(context.Background(), "a", func(st *scheduler.AccountState) { *st = want.Clone() })
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			b.Fatalf("Change (-want +got):\n%s%v", diff, err)
		}
		b.Advance(time.Second)
		if diff := cmp.Diff(want, b.s.AccountState("a")); diff != "" {
			b.Fatalf("AccountState (-want +got):\n%s", diff)
		}
		b.change("a", func(st *scheduler.AccountState) {
			if diff := cmp.Diff(want, *st); diff != "" {
				b.Errorf("Change sees (-want +got):\n%s", diff)
			}
			st.Limits[0].Reason = "changed"
		})
		if want.Limits[0].Reason != "r" || got.Limits[0].Reason != "r" {
			b.Error("a change reached into what was returned before")
		}
	},
	"places that are out don't serve": func(b *bench) {
		c := places(1, "a", "b")
		b.change("a", func(st *scheduler.AccountState) { st.Error = "401" })
		b.grant("b", b.ask(c))
		if got := b.acquire(b.ask(c)); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v, want Queued at b", got)
		}
		b.load("b", 1, 1)
	},
	"out until the soonest is back": func(b *bench) {
		c := places(1, "a", "b", "c")
		soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		for place, until := range map[string]time.Time{"a": soon.Add(time.Minute), "b": soon} {
			b.change(place, func(st *scheduler.AccountState) {
				st.Limits = []scheduler.Limit{{Claim: "5h", Until: until}}
			})
		}
		b.change("c", func(st *scheduler.AccountState) { st.Error = "401" })
		b.want(scheduler.Answer{Kind: scheduler.Out, Until: soon}, b.ask(c))
		b.want(scheduler.Answer{Kind: scheduler.Out, Until: soon.Add(time.Minute)}, b.ask(c, exclude("b")))
		b.want(scheduler.Answer{Kind: scheduler.Out}, b.ask(c, exclude("a", "b")))
	},
	"a family's limit is the family's": func(b *bench) {
		c := places(0, "a", "b")
		b.limit("a", "x", time.Hour)
		b.grant("b", b.ask(c, model("x")))
		b.grant("b", b.ask(c, model("x")))
		b.grant("a", b.ask(c, model("y")))
	},
	"who has no usable candidate left is out": func(b *bench) {
		c := places(1, "a", "b")
		b.grant("a", b.ask(c))
		b.grant("b", b.ask(c))
		x, y, onlyA := b.line(b.ask(c, model("x"))), b.line(b.ask(c, model("y"))), b.line(b.ask(c, exclude("b")))
		until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		limit := func(family string) func(st *scheduler.AccountState) {
			return func(st *scheduler.AccountState) {
				st.Limits = []scheduler.Limit{{Claim: "5h", Family: family, Until: until}}
			}
		}
		b.change("a", limit(""))
		onlyA.gets(scheduler.Answer{Kind: scheduler.Out, Until: until})
		x.waits()
		b.change("b", limit("x"))
		x.gets(scheduler.Answer{Kind: scheduler.Out, Until: until})
		y.waits()
		b.change("b", func(st *scheduler.AccountState) { st.Error = "401" })
		y.gets(scheduler.Answer{Kind: scheduler.Out, Until: until})
		b.load("a", 1, 0)
		b.load("b", 1, 0)
	},
	"an ask that is out before it is awaited": func(b *bench) {
		c := places(1, "a")
		b.grant("a", b.ask(c))
		ask := b.ask(c)
		if got := b.acquire(ask); got.Kind != scheduler.Queued {
			b.Fatalf("got %+v", got)
		}
		b.change("a", func(st *scheduler.AccountState) { st.Error = "401" })
		b.await(ask.Lease).gets(scheduler.Answer{Kind: scheduler.Out})
		b.load("a", 1, 0)
	},
	"a place that is back serves the line": func(b *bench) {
		c := places(1, "a", "b")
		b.change("a", func(st *scheduler.AccountState) { st.Error = "401" })
		b.grant("b", b.ask(c))
		w := b.line(b.ask(c))
		w.waits()
		b.change("a", (*scheduler.AccountState).Reset)
		w.granted("a")
	},
	"a place whose limit passes serves the line": func(b *bench) {
		c := places(1, "a", "b")
		b.limit("a", "", 10*time.Second)
		b.grant("b", b.ask(c))
		w := b.line(b.ask(c))
		b.Advance(8 * time.Second)
		w.waits()
		b.Advance(2 * time.Second)
		w.granted("a")
	},
	"a paused place is left by its line": func(b *bench) {
		c := places(1, "a", "b")
		running := b.grant("a", b.ask(c, session("s")))
		other := b.grant("b", b.ask(c))
		own, any, onlyA := b.line(b.ask(c, session("s"))), b.line(b.ask(c)), b.line(b.ask(c, exclude("b")))
		b.change("a", func(st *scheduler.AccountState) { st.Pause = &scheduler.Pause{By: "ann"} })
		own.gets(scheduler.Answer{Kind: scheduler.Out}) // of the one that it waited for
		onlyA.gets(scheduler.Answer{Kind: scheduler.Out})
		any.waits()
		b.load("a", 1, 0) // who holds a slot keeps it
		if lost, err := b.s.Renew(context.Background(), []string{running}, ttl); err != nil || len(lost) > 0 {
			b.Fatalf("a request in flight lost its slot: %v, %v", lost, err)
		}
		b.release(running)
		any.waits()
		b.release(other)
		any.granted("b")
		b.want(scheduler.Answer{Kind: scheduler.Out}, b.ask(places(1, "a")))
		if got := b.acquire(b.ask(c, session("s"))); got.Kind != scheduler.Queued || got.Sticky {
			b.Fatalf("the session of a paused place: %+v, want Queued at b", got)
		}
	},
	"a place whose pause ends serves the line": func(b *bench) {
		c := places(1, "a", "b")
		b.change("a", func(st *scheduler.AccountState) { st.Pause = &scheduler.Pause{By: "ann"} })
		b.grant("b", b.ask(c))
		w := b.line(b.ask(c))
		w.waits()
		b.change("a", func(st *scheduler.AccountState) { st.Pause = nil })
		w.granted("a")
	},
	"a pause outlasts a reset": func(b *bench) {
		c := places(1, "a")
		b.change("a", func(st *scheduler.AccountState) { st.Error, st.Pause = "401", &scheduler.Pause{By: "ann"} })
		b.change("a", (*scheduler.AccountState).Reset)
		b.want(scheduler.Answer{Kind: scheduler.Out}, b.ask(c))
		b.change("a", func(st *scheduler.AccountState) { st.Pause = nil })
		b.grant("a", b.ask(c))
	},
	"on trial one request goes first": func(b *bench) {
		c := places(5, "a")
		running := b.grant("a", b.ask(c)) // from before the limit: no probe
		b.limit("a", "", 10*time.Second)
		b.Advance(10 * time.Second)
		probe := b.grant("a", b.ask(c))
		w, gone := b.line(b.ask(c)), b.line(b.ask(c))
		b.release(running)
		w.waits()
		b.release(probe) // without a verdict: the next one tries
		w.granted("a")
		gone.waits()
		b.load("a", 1, 1)
		b.change("a", (*scheduler.AccountState).Reset) // it went well
		gone.granted("a")
		b.grant("a", b.ask(c))
	},
	"a trial that is over blocks no later one": func(b *bench) {
		c := places(5, "a")
		b.limit("a", "", time.Second)
		b.Advance(time.Second)
		b.grant("a", b.ask(c)) // the probe, a long stream
		b.change("a", (*scheduler.AccountState).Reset)
		b.limit("a", "", time.Second)
		b.Advance(time.Second)
		second := b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		w.waits()
		b.release(second)
		w.granted("a")
	},
	"a trial of one family holds up no other": func(b *bench) {
		c := places(5, "a")
		b.limit("a", "x", time.Second)
		b.Advance(time.Second)
		b.grant("a", b.ask(c, model("x")))
		b.grant("a", b.ask(c, model("y")))
		w := b.line(b.ask(c, model("x")))
		w.waits()
		b.grant("a", b.ask(c, model("y")))
	},
	"a trial that fails sends the line away": func(b *bench) {
		c := places(5, "a")
		b.limit("a", "", time.Second)
		b.Advance(time.Second)
		b.grant("a", b.ask(c))
		w := b.line(b.ask(c))
		until := time.Now().Add(time.Minute).UTC()
		b.change("a", func(st *scheduler.AccountState) { st.Limits[0].Until = until })
		w.gets(scheduler.Answer{Kind: scheduler.Out, Until: until})
	},
}
