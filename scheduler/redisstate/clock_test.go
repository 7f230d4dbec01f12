package redisstate_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// clocks are by how much the nodes' clocks may be wrong, or Redis's is.
var clocks = map[string]time.Duration{
	"a minute ahead": time.Minute, "a minute behind": -time.Minute,
	"a day ahead": 24 * time.Hour, "a day behind": -24 * time.Hour,
	"40 days ahead": 40 * 24 * time.Hour, "40 days behind": -40 * 24 * time.Hour,
	"400 days ahead": 400 * 24 * time.Hour, "400 days behind": -400 * 24 * time.Hour,
}

// wrongClock is a server whose clock, which counts, is not that of this process.
type wrongClock struct {
	*miniredis.Miniredis
	wrong time.Duration
}

func (w *wrongClock) now() time.Time { return time.Now().Add(-w.wrong) }

// pass lets time pass, for all.
func (w *wrongClock) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(50*time.Millisecond, time.Until(end)))
		w.SetTime(w.now())
	}
	synctest.Wait()
}

// withWrongClocks runs a test with two nodes whose clocks are wrong, however much.
func withWrongClocks(t *testing.T, test func(t *testing.T, server *wrongClock, a, b *node)) {
	for name, wrong := range clocks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &wrongClock{startMini(t), wrong}
				server.SetTime(server.now())
				a, b := startNode(t, server.Miniredis, true), startNode(t, server.Miniredis, true)
				server.pass(time.Second)
				test(t, server, a, b)
			})
		})
	}
}

func schedulerOver(t *testing.T, n *node) *scheduler.Scheduler {
	t.Helper()
	settings := scheduler.Settings{
		Accounts:          []*upstream.Account{{Name: "x", Platform: upstream.Anthropic, Concurrency: 2}},
		StickyTTL:         time.Hour,
		RateLimitCooldown: 5 * time.Minute, OverloadCooldown: time.Minute, ErrorRetry: 10 * time.Minute,
	}
	s, err := scheduler.New(settings, scheduler.NewLeases(n, quiet), quiet)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAccountsAreOutByTheStoresClock: what a node with a wrong clock finds of an
// account lasts as long for all as if its clock was right.
func TestAccountsAreOutByTheStoresClock(t *testing.T) {
	withWrongClocks(t, func(t *testing.T, server *wrongClock, a, b *node) {
		finds, asks := schedulerOver(t, a), schedulerOver(t, b)
		sent := time.Now()
		server.pass(100 * time.Millisecond)
		if _, err := finds.Report(t.Context(), "x", scheduler.Outcome{
			Kind: scheduler.Limited, Status: 429, Sent: sent, RetryAfter: 5 * time.Minute,
			Windows: []scheduler.WindowReport{{Name: "5h", Status: "rejected", Utilization: -1}},
		}); err != nil {
			t.Fatal(err)
		}
		found := server.now()
		pick := func() error {
			lease, err := asks.Pick(t.Context(), scheduler.Demand{Request: "r", User: "u", Model: "m"})
			lease.Release()
			return err
		}
		var out *scheduler.OutError
		if err := pick(); !errors.As(err, &out) || out.Until.Sub(found.Add(5*time.Minute)).Abs() > 200*time.Millisecond {
			t.Fatalf("the other node: %v, want out until %v", err, found.Add(5*time.Minute))
		}
		server.pass(4*time.Minute + 50*time.Second)
		if err := pick(); !errors.As(err, &out) {
			t.Errorf("10 s before the end: %v", err)
		}
		server.pass(20 * time.Second)
		lease, err := asks.Pick(t.Context(), scheduler.Demand{Request: "r", User: "u", Model: "m"})
		if err != nil || !lease.Trial {
			t.Fatalf("10 s after the end: %+v, %v", lease, err)
		}
		lease.Release()
		sent = time.Now()
		server.pass(time.Second)
		if changed, err := finds.Report(t.Context(), "x", scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: "m", Sent: sent}); err != nil || !changed {
			t.Errorf("a success changes: %t, %v", changed, err)
		}
		server.pass(time.Second)
		if st := b.AccountState("account/x"); !st.Clear(b.Now()) {
			t.Errorf("the success of a request that began after the limit is not counted: %+v", st)
		}
	})
}

// TestSlotsAreHeldByTheStoresClock, for as long as they are renewed, and no longer.
func TestSlotsAreHeldByTheStoresClock(t *testing.T) {
	withWrongClocks(t, func(t *testing.T, server *wrongClock, a, b *node) {
		c := places(1, "x")
		held := a.grant("x", ask(c, session("s")))
		w := b.line(ask(c))
		for range 10 {
			server.pass(20 * time.Second)
			if lost := a.renew(held); len(lost) > 0 {
				t.Fatalf("lost %v", lost)
			}
		}
		select {
		case <-w.done:
			t.Fatalf("a slot that was held is given away: %+v, %v", w.answer, w.err)
		default:
		}
		server.pass(61 * time.Second) // it is renewed no more
		<-w.done
		if w.err != nil || w.answer.Kind != scheduler.Granted || w.after < 4*time.Minute {
			t.Errorf("%+v, %v after %v", w.answer, w.err, w.after)
		}
	})
}

// TestWhatWasLearntByAWrongClock while Redis could not be asked for the time hurts
// nobody for longer than its own kind.
func TestWhatWasLearntByAWrongClock(t *testing.T) {
	withWrongClocks(t, func(t *testing.T, server *wrongClock, a, b *node) {
		asks := schedulerOver(t, b)
		if _, err := asks.Report(t.Context(), "x", scheduler.Outcome{Kind: scheduler.Failed, Status: 529, Model: "other", Sent: time.Now()}); err != nil {
			t.Fatal(err)
		}
		fresh := startNode(t, server.Miniredis, true)
		fresh.cut() // before it has heard anything
		a.cut()
		limit := scheduler.Outcome{
			Kind: scheduler.Limited, Status: 429, Sent: time.Now(), RetryAfter: 5 * time.Minute,
			Windows: []scheduler.WindowReport{{Name: "5h", Status: "rejected", Utilization: -1}},
		}
		for _, n := range []*node{a, fresh} {
			if _, err := schedulerOver(t, n).Report(context.Background(), "x", limit); err != nil {
				t.Fatal(err)
			}
			n.mend()
			server.pass(3 * time.Second)
			st := b.AccountState("account/x")
			until := st.NextChange(b.Now())
			most := 5 * time.Minute
			if n == fresh { // what it took for the time may be wrong by as much
				most += min(max(0, server.wrong), 32*24*time.Hour)
			}
			if left := until.Sub(b.Now()); left > most {
				t.Errorf("it is out for %v", left)
			}
		}
	})
}
