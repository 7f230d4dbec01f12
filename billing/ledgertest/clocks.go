package ledgertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// clockTests are about clocks that somebody sets.
var clockTests = map[string]func(*testing.T, world){
	"holds come back after the end of a process":            holdsExpire,
	"a use counts when it was, however a clock is set":      countsByReading,
	"no use counts after now":                               countsNotAhead,
	"a clock that was ahead bars nobody":                    aheadAndBack,
	"a clock that was ahead at the start bars nobody":       aheadAtStart,
	"a clock that was ahead under load bars nobody":         aheadUnderLoad,
	"a window is moved once, and ends with its day":         movedOnce,
	"a clock that was behind counts again when it is right": behindAndBack,
}

// jumps are how far a clock is set ahead, or back.
var jumps = []time.Duration{time.Minute, 24 * time.Hour, 40 * 24 * time.Hour, 400 * 24 * time.Hour}

func holdsExpire(t *testing.T, w world) {
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	k := key("sk-alice", "alice", limits(1000, 0))
	addKey(t, l, k)
	terms := subscribed("g", billing.Limits{1000, 0, 0})
	hold(t, l, billing.PaidFromBalance, req("a", 600, withKey(k)))
	hold(t, l, billing.PaidFromSubscription, req("b", 300, withKey(k), terms))
	close1(t, l)
	w.clock.Pass(t, time.Minute)
	l = w.open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	hold(t, l, billing.PaidFromBalance, req("c", 1000, withKey(k)))
	hold(t, l, billing.PaidFromSubscription, req("d", 1000, terms))
}

// limitedAlice has a key and a subscription with a limit of 1000 in each window.
func limitedAlice(t *testing.T, l billing.Ledger) (billing.Key, func(*billing.HoldRequest)) {
	t.Helper()
	declare(t, l, billing.User{Name: "alice", Balance: 1_000_000})
	k := key("sk-alice", "alice", limits(1000, 1000))
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", time.Time{})
	return k, ofGroup("g", billing.Limits{1000, 1000, 1000})
}

// usedBoth is a record that counts in limitedAlice's key and her subscription.
func usedBoth(id string, k billing.Key, when time.Time, amount billing.USD) *billing.Record {
	r := used(id, when, amount)
	r.KeyID = k.ID
	return r
}

// wantBoth wants that much to be used of each of limitedAlice's windows, which began
// at a time.
func wantBoth(t *testing.T, l billing.Ledger, k billing.Key, began time.Time, used billing.USD) {
	t.Helper()
	want := windows(began, used)
	s, err := l.Subscription(t.Context(), "alice", "g")
	if err != nil || s.Windows != want {
		t.Errorf("the windows are %v, %v; want %v", s.Windows, err, want)
	}
	monthly := want[billing.Monthly]
	refused(t, l, billing.Refusal{
		Reason: billing.ReasonKeyLimit, Span: billing.Monthly, Limit: 1000, Left: 1000 - used, Until: monthly.End,
	}, req("more than the key's", 1001, withKey(k)))
	refused(t, l, billing.Refusal{
		Reason: billing.ReasonWindow, Span: billing.Monthly, Limit: 1000, Left: 1000 - used, Until: monthly.End,
	}, req("more than the group's", 1001, ofGroup("g", billing.Limits{1000, 1000, 1000})))
	if used < 1000 {
		rest := req("the rest", 1000-used, withKey(k), ofGroup("g", billing.Limits{1000, 1000, 1000}))
		hold(t, l, billing.PaidFromSubscription, rest)
		l.Release(t.Context(), rest.ID)
	}
}

