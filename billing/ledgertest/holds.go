package ledgertest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var holdTests = map[string]func(*testing.T, Open){
	"a hold sets aside until it is settled":                 holdAndSettle,
	"a hold that is released comes back":                    holdAndRelease,
	"what others hold is not there for a claim":             refuseHeld,
	"a claim that does not fit at all is refused":           refuseSpent,
	"a claim of more than there is fits by its least":       holdMoreThanThereIs,
	"a claim of nothing is never refused":                   holdNothing,
	"a claim at the edge of what is left":                   holdAtTheEdge,
	"holding twice is once":                                 holdTwice,
	"a claim is not kept by reference":                      requestNotKept,
	"unlimited users hold nothing":                          holdUnlimited,
	"strangers hold nothing":                                holdUnknown,
	"settling needs no hold":                                settleWithoutHold,
	"a release after the settle gives nothing back":         releaseAfterSettle,
	"a refused settle leaves the hold":                      refusedSettleHolds,
	"a release works when the context has ended":            releaseCancelled,
	"concurrent holds never promise more than there is":     holdConcurrently,
	"of 200 concurrent requests those that can be paid are": holdInTurn,
	"a hold of an earlier process is settled":               holdReopenSettle,
	"large holds are exact":                                 holdExactly,
}

// request is of alice's balance, for no more than the amount.
func req(id string, amount billing.USD, change ...func(*billing.HoldRequest)) *billing.HoldRequest {
	c := &billing.HoldRequest{ID: id, User: "alice", Amount: amount, MinAvailable: amount}
	for _, f := range change {
		f(c)
	}
	return c
}

func least(amount billing.USD) func(*billing.HoldRequest) {
	return func(c *billing.HoldRequest) { c.MinAvailable = amount }
}

// unlimited makes a hold request one of a user whom the config declares without a limit.
func unlimited(c *billing.HoldRequest) { c.Unlimited = true }

// hold wants a hold request to be met.
func hold(t *testing.T, l billing.Ledger, payer string, c *billing.HoldRequest) {
	t.Helper()
	got, err := l.Hold(t.Context(), c)
	if err != nil || got.Billing != payer {
		t.Errorf("Hold(%s): %v, %v; want %q", c.ID, got, err, payer)
	}
}

// refused wants a hold request not to be.
func refused(t *testing.T, l billing.Ledger, want billing.Refusal, c *billing.HoldRequest) {
	t.Helper()
	payer, err := l.Hold(t.Context(), c)
	var got *billing.Refusal
	if !errors.As(err, &got) {
		t.Errorf("Hold(%s): %v, %v; want a refusal", c.ID, payer, err)
		return
	}
	if diff := cmp.Diff(want, *got); diff != "" {
		t.Errorf("Hold(%s): the refusal (-want +got):\n%s", c.ID, diff)
	}
}

func holdAndSettle(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Balance: 500})
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 300})
	hold(t, l, billing.PaidFromBalance, req("b", 200))
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 500})
	wantBalance(t, l, "bob", billing.Balance{Amount: 500})
	settle(t, l, record("a", 250)) // less
	wantBalance(t, l, "alice", billing.Balance{Amount: 750, Held: 200})
	settle(t, l, record("a", 250))
	wantBalance(t, l, "alice", billing.Balance{Amount: 750, Held: 200})
	settle(t, l, record("b", 400)) // more
	wantBalance(t, l, "alice", billing.Balance{Amount: 350})
	if p := profile(t, l, "alice"); p.Balance != (billing.Balance{Amount: 350}) {
		t.Errorf("the profile has %+v", p.Balance)
	}
	free := record("c", 0)
	free.Billing = billing.PaidByNobody // for one that failed
	hold(t, l, billing.PaidFromBalance, req("c", 100))
	if p := profile(t, l, "alice"); p.Balance != (billing.Balance{Amount: 350, Held: 100}) {
		t.Errorf("the profile has %+v", p.Balance)
	}
	settle(t, l, free)
	wantBalance(t, l, "alice", billing.Balance{Amount: 350})
}

func holdAndRelease(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	hold(t, l, billing.PaidFromBalance, req("b", 200))
	l.Release(t.Context(), "a")
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 200})
	l.Release(t.Context(), "a")
	l.Release(t.Context(), "never held")
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 200})
	hold(t, l, billing.PaidFromBalance, req("a", 800)) // free again, and once more
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 1000})
	l.Release(t.Context(), "b")
	l.Release(t.Context(), "a")
	settle(t, l, record("a", 30)) // after all
	wantBalance(t, l, "alice", billing.Balance{Amount: 970})
}

func refuseHeld(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("a", 600))
	held := billing.Refusal{Reason: billing.ReasonBalance, Left: 1000, Temporary: true}
	refused(t, l, held, req("b", 500))
	refused(t, l, held, req("b", 5000, least(401)))
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 600})
	others := req("c", 1000)
	others.User = "bob"
	hold(t, l, billing.PaidFromBalance, others)
	settle(t, l, record("a", 100))
	hold(t, l, billing.PaidFromBalance, req("b", 500))
	wantBalance(t, l, "alice", billing.Balance{Amount: 900, Held: 500})
}

func refuseSpent(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 1000}, req("a", 1001))
	hold(t, l, billing.PaidFromBalance, req("a", 600))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 1000}, req("b", 1001))
	settle(t, l, record("a", 1100))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: -100}, req("b", 1))
	wantBalance(t, l, "alice", billing.Balance{Amount: -100})
}

func holdMoreThanThereIs(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("a", 5000, least(1)))
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 5000})
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 1000, Temporary: true}, req("b", 5000, least(1)))
	l.Release(t.Context(), "a")
	hold(t, l, billing.PaidFromBalance, req("b", 5000, least(1000)))
}

