package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

// sharedTests are for stores over which several ledgers may be open.
var sharedTests = map[string]func(*testing.T, world){
	"ledgers of one store share money":                 shareMoney,
	"ledgers of one store share windows and limits":    shareWindows,
	"ledgers of one store never promise more together": shareHolds,
	"ledgers of one store learn of changes within 2 s": shareChanges,
}

func openTwo(t *testing.T, open Open) (one, two billing.Ledger) {
	t.Helper()
	one, two = open(t), open(t)
	t.Cleanup(func() {
		close1(t, one)
		close1(t, two)
	})
	return one, two
}

func shareMoney(t *testing.T, w world) {
	one, two := openTwo(t, w.open)
	declare(t, one, billing.User{Name: "alice", Balance: 1000})
	wantBalance(t, two, "alice", billing.Balance{Amount: 1000})
	hold(t, one, billing.PaidFromBalance, req("a", 600))
	wantBalance(t, two, "alice", billing.Balance{Amount: 1000, Held: 600})
	refused(t, two, billing.Refusal{Reason: billing.ReasonBalance, Left: 1000, Temporary: true}, req("b", 401))
	hold(t, two, billing.PaidFromBalance, req("b", 400))
	settle(t, one, record("a", 100))
	settle(t, two, record("a", 100))
	wantBalance(t, two, "alice", billing.Balance{Amount: 900, Held: 400})
	two.Release(t.Context(), "b")
	wantBalance(t, one, "alice", billing.Balance{Amount: 900})
	credit(t, two, "alice", "c", 50, 950)
	wantCredit(t, one, "alice", billing.Credit{ID: "c", Amount: 50, Time: epoch}, 950, false)
	declare(t, two, billing.User{Name: "alice", Balance: 1000})
	wantBalance(t, one, "alice", billing.Balance{Amount: 950})
	for _, l := range []billing.Ledger{one, two} {
		if diff := cmp.Diff([]*billing.Record{record("a", 100)}, List(t, l, billing.RecordFilter{}), asGiven); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		wantUsage(t, l, billing.RecordFilter{}, billing.ByUser)
	}
}

func shareWindows(t *testing.T, w world) {
	now := w.clock.Now()
	one, two := openTwo(t, w.open)
	declare(t, one, billing.User{Name: "alice", Balance: 1000})
	k := key("sk-alice", "alice", limits(100, 0))
	addKey(t, one, k)
	terms := subscribed("g", billing.Limits{100, 0, 0})
	end := windows(now, 0)[billing.Daily].End
	settle(t, one, used("a", now, 30))
	settle(t, two, used("b", now, 40))
	full := billing.Refusal{Reason: billing.ReasonWindow, Limit: 100, Left: 30, Until: end}
	refused(t, one, full, req("c", 31, terms))
	hold(t, one, billing.PaidFromSubscription, req("c", 30, terms))
	full.Temporary = true
	refused(t, two, full, req("d", 1, terms))
	settle(t, one, spent("e", k, now, 60))
	full = billing.Refusal{Reason: billing.ReasonKeyLimit, Limit: 100, Left: 40, Until: end}
	refused(t, two, full, req("f", 41, withKey(k)))
	hold(t, two, billing.PaidFromBalance, req("f", 40, withKey(k)))
	full.Temporary = true
	refused(t, one, full, req("g", 1, withKey(k)))
}

func shareHolds(t *testing.T, w world) {
	one, two := openTwo(t, w.open)
	holdAtOnce(t, one, two)
}

// shareChanges has one ledger learn of what the other changed, though it has asked
// for all of it before.
func shareChanges(t *testing.T, w world) {
	one, two := openTwo(t, w.open)
	revoked, added, removed, disabled := key("1-revoked", "alice"), key("2-added", "alice"), key("3-removed", "bob"), key("4-disabled", "carol")
	add(t, one, billing.User{Name: "alice"}, billing.User{Name: "bob"}, billing.User{Name: "carol"})
	addKey(t, one, revoked, removed, disabled)
	for _, k := range []billing.Key{revoked, removed, disabled} {
		wantLogin(t, two, k)
	}
	wantNoLogin(t, two, added)
	yes := true
	revoke(t, one, revoked)
	addKey(t, one, added)
	remove(t, one, "bob")
	if err := one.ChangeUser(t.Context(), "carol", billing.UserChange{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	login := func(k billing.Key) string {
		_, owner, err := two.Login(t.Context(), k.Digest)
		if errors.Is(err, billing.ErrUnknownKey) {
			return "unknown"
		}
		return fmt.Sprintf("disabled: %v, error: %v", owner.Disabled, err)
	}
	want := []string{"unknown", "disabled: false, error: <nil>", "unknown", "disabled: true, error: <nil>"}
	var diff string
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < 2*time.Second {
		diff = cmp.Diff(want, []string{login(revoked), login(added), login(removed), login(disabled)})
		if diff == "" {
			return
		}
		<-tick.C
	}
	t.Errorf("after 2 s (-want +got):\n%s", diff)
}