// countsByReading has a request begin, and its clock be set before it is settled.
func countsByReading(t *testing.T, w world) {
	for i, jump := range jumps {
		for j, d := range []time.Duration{jump, -jump} {
			w := w.world(t, time.UTC)
			w.clock.PassUntil(t, epoch.AddDate(2, 0, 0))
			l := w.open(t)
			k, _ := limitedAlice(t, l)
			began := w.clock.Now()
			w.clock.Pass(t, 10*time.Minute)
			w.clock.Jump(t, d)
			settle(t, l, usedBoth(fmt.Sprint(i, j), k, began, 400))
			want := w.clock.Now().Add(-10 * time.Minute).Round(0)
			wantBoth(t, l, k, want, 400)
			keys, err := l.Keys(t.Context(), "alice")
			if err != nil || len(keys) != 1 || keys[0].LastUsed.Sub(want).Abs() > time.Millisecond {
				t.Errorf("Keys: %+v, %v; want one last used at %v", keys, err, want)
			}
			close1(t, l)
		}
	}
}

// countsNotAhead settles records whose times, of another clock, are still to come.
func countsNotAhead(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	k, _ := limitedAlice(t, l)
	for i, jump := range jumps {
		settle(t, l, usedBoth(fmt.Sprint(i), k, w.clock.Now().Round(0).Add(jump), 100))
	}
	wantBoth(t, l, k, w.clock.Now(), 400)
}

// aheadAndBack has a clock be ahead while a key and a subscription are used up, by
// which a day's whole limit is gone; and not a day more.
func aheadAndBack(t *testing.T, w world) {
	for i, jump := range jumps {
		for _, reopens := range []bool{false, true} {
			w := w.world(t, time.UTC)
			l := w.open(t)
			k, _ := limitedAlice(t, l)
			settle(t, l, usedBoth("before", k, w.clock.Now(), 1))
			w.clock.Jump(t, jump)
			settle(t, l, usedBoth("ahead", k, w.clock.Now(), 400))
			w.clock.Pass(t, time.Minute)
			w.clock.Jump(t, -jump)
			if reopens {
				close1(t, l)
				l = w.open(t)
			}
			settle(t, l, usedBoth("right again", k, w.clock.Now(), 100))
			for span, window := range mustSubscription(t, l).Windows {
				began := windows(epoch, 0)[span].Start
				if !window.Start.Equal(began) || window.Used < 500 || window.Used > 501 {
					t.Errorf("jump %d: the %v window is %v; want one from %v on, with 500 or 501 used", i, billing.Span(span), window, began)
				}
			}
			rest := req("rest", 499, withKey(k), ofGroup("g", billing.Limits{1000, 1000, 1000}))
			hold(t, l, billing.PaidFromSubscription, rest)
			l.Release(t.Context(), rest.ID)
			close1(t, l)
		}
	}
}