func holdNothing(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 0})
	hold(t, l, billing.PaidFromBalance, req("a", 0))
	hold(t, l, billing.PaidFromBalance, req("b", 70, least(0)))
	settle(t, l, record("c", 30))
	hold(t, l, billing.PaidFromBalance, req("d", 0))
	wantBalance(t, l, "alice", billing.Balance{Amount: -30, Held: 70})
	l.Release(t.Context(), "b")
	settle(t, l, record("a", 0))
	wantBalance(t, l, "alice", billing.Balance{Amount: -30})
}

func holdAtTheEdge(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	hold(t, l, billing.PaidFromBalance, req("a", 9))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 10, Temporary: true}, req("b", 2))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 10, Temporary: true}, req("b", 10))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 10}, req("b", 11))
	hold(t, l, billing.PaidFromBalance, req("b", 1))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 10, Temporary: true}, req("c", 1))
	hold(t, l, billing.PaidFromBalance, req("c", 0))
	settle(t, l, record("a", 9))
	settle(t, l, record("b", 1))
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance}, req("d", 1))
}

func holdTwice(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	for _, again := range []*billing.HoldRequest{req("a", 600), req("a", 600), req("a", 1), req("a", 5000)} {
		hold(t, l, billing.PaidFromBalance, again)
		wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 600})
	}
	l.Release(t.Context(), "a")
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 1000}, req("a", 5000)) // it holds nothing
}

func requestNotKept(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Balance: 1000})
	c := subscribed("g", billing.Limits{billing.Daily: 1000})
	given := req("a", 300, c)
	hold(t, l, billing.PaidFromSubscription, given)
	if diff := cmp.Diff(req("a", 300, c), given); diff != "" {
		t.Errorf("Hold changed the claim (-want +got):\n%s", diff)
	}
	given.ID, given.User, given.Amount, given.Terms.Group = "b", "bob", 1, "h"
	refused(t, l, billing.Refusal{Reason: billing.ReasonWindow, Limit: 1000, Left: 1000, Temporary: true}, req("c", 701, c))
	settle(t, l, record("a", 0))
	hold(t, l, billing.PaidFromSubscription, req("c", 1000, c)) // all of it is free
}

func holdUnlimited(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	hold(t, l, billing.PaidByNobody, req("a", 1<<40, unlimited))
	wantBalance(t, l, "alice", billing.Balance{})
	free := record("a", 500)
	free.Billing = billing.PaidByNobody
	settle(t, l, free)
	wantBalance(t, l, "alice", billing.Balance{})
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance}, req("limited", 1)) // it is the request that says so
	hold(t, l, billing.PaidByNobody, req("b", 1<<40, unlimited))
	declare(t, l, billing.User{Name: "alice", Balance: 100})
	l.Release(t.Context(), "b")
	wantBalance(t, l, "alice", billing.Balance{Amount: 100})

	hold(t, l, billing.PaidFromBalance, req("c", 60))
	hold(t, l, billing.PaidByNobody, req("d", 1000, unlimited)) // though there is a balance
	wantBalance(t, l, "alice", billing.Balance{Amount: 100, Held: 60})
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	settle(t, l, record("c", 70)) // as it was promised
	wantBalance(t, l, "alice", billing.Balance{Amount: 30})
}

func holdUnknown(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	for _, c := range []*billing.HoldRequest{
		req("a", 1), req("b", 0), req("c", 1, subscribed("g", billing.Limits{billing.Daily: 1})),
	} {
		if payer, err := l.Hold(t.Context(), c); !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("Hold: %v, %v; want ErrUnknownUser", payer, err)
		}
	}
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	hold(t, l, billing.PaidFromBalance, req("a", 10))
}

func settleWithoutHold(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("other", 900))
	settle(t, l, record("a", 300))
	wantBalance(t, l, "alice", billing.Balance{Amount: 700, Held: 900})
}

func releaseAfterSettle(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("other", 100))
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	settle(t, l, record("a", 250))
	l.Release(t.Context(), "a")
	wantBalance(t, l, "alice", billing.Balance{Amount: 750, Held: 100})
}

func refusedSettleHolds(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	for _, r := range []*billing.Record{record("a", -1), {ID: "a", User: "alice"}} {
		if err := l.Settle(t.Context(), r, nil); err == nil {
			t.Errorf("record %+v was settled", r)
		}
	}
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Held: 300})
}

func releaseCancelled(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	cancel()
	l.Release(ctx, "a")
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
}

func holdReopenSettle(t *testing.T, open Open) {
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	close1(t, l)
	l = open(t)
	settle(t, l, record("a", 200))
	wantBalance(t, l, "alice", billing.Balance{Amount: 800})
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	settle(t, l, record("a", 200))
	wantBalance(t, l, "alice", billing.Balance{Amount: 800})
}

// holdExactly has amounts that a float64 would round.
func holdExactly(t *testing.T, open Open) {
	const opening, odd = 1<<61 - 1, 1<<53 + 1
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: opening})
	hold(t, l, billing.PaidFromBalance, req("a", odd))
	hold(t, l, billing.PaidFromBalance, req("b", odd))
	hold(t, l, billing.PaidFromBalance, req("c", 1))
	wantBalance(t, l, "alice", billing.Balance{Amount: opening, Held: 2*odd + 1})
	l.Release(t.Context(), "a")
	l.Release(t.Context(), "c")
	wantBalance(t, l, "alice", billing.Balance{Amount: opening, Held: odd})
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: opening}, req("d", opening+odd))
	settle(t, l, record("b", odd-2))
	wantBalance(t, l, "alice", billing.Balance{Amount: opening - odd + 2})
}
