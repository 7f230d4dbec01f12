package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var subscriptionTests = map[string]func(*testing.T, world){
	"a subscription that never was":                    neverSubscribed,
	"a subscription pays instead of the balance":       subscriptionPays,
	"a subscription is good until just before its end": subscriptionEnds,
	"windows go on after subscribing again":            subscribeAgain,
	"unsubscribing forgets the windows":                unsubscribe,
	"unlimited users keep to their subscription":       unlimitedSubscribed,
	"subscriptions are told apart":                     subscriptionsApart,
	"subscriptions are shown":                          subscriptionShown,
}

// ahead is a time that no clock has reached, a day of a leap year's February.
var ahead = time.Date(2196, 2, 29, 12, 0, 0, 0, time.UTC)

// subscribed makes a hold request one of a group that the config subscribes its user to.
func subscribed(group string, limits billing.Limits) func(*billing.HoldRequest) {
	return func(c *billing.HoldRequest) { c.Terms = &billing.Terms{Group: group, Limits: limits, Declared: true} }
}

// ofGroup makes a hold request one of a group that the ledger has to know of.
func ofGroup(group string, limits billing.Limits) func(*billing.HoldRequest) {
	return func(c *billing.HoldRequest) { c.Terms = &billing.Terms{Group: group, Limits: limits} }
}

// used is a record of group g that costs something, and would charge more.
func used(id string, when time.Time, cost billing.USD) *billing.Record {
	r := record(id, 2*cost)
	r.Time, r.Cost, r.Group, r.Billing = when, cost, "g", billing.PaidFromSubscription
	return r
}

func subscribe(t *testing.T, l billing.Ledger, user, group string, until time.Time) {
	t.Helper()
	if err := l.Subscribe(t.Context(), user, group, until); err != nil {
		t.Fatalf("Subscribe(%s, %s): %v", user, group, err)
	}
}

func wantSubscription(t *testing.T, l billing.Ledger, user string, want billing.Subscription) {
	t.Helper()
	got, err := l.Subscription(t.Context(), user, want.Group)
	if err != nil {
		t.Fatalf("Subscription(%s, %s): %v", user, want.Group, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Subscription(%s, %s) (-want +got):\n%s", user, want.Group, diff)
	}
}

func neverSubscribed(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	none := billing.Refusal{Reason: billing.ReasonSubscription}
	refused(t, l, none, req("a", 1, ofGroup("g", billing.Limits{billing.Daily: 100})))
	refused(t, l, none, req("a", 0, ofGroup("g", billing.Limits{}))) // not even for nothing
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g"})
	if err := l.Unsubscribe(t.Context(), "alice", "g"); !errors.Is(err, billing.ErrNotSubscribed) {
		t.Errorf("Unsubscribe: %v, want ErrNotSubscribed", err)
	}
	if err := l.Subscribe(t.Context(), "bob", "g", time.Time{}); !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("Subscribe a stranger: %v, want ErrUnknownUser", err)
	}
}

func subscriptionPays(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	limits := billing.Limits{billing.Daily: 100, billing.Weekly: 500}
	for i, terms := range []func(*billing.HoldRequest){subscribed("g", limits), ofGroup("g", limits)} {
		if i == 1 {
			subscribe(t, l, "alice", "g", time.Time{})
		}
		c := req(fmt.Sprint(i), 50, terms)
		hold(t, l, billing.PaidFromSubscription, c)
		wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
		settle(t, l, used(c.ID, now, 30))
		settle(t, l, used(c.ID, now, 30))
		wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
		wantUsed(t, l, "g", billing.Daily, billing.USD(30*(i+1)), windows(now, 0)[billing.Daily].End)
	}
	hold(t, l, billing.PaidFromBalance, req("c", 1000)) // and that is still there for other groups
}

func subscriptionEnds(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	end := w.clock.Now().Add(time.Hour)
	declare(t, l, billing.User{Name: "alice"})
	over := billing.Refusal{Reason: billing.ReasonExpired, Until: end}
	declared := func(until time.Time) func(*billing.HoldRequest) {
		return func(c *billing.HoldRequest) { c.Terms = &billing.Terms{Group: "g", Declared: true, Until: until} }
	}
	own := ofGroup("g", billing.Limits{})
	hold(t, l, billing.PaidFromSubscription, req("a", 1, declared(end)))
	subscribe(t, l, "alice", "g", end)
	hold(t, l, billing.PaidFromSubscription, req("d", 1, own))
	w.clock.PassUntil(t, end.Add(-time.Microsecond))
	hold(t, l, billing.PaidFromSubscription, req("just before", 1, own))
	w.clock.PassUntil(t, end)
	refused(t, l, over, req("b", 1, declared(end)))
	refused(t, l, over, req("e", 1, own))
	hold(t, l, billing.PaidFromSubscription, req("f", 1, declared(time.Time{}))) // the config's word counts
	w.clock.Pass(t, 400*24*time.Hour)
	refused(t, l, over, req("b", 0, declared(end)))
	refused(t, l, over, req("e", 0, own))
	hold(t, l, billing.PaidFromSubscription, req("c", 1, declared(ahead)))
	subscribe(t, l, "alice", "g", ahead)
	hold(t, l, billing.PaidFromSubscription, req("g", 1, own))
	refused(t, l, over, req("h", 1, declared(end))) // here as well
	subscribe(t, l, "alice", "g", time.Time{})
	hold(t, l, billing.PaidFromSubscription, req("i", 1, own))
}