func mustSubscription(t *testing.T, l billing.Ledger) billing.Subscription {
	t.Helper()
	s, err := l.Subscription(t.Context(), "alice", "g")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// aheadAtStart opens the store for the first time with a clock that is ahead.
func aheadAtStart(t *testing.T, w world) {
	for _, jump := range jumps {
		w := w.world(t, time.UTC)
		w.clock.Jump(t, jump)
		l := w.open(t)
		k, _ := limitedAlice(t, l)
		settle(t, l, usedBoth("ahead", k, w.clock.Now(), 1000))
		wantBoth(t, l, k, w.clock.Now(), 1000)
		close1(t, l)
		w.clock.Jump(t, -jump)
		l = w.open(t)
		wantBoth(t, l, k, w.clock.Now(), 1000)
		close1(t, l)
	}
}

// movedOnce: a day that was moved is over with its day, also where the key is
// refused all the while, so that nothing is settled.
func movedOnce(t *testing.T, w world) {
	for _, reopens := range []bool{false, true} {
		w := w.world(t, time.UTC)
		l := w.open(t)
		declare(t, l, billing.User{Name: "alice", Balance: 1_000_000})
		k := key("sk-alice", "alice", limits(1000, 0))
		addKey(t, l, k)
		w.clock.Jump(t, 40*24*time.Hour)
		r := usedBoth("ahead", k, w.clock.Now(), 1000)
		settle(t, l, r)
		w.clock.Jump(t, -40*24*time.Hour)
		today := windows(w.clock.Now(), 0)[billing.Daily].End
		full := billing.Refusal{Reason: billing.ReasonKeyLimit, Limit: 1000, Until: today}
		refused(t, l, full, req("a", 1, withKey(k)))
		refusedOf := req("b", 1, subscribed("g", billing.Limits{1000, 0, 0}))
		refused(t, l, billing.Refusal{Reason: billing.ReasonWindow, Limit: 1000, Until: today}, refusedOf)
		if reopens {
			close1(t, l)
			l = w.open(t)
		}
		w.clock.PassUntil(t, today.Add(-1))
		refused(t, l, full, req("a", 1, withKey(k)))
		w.clock.Pass(t, 1)
		hold(t, l, billing.PaidFromBalance, req("a", 1000, withKey(k)))
		hold(t, l, billing.PaidFromSubscription, req("b", 1000, subscribed("g", billing.Limits{1000, 0, 0})))
		close1(t, l)
	}
}

// behindAndBack has a clock be behind for a while.
func behindAndBack(t *testing.T, w world) {
	for _, jump := range jumps[1:] {
		w := w.world(t, time.UTC)
		l := w.open(t)
		k, _ := limitedAlice(t, l)
		settle(t, l, usedBoth("before", k, w.clock.Now(), 300))
		w.clock.Jump(t, -jump)
		settle(t, l, usedBoth("behind", k, w.clock.Now(), 300))
		wantBoth(t, l, k, w.clock.Now(), 600)
		w.clock.Jump(t, jump)
		settle(t, l, usedBoth("right again", k, w.clock.Now(), 300))
		for span, window := range mustSubscription(t, l).Windows {
			if !window.Start.After(w.clock.Now()) && window.End.After(w.clock.Now()) && window.Used >= 300 && window.Used <= 900 {
				continue
			}
			t.Errorf("the %v window is %v", billing.Span(span), window)
		}
		close1(t, l)
	}
}

// aheadUnderLoad sets the clock ahead and back while requests are held and settled.
func aheadUnderLoad(t *testing.T, w world) {
	l := w.open(t)
	k, _ := limitedAlice(t, l)
	free := key("sk-free", "alice", limits(1<<40, 1<<40))
	addKey(t, l, free)
	var stop atomic.Bool
	var all sync.WaitGroup
	defer all.Wait() // also where nobody can set the clock
	defer stop.Store(true)
	for g := range 4 {
		all.Go(func() {
			for i := 0; i < 1000 && !stop.Load(); i++ {
				c := req(fmt.Sprint(g, " ", i), 1, withKey(free), subscribed("h", billing.Limits{1 << 40, 1 << 40, 1 << 40}))
				r := usedBoth(c.ID, free, w.clock.Now(), 1)
				r.Group = "h"
				if _, err := l.Hold(context.Background(), c); err != nil {
					t.Errorf("Hold: %v", err)
				}
				if err := l.Settle(context.Background(), r, nil); err != nil {
					t.Errorf("Settle: %v", err)
				}
			}
		})
	}
	for range 3 {
		for _, jump := range jumps {
			for _, d := range []time.Duration{jump, -jump, -jump, jump} {
				time.Sleep(time.Millisecond) // for the others to do something
				w.clock.Jump(t, d)
			}
		}
	}
	stop.Store(true)
	all.Wait()
	if w.clock.Now().Round(0) != epoch {
		t.Fatalf("the clock shows %v", w.clock.Now())
	}
	for range 2 {
		settle(t, l, usedBoth("last", k, w.clock.Now(), 100))
		wantBoth(t, l, k, w.clock.Now(), 100)
		s, err := l.Subscription(t.Context(), "alice", "h")
		if err != nil {
			t.Fatal(err)
		}
		for span, window := range s.Windows {
			if window.Start.After(w.clock.Now()) {
				t.Errorf("the %v window is %v, which is to come", billing.Span(span), window)
			}
		}
		close1(t, l)
		l = w.open(t)
	}
	close1(t, l)
}
