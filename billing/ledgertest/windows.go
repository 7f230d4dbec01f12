package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

var windowTests = map[string]func(*testing.T, world){
	"each window has its limit":                       windowLimits,
	"the refusal names the window that lasts longest": windowNamed,
	"holds count in the windows":                      windowsHeld,
	"concurrent claims stay within a window":          windowConcurrently,
	"windows that have ended start at zero":           windowsRestart,
	"what comes late counts nowhere":                  windowsLate,
	"windows are exact":                               windowsExact,
}

func windowLimits(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	for span := billing.Daily; span <= billing.Monthly; span++ {
		var limits billing.Limits
		limits[span] = 100
		group := span.String()
		terms := subscribed(group, limits)
		full := billing.Refusal{Reason: billing.ReasonWindow, Span: span, Limit: 100, Left: 100}
		refused(t, l, full, req("a", 101, terms))
		r := used(group, now, 60)
		r.Group = group
		settle(t, l, r)
		full.Left, full.Until = 40, windows(now, 0)[span].End
		refused(t, l, full, req("a", 41, terms))
		hold(t, l, billing.PaidFromSubscription, req("a "+group, 40, terms))
		settle(t, l, &billing.Record{
			ID: "b " + group, Time: now, User: "alice", Group: group, Cost: 70, Billing: billing.PaidFromSubscription,
		})
		full.Left = -30
		refused(t, l, full, req("c", 1, terms))
		hold(t, l, billing.PaidFromSubscription, req("c "+group, 0, terms))
		hold(t, l, billing.PaidFromSubscription, req("d "+group, 1<<50, subscribed(group, billing.Limits{})))
	}
}

func windowNamed(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	settle(t, l, used("a", now, 90))
	end := windows(now, 0)
	for _, c := range []struct {
		limits billing.Limits
		want   billing.Span
		left   billing.USD
	}{
		{billing.Limits{100, 500, 500}, billing.Daily, 10},
		{billing.Limits{500, 100, 500}, billing.Weekly, 10},
		{billing.Limits{500, 500, 100}, billing.Monthly, 10},
		{billing.Limits{100, 90, 500}, billing.Weekly, 0},
		{billing.Limits{100, 90, 80}, billing.Monthly, -10},
		{billing.Limits{80, 500, 100}, billing.Monthly, 10},
	} {
		refused(t, l, billing.Refusal{
			Reason: billing.ReasonWindow, Span: c.want, Limit: c.limits[c.want], Left: c.left, Until: end[c.want].End,
		}, req("b", 11, subscribed("g", c.limits)))
	}
}

func windowsHeld(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"}, billing.User{Name: "bob"})
	terms := subscribed("g", billing.Limits{100, 1_000_000, 0})
	hold(t, l, billing.PaidFromSubscription, req("a", 70, terms))
	hold(t, l, billing.PaidFromSubscription, req("other group", 100, subscribed("h", billing.Limits{100, 0, 0})))
	hold(t, l, billing.PaidFromSubscription, req("other user", 100, terms, func(c *billing.HoldRequest) { c.User = "bob" }))
	held := billing.Refusal{Reason: billing.ReasonWindow, Span: billing.Daily, Limit: 100, Left: 100, Temporary: true}
	refused(t, l, held, req("b", 31, terms))
	refused(t, l, held, req("b", 9999, terms, least(31)))
	hold(t, l, billing.PaidFromSubscription, req("b", 30, terms))
	hold(t, l, billing.PaidFromSubscription, req("b", 30, terms)) // once
	refused(t, l, held, req("c", 1, terms))
	l.Release(t.Context(), "b")
	l.Release(t.Context(), "b")
	settle(t, l, used("a", now, 10))
	hold(t, l, billing.PaidFromSubscription, req("c", 9999, terms, least(90)))
	held.Left, held.Until = 90, windows(now, 0)[billing.Daily].End
	refused(t, l, held, req("d", 1, terms))
	// A window that others can't free is named before one that they can.
	refused(t, l, billing.Refusal{
		Reason: billing.ReasonWindow, Span: billing.Daily, Limit: 15, Left: 5, Until: held.Until,
	}, req("d", 10, subscribed("g", billing.Limits{15, 300, 300})))
}

