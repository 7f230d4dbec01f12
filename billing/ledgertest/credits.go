package ledgertest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
)

var creditTests = map[string]func(*testing.T, Open){
	"credits count once per ID":                   creditOnce,
	"credits of any sign and user":                creditAnybody,
	"credits and opening balances are told apart": creditNamedOpening,
	"concurrent credits and settles sum exactly":  creditConcurrently,
}

// credit wants a new credit, after which the user has want.
func credit(t *testing.T, l billing.Ledger, user, id string, amount, want billing.USD) {
	t.Helper()
	wantCredit(t, l, user, billing.Credit{ID: id, Amount: amount, Note: "a note", Time: epoch}, want, true)
}

func wantCredit(t *testing.T, l billing.Ledger, user string, c billing.Credit, want billing.USD, isNew bool) {
	t.Helper()
	balance, credited, err := l.Credit(t.Context(), user, c)
	if err != nil || balance.Amount != want || credited != isNew {
		t.Errorf("Credit(%q, %q): %+v, credited %v, %v; want the balance %d and %v", user, c.ID, balance, credited, err, want, isNew)
	}
}

func creditOnce(t *testing.T, open Open) {
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob"})
	credit(t, l, "alice", "c", 50, 1050)
	again := billing.Credit{ID: "c", Amount: 7, Time: epoch}
	wantCredit(t, l, "alice", again, 1050, false)
	credit(t, l, "bob", "c", 20, 20) // another user's
	hold(t, l, billing.PaidFromBalance, req("a", 100))
	if b, credited, err := l.Credit(t.Context(), "alice", again); err != nil || credited || b != (billing.Balance{Amount: 1050, Held: 100}) {
		t.Errorf("Credit: %+v, %v, %v; want 100 held of 1050", b, credited, err)
	}
	l.Release(t.Context(), "a")
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantCredit(t, l, "alice", again, 1050, false)
	wantBalance(t, l, "alice", billing.Balance{Amount: 1050})
	wantBalance(t, l, "bob", billing.Balance{Amount: 20})
}

func creditAnybody(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "unlimited", Unlimited: true})
	add(t, l, billing.User{Name: "added", Balance: 10})
	credit(t, l, "added", "a", -30, -20)
	credit(t, l, "added", "b", 0, -20)
	credit(t, l, "added", "c", 1<<60, 1<<60-20)
	credit(t, l, "unlimited", "a", 5, 5)
	wantBalance(t, l, "unlimited", billing.Balance{Amount: 5})
	declare(t, l, billing.User{Name: "unlimited", Balance: 100})
	wantBalance(t, l, "unlimited", billing.Balance{Amount: 105})
	settled := record("after", 5)
	settled.User = "added"
	settle(t, l, settled)
	wantBalance(t, l, "added", billing.Balance{Amount: 1<<60 - 25})
	remove(t, l, "added")
	add(t, l, billing.User{Name: "added"})
	credit(t, l, "added", "a", 99, 99) // that id was another's
	wantCredit(t, l, "added", billing.Credit{ID: "a", Amount: 99, Time: epoch}, 99, false)
	credit(t, l, "added", "d", 1, 100)
}

func creditNamedOpening(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "unlimited", Unlimited: true})
	add(t, l, billing.User{Name: "added", Balance: 100})
	for i, id := range []string{"opening", "declared", "added", "removed", "a b", "é\x00:}", "0"} {
		credit(t, l, "unlimited", id, 1, billing.USD(i+1))
		credit(t, l, "added", id, 1, billing.USD(100+i+1))
	}
	declare(t, l, billing.User{Name: "unlimited", Balance: 100})
	wantBalance(t, l, "unlimited", billing.Balance{Amount: 107})
	remove(t, l, "added")
	add(t, l, billing.User{Name: "added", Balance: 100})
	wantBalance(t, l, "added", billing.Balance{Amount: 100})
	remove(t, l, "added")
	add(t, l, billing.User{Name: "added", Balance: 100})
	wantBalance(t, l, "added", billing.Balance{Amount: 100})
}

func creditConcurrently(t *testing.T, open Open) {
	const goroutines, each, opening = 8, 40, 1_000_000
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: opening})
	add(t, l, billing.User{Name: "bob", Balance: opening})
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", g/2, i) // shared by two goroutines
				user := []string{"alice", "bob"}[i%2]
				c := req("claim "+fmt.Sprint(g, i), 100)
				c.User = user
				if _, err := l.Hold(context.Background(), c); err != nil {
					t.Errorf("Hold: %v", err)
				}
				if _, _, err := l.Credit(context.Background(), user, billing.Credit{ID: id, Amount: 11, Time: epoch}); err != nil {
					t.Errorf("Credit: %v", err)
				}
				r := record(id, 3)
				r.User = user
				if err := l.Settle(context.Background(), r, nil); err != nil {
					t.Errorf("Settle: %v", err)
				}
				l.Release(context.Background(), c.ID)
			}
		})
	}
	all.Wait()
	want := billing.Balance{Amount: opening + goroutines/2*each/2*(11-3)}
	wantBalance(t, l, "alice", want)
	wantBalance(t, l, "bob", want)
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", want)
	wantBalance(t, l, "bob", want)
}