func subscribeAgain(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	subscribe(t, l, "alice", "g", ahead)
	settle(t, l, used("a", now, 10))
	subscribe(t, l, "alice", "g", ahead.Add(48*time.Hour))
	want := billing.Subscription{Group: "g", Subscribed: true, Until: ahead.Add(48 * time.Hour), Windows: windows(now, 10)}
	wantSubscription(t, l, "alice", want)
	subscribe(t, l, "alice", "g", time.Time{})
	want.Until = time.Time{}
	wantSubscription(t, l, "alice", want)
	refused(t, l, billing.Refusal{
		Reason: billing.ReasonWindow, Limit: 10, Until: want.Windows[billing.Daily].End,
	}, req("b", 1, ofGroup("g", billing.Limits{10, 0, 0})))
}

func unsubscribe(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	terms := ofGroup("g", billing.Limits{100, 0, 0})
	subscribe(t, l, "alice", "g", ahead)
	settle(t, l, used("a", now, 60))
	hold(t, l, billing.PaidFromSubscription, req("b", 30, terms))
	if err := l.Unsubscribe(t.Context(), "alice", "g"); err != nil {
		t.Fatalf("Unsubscribe: %v", err)
	}
	if err := l.Unsubscribe(t.Context(), "alice", "g"); !errors.Is(err, billing.ErrNotSubscribed) {
		t.Errorf("Unsubscribe again: %v, want ErrNotSubscribed", err)
	}
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g"})
	refused(t, l, billing.Refusal{Reason: billing.ReasonSubscription}, req("c", 1, terms))
	settle(t, l, used("b", now, 25)) // was under way
	settle(t, l, used("a", now, 60)) // is settled already
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	subscribe(t, l, "alice", "g", ahead)
	wantSubscription(t, l, "alice",
		billing.Subscription{Group: "g", Subscribed: true, Until: ahead, Windows: windows(now, 25)})
	if n := len(List(t, l, billing.RecordFilter{})); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

func unlimitedSubscribed(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	refused(t, l, billing.Refusal{Reason: billing.ReasonSubscription}, req("a", 1, unlimited, ofGroup("g", billing.Limits{10, 0, 0})))
	refused(t, l, billing.Refusal{Reason: billing.ReasonWindow, Limit: 10, Left: 10},
		req("a", 11, unlimited, subscribed("g", billing.Limits{10, 0, 0})))
	hold(t, l, billing.PaidFromSubscription, req("a", 10, unlimited, subscribed("g", billing.Limits{10, 0, 0})))
}

// subscriptionsApart has users and groups whose names make the same text when
// they are put together.
func subscriptionsApart(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	pairs := [][2]string{
		{"a", "b:c"}, {"a:b", "c"}, {"a", "b}c"}, {"a}b", "c"}, {"a\x00b", "c"}, {"a", "b\x00c"}, {"a", "b c"}, {"a b", "c"},
		{"é", "*"}, {"*", "é"}, {"a", "windows"}, {"windows", "a"}, {"a", "c"},
	}
	for i, pair := range pairs {
		declare(t, l, billing.User{Name: pair[0]})
		subscribe(t, l, pair[0], pair[1], ahead.Add(time.Duration(i)*time.Second))
		settle(t, l, &billing.Record{
			ID: fmt.Sprint(i), Time: now, User: pair[0], Group: pair[1], Cost: billing.USD(i + 1), Billing: billing.PaidFromSubscription,
		})
	}
	for i, pair := range pairs {
		wantSubscription(t, l, pair[0], billing.Subscription{
			Group: pair[1], Subscribed: true, Until: ahead.Add(time.Duration(i) * time.Second), Windows: windows(now, billing.USD(i+1)),
		})
	}
}

func subscriptionShown(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	settle(t, l, used("a", now, 30)) // by the config's word alone
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: windows(now, 30)})
	if p := profile(t, l, "alice"); len(p.Subscriptions) != 0 {
		t.Errorf("the profile has %+v", p.Subscriptions)
	}
	ended := used("b", time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC), 40)
	ended.Group = "ended"
	settle(t, l, ended)
	wantSubscription(t, l, "alice", billing.Subscription{Group: "ended"})
	subscribe(t, l, "alice", "h", ahead)
	subscribe(t, l, "alice", "g", time.Time{})
	subscribe(t, l, "alice", "ended", time.Time{})
	want := []billing.Subscription{
		{Group: "ended", Subscribed: true},
		{Group: "g", Subscribed: true, Windows: windows(now, 30)},
		{Group: "h", Subscribed: true, Until: ahead},
	}
	if diff := cmp.Diff(want, profile(t, l, "alice").Subscriptions); diff != "" {
		t.Errorf("the profile's subscriptions (-want +got):\n%s", diff)
	}
	wantSubscription(t, l, "nobody", billing.Subscription{Group: "g"})
}