func windowConcurrently(t *testing.T, w world) {
	now := w.clock.Now()
	const goroutines, each, amount, limit = 16, 30, 10, 1000
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	terms := subscribed("g", billing.Limits{0, limit, 0})
	var mu sync.Mutex
	paid := 0
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				c := req(fmt.Sprintf("%d-%d", g, i), amount, terms)
				_, err := l.Hold(context.Background(), c)
				var refusal *billing.Refusal
				switch {
				case errors.As(err, &refusal):
					if left := refusal.Left; left < 0 || left >= amount && !refusal.Temporary {
						t.Errorf("Hold: %+v", refusal)
					}
				case err != nil:
					t.Errorf("Hold: %v", err)
				case i%3 == 2:
					l.Release(context.Background(), c.ID)
				default:
					if err := l.Settle(context.Background(), used(c.ID, now, amount), nil); err != nil {
						t.Errorf("Settle: %v", err)
					}
					mu.Lock()
					paid += amount
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if paid > limit {
		t.Errorf("%d was used of %d", paid, limit)
	}
	wantUsed(t, l, "g", billing.Weekly, billing.USD(paid), windows(now, 0)[billing.Weekly].End)
	if rest := billing.USD(limit - paid); rest > 0 {
		hold(t, l, billing.PaidFromSubscription, req("the rest", rest, terms)) // nothing is held any more
	}
}

func windowsRestart(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	first := windows(now, 0)
	settle(t, l, used("a", now, 10))
	w.clock.PassUntil(t, first[billing.Daily].End.Add(-1))
	settle(t, l, used("b", w.clock.Now(), 5))
	next := first[billing.Daily].End.Add(30 * time.Hour) // a day without use between them
	w.clock.PassUntil(t, next)
	wantUsed(t, l, "g", billing.Daily, 0, time.Time{})
	wantUsed(t, l, "g", billing.Weekly, 15, first[billing.Weekly].End)
	settle(t, l, used("c", next, 7))
	wantUsed(t, l, "g", billing.Daily, 7, windows(next, 0)[billing.Daily].End)
	wantUsed(t, l, "g", billing.Weekly, 22, first[billing.Weekly].End)
	wantUsed(t, l, "g", billing.Monthly, 22, first[billing.Monthly].End)
	w.clock.PassUntil(t, first[billing.Monthly].End)
	settle(t, l, used("d", w.clock.Now(), 3))
	for span, window := range windows(w.clock.Now(), 0) {
		wantUsed(t, l, "g", billing.Span(span), 3, window.End)
	}
}

func windowsLate(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	settle(t, l, used("a", now, 10))
	w.clock.Pass(t, 24*time.Hour)
	next := w.clock.Now()
	settle(t, l, used("b", next, 5))
	settle(t, l, used("late", now.Add(time.Hour), 100)) // of the first day
	wantUsed(t, l, "g", billing.Daily, 5, windows(next, 0)[billing.Daily].End)
	wantUsed(t, l, "g", billing.Weekly, 115, windows(now, 0)[billing.Weekly].End)
	settle(t, l, used("before all", now.Add(-24*time.Hour), 1000))
	wantUsed(t, l, "g", billing.Monthly, 115, windows(now, 0)[billing.Monthly].End)
	if n := len(List(t, l, billing.RecordFilter{})); n != 4 {
		t.Errorf("%d records, want all 4", n)
	}
}

// windowsExact has amounts that a float64 would round.
func windowsExact(t *testing.T, w world) {
	now := w.clock.Now()
	const odd = 1<<53 + 1
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	for _, id := range []string{"a", "b", "c"} {
		settle(t, l, used(id, now, odd))
	}
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: windows(now, 3*odd)})
}

// wantUsed checks what is used of alice's window, and when that ends, zero for one
// that has not begun. It asks by a hold request that no window can meet.
func wantUsed(t *testing.T, l billing.Ledger, group string, span billing.Span, used billing.USD, end time.Time) {
	t.Helper()
	const limit = 1_000_000
	var limits billing.Limits
	limits[span] = limit
	refused(t, l, billing.Refusal{Reason: billing.ReasonWindow, Span: span, Limit: limit, Left: limit - used, Until: end},
		req("more than the limit", limit+1, subscribed(group, limits)))
}

// windows are those that began with a use at a time, by days in UTC.
func windows(when time.Time, used billing.USD) billing.Windows {
	ws := billing.WindowsFrom(when, time.UTC)
	for s := range ws {
		ws[s].Used = used
	}
	return ws
}
