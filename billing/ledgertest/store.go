package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var storeTests = map[string]func(*testing.T, world){
	"a closed ledger says so":                    closed,
	"everything survives reopening":              reopened,
	"once is once over reopening at any moment":  onceReopened,
	"any history goes as that of a plain ledger": anyHistory,
}

func closed(t *testing.T, w world) {
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	k := key("sk-alice", "alice")
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", ahead)
	wantLogin(t, l, k)
	hold(t, l, billing.PaidFromBalance, req("a", 1))
	close1(t, l)
	ctx := t.Context()
	l.Release(ctx, "a")
	_, holdErr := l.Hold(ctx, req("b", 1))
	_, balanceErr := l.Balance(ctx, "alice")
	_, subscriptionErr := l.Subscription(ctx, "alice", "g")
	_, userErr := l.User(ctx, "alice")
	_, usersErr := l.Users(ctx)
	_, _, creditErr := l.Credit(ctx, "alice", billing.Credit{ID: "a", Amount: 1, Time: epoch})
	_, keysErr := l.Keys(ctx, "")
	_, _, loginErr := l.Login(ctx, k.Digest)
	_, recordErr := l.Record(ctx, "a")
	_, pruneErr := l.Prune(ctx, epoch)
	for what, err := range map[string]error{
		"Hold": holdErr, "Balance": balanceErr, "Subscription": subscriptionErr, "User": userErr, "Users": usersErr,
		"Credit": creditErr, "Keys": keysErr, "Login": loginErr, "Record": recordErr, "Prune": pruneErr,
		"Settle":      l.Settle(ctx, record("a", 1), nil),
		"Declare":     l.Declare(ctx, []billing.User{{Name: "bob"}}),
		"AddUser":     l.AddUser(ctx, billing.User{Name: "carol"}),
		"ChangeUser":  l.ChangeUser(ctx, "alice", billing.UserChange{}),
		"RemoveUser":  l.RemoveUser(ctx, "alice"),
		"AddKey":      l.AddKey(ctx, key("sk-other", "alice")),
		"RevokeKey":   l.RevokeKey(ctx, k.ID),
		"Subscribe":   l.Subscribe(ctx, "alice", "h", ahead),
		"Unsubscribe": l.Unsubscribe(ctx, "alice", "g"),
		"Records":     l.Records(ctx, billing.RecordFilter{}, func(*billing.Record) bool { return true }),
		"Usage":       l.Usage(ctx, billing.RecordFilter{}, nil, func(*billing.UsageRow) bool { return true }),
		"Close":       l.Close(),
	} {
		if !errors.Is(err, billing.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	l = w.open(t)
	defer close1(t, l)
	wantUsers(t, l, "alice")
	wantKeys(t, l, "", k)
}

func reopened(t *testing.T, w world) {
	now := w.clock.Now().Truncate(time.Second)
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "unlimited", Unlimited: true})
	add(t, l, billing.User{Name: "bob", Balance: 500, Concurrency: 4}, billing.User{Name: "gone", Balance: 9})
	alices, bobs, gones := key("sk-alice", "alice", limits(100, 200)), key("sk-bob", "bob"), key("sk-gone", "gone")
	bobs.Created, gones.Created = alices.Created.Add(time.Second), alices.Created.Add(2*time.Second)
	revoked := key("sk-revoked", "alice")
	addKey(t, l, alices, bobs, gones, revoked)
	revoke(t, l, revoked)
	subscribe(t, l, "alice", "g", ahead)
	subscribe(t, l, "bob", "g", ahead)
	subscribe(t, l, "bob", "h", time.Time{})
	if err := l.Unsubscribe(t.Context(), "bob", "g"); err != nil {
		t.Fatal(err)
	}
	settle(t, l, spent("a", alices, now, 70))
	settle(t, l, used("b", now, 40))
	credit(t, l, "bob", "c", 5, 505)
	yes := true
	if err := l.ChangeUser(t.Context(), "bob", billing.UserChange{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	remove(t, l, "gone")
	alices.LastUsed = now
	for range 3 {
		wantUsers(t, l, "alice", "bob", "unlimited")
		wantProfile(t, l, billing.Profile{
			Name: "alice", Source: billing.SourceConfig, Balance: billing.Balance{Amount: 930},
			Subscriptions: []billing.Subscription{{Group: "g", Subscribed: true, Until: ahead, Windows: windows(now, 40)}},
		})
		wantProfile(t, l, billing.Profile{
			Name: "bob", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 505}, Concurrency: 4, Disabled: true,
			Subscriptions: []billing.Subscription{{Group: "h", Subscribed: true}},
		})
		wantProfile(t, l, billing.Profile{Name: "unlimited", Source: billing.SourceConfig})
		wantKeys(t, l, "", alices, bobs)
		wantLogin(t, l, alices)
		wantNoLogin(t, l, revoked)
		wantNoLogin(t, l, gones)
		wantStranger(t, l, "gone")
		refused(t, l, billing.Refusal{
			Reason: billing.ReasonKeyLimit, Limit: 100, Left: 30, Until: windows(now, 0)[billing.Daily].End,
		}, req("c", 31, withKey(alices)))
		wantUsage(t, l, billing.RecordFilter{}, dimensions...)
		if diff := cmp.Diff([]string{"b", "a"}, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		close1(t, l)
		l = w.open(t)
	}
	close1(t, l)
}

// onceReopened does everything twice, with or without reopening before, between
// and after.
func onceReopened(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer func() { close1(t, l) }()
	reopen := func(really bool) {
		if really {
			close1(t, l)
			l = w.open(t)
		}
	}
	k := key("sk-alice", "alice", limits(0, 1<<50))
	declare(t, l, billing.User{Name: "alice", Balance: 10_000})
	addKey(t, l, k)
	balance, spentOfKey, usedOfGroup := billing.USD(10_000), billing.USD(0), billing.USD(0)
	for when := range 8 {
		id := fmt.Sprint(when)
		hold(t, l, billing.PaidFromBalance, req("a"+id, 100, withKey(k)))
		reopen(when&1 != 0)
		credit(t, l, "alice", id, 7, balance+7)
		settle(t, l, spent("a"+id, k, now, 30))
		settle(t, l, used("b"+id, now, 5))
		reopen(when&2 != 0)
		declare(t, l, billing.User{Name: "alice", Balance: 10_000})
		settle(t, l, spent("a"+id, k, now, 30))
		settle(t, l, used("b"+id, now, 5))
		wantCredit(t, l, "alice", billing.Credit{ID: id, Amount: 7, Time: epoch}, balance+7-30, false)
		reopen(when&4 != 0)
		settle(t, l, used("b"+id, now, 5))
		balance, spentOfKey, usedOfGroup = balance+7-30, spentOfKey+30, usedOfGroup+5
		wantBalance(t, l, "alice", billing.Balance{Amount: balance})
		wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: windows(now, usedOfGroup)})
		refused(t, l, billing.Refusal{
			Reason: billing.ReasonKeyLimit, Span: billing.Monthly, Limit: 1 << 50, Left: 1<<50 - spentOfKey,
			Until: windows(now, 0)[billing.Monthly].End,
		}, req("c", 1<<50+1, withKey(k), subscribed("h", billing.Limits{})))
	}
}
