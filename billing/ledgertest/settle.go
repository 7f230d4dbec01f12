package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var settleTests = map[string]func(*testing.T, Open){
	"settling takes the charge from the balance":          charges,
	"only balance records take money":                     chargesBalanceOnly,
	"settling twice is once":                              settleTwice,
	"settling twice is once after reopening":              settleTwiceReopened,
	"concurrent settles sum exactly":                      settleConcurrently,
	"the opening balance is credited once":                openingOnce,
	"an unlimited user gets the opening balance later":    unlimitedThenLimited,
	"a balance may go below zero":                         belowZero,
	"unknown users are refused":                           unknownUser,
	"an impossible record is refused and changes nothing": impossible,
	"amounts are exact":                                   exactAmounts,
	"any text is a name":                                  anyNames,
	"charged although unlimited by now":                   chargedThoughUnlimited,
	"concurrent declarations credit once":                 declareConcurrently,
	"a refused record is settled once its user is known":  settleAfterDeclare,
	"a cancelled settle reports it":                       cancelled,
}

func charges(t *testing.T, open Open) {
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Balance: 500})
	settle(t, l, record("a", 300))
	wantBalance(t, l, "alice", billing.Balance{Amount: 700})
	wantBalance(t, l, "bob", billing.Balance{Amount: 500})
	settle(t, l, record("b", 0))
	wantBalance(t, l, "alice", billing.Balance{Amount: 700})
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", billing.Balance{Amount: 700})
	wantBalance(t, l, "bob", billing.Balance{Amount: 500})
}

func chargesBalanceOnly(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	for _, how := range []string{billing.PaidFromSubscription, billing.PaidByNobody} {
		r := record(how, 300)
		r.Billing = how
		settle(t, l, r)
	}
	stranger := record("stranger", 300)
	stranger.User, stranger.Billing = "nobody-declared", billing.PaidByNobody
	settle(t, l, stranger)
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	if n := len(List(t, l, billing.RecordFilter{})); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
}

func settleTwice(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	settle(t, l, record("a", 300))
	settle(t, l, record("a", 300))
	other := record("a", 5)
	other.Time = epoch.Add(time.Hour)
	settle(t, l, other)
	wantBalance(t, l, "alice", billing.Balance{Amount: 700})
	got := List(t, l, billing.RecordFilter{})
	if diff := cmp.Diff([]*billing.Record{record("a", 300)}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	settle(t, l, record("a", 300)) // with everything surely in its last place
	wantBalance(t, l, "alice", billing.Balance{Amount: 700})
}

func settleTwiceReopened(t *testing.T, open Open) {
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	settle(t, l, record("a", 300))
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	settle(t, l, record("a", 300))
	settle(t, l, record("b", 1))
	wantBalance(t, l, "alice", billing.Balance{Amount: 699})
}

// settleConcurrently settles every record twice, from many goroutines.
func settleConcurrently(t *testing.T, open Open) {
	const goroutines, each = 16, 100
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1_000_000}, billing.User{Name: "bob", Balance: 1_000_000})
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				r := record(fmt.Sprintf("%d-%d", g/2, i), 3) // shared by two goroutines
				if i%2 == 1 {
					r.User = "bob"
				}
				if err := l.Settle(context.Background(), r, nil); err != nil {
					t.Errorf("Settle(%s): %v", r.ID, err)
				}
			}
		})
	}
	all.Wait()
	want := billing.Balance{Amount: 1_000_000 - 3*goroutines/2*each/2}
	wantBalance(t, l, "alice", want)
	wantBalance(t, l, "bob", want)
	if n := len(List(t, l, billing.RecordFilter{})); n != goroutines/2*each {
		t.Errorf("%d records, want %d", n, goroutines/2*each)
	}
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", want)
	wantBalance(t, l, "bob", want)
}

func openingOnce(t *testing.T, open Open) {
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "carol"})
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "carol", Balance: 50})
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	wantBalance(t, l, "carol", billing.Balance{})
	settle(t, l, record("a", 400))
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 2000}, billing.User{Name: "bob", Balance: 7})
	wantBalance(t, l, "alice", billing.Balance{Amount: 600})
	wantBalance(t, l, "bob", billing.Balance{Amount: 7})
}

func unlimitedThenLimited(t *testing.T, open Open) {
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	wantBalance(t, l, "alice", billing.Balance{Unlimited: true})
	free := record("a", 300)
	free.Billing = billing.PaidByNobody
	settle(t, l, free)
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", billing.Balance{Unlimited: true})
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000, Unlimited: true})
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
}

func belowZero(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	settle(t, l, record("a", 25))
	wantBalance(t, l, "alice", billing.Balance{Amount: -15})
}

func unknownUser(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	if _, err := l.Balance(t.Context(), "alice"); !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("Balance: %v, want ErrUnknownUser", err)
	}
	if err := l.Settle(t.Context(), record("a", 1), nil); !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("Settle: %v, want ErrUnknownUser", err)
	}
	if got := List(t, l, billing.RecordFilter{}); len(got) != 0 {
		t.Errorf("records %v, want none", ids(got))
	}
}

func impossible(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	timeless := record("timeless", 1)
	timeless.Time = time.Time{}
	for _, r := range []*billing.Record{record("", 1), record("gift", -1), timeless} {
		if err := l.Settle(t.Context(), r, nil); err == nil {
			t.Errorf("record %q was settled", r.ID)
		}
	}
	if err := l.Declare(t.Context(), []billing.User{{Name: "", Balance: 1}}); err == nil {
		t.Error("a user without a name was declared")
	}
	wantBalance(t, l, "alice", billing.Balance{Amount: 10})
	if got := List(t, l, billing.RecordFilter{}); len(got) != 0 {
		t.Errorf("records %v, want none", ids(got))
	}
}

func cancelled(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Settle(ctx, record("a", 1), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Settle: %v, want context.Canceled", err)
	}
	settle(t, l, record("a", 1))
	wantBalance(t, l, "alice", billing.Balance{Amount: 9})
}

// exactAmounts has amounts that a float64 would round.
func exactAmounts(t *testing.T, open Open) {
	const most, odd = 1<<61 - 1, 1<<53 + 1
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: most}, billing.User{Name: "bob", Balance: -most})
	settle(t, l, record("a", odd))
	wantBalance(t, l, "alice", billing.Balance{Amount: most - odd})
	wantBalance(t, l, "bob", billing.Balance{Amount: -most})
	settle(t, l, record("b", most))
	wantBalance(t, l, "alice", billing.Balance{Amount: -odd})
	settle(t, l, record("c", 1))
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", billing.Balance{Amount: -odd - 1})
	wantBalance(t, l, "bob", billing.Balance{Amount: -most})
}

func anyNames(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	names := []string{"a b", "{a}", "}{", "a:b", "*", "é\x00\n'\"", "a", ":"}
	for _, name := range names {
		declare(t, l, billing.User{Name: name, Balance: 1000})
		r := record("id "+name, 1)
		r.User = name
		settle(t, l, r)
		settle(t, l, r)
	}
	for _, name := range names {
		wantBalance(t, l, name, billing.Balance{Amount: 999})
		got := List(t, l, billing.RecordFilter{User: name})
		if diff := cmp.Diff([]string{"id " + name}, ids(got)); diff != "" {
			t.Errorf("records of %q (-want +got):\n%s", name, diff)
		}
	}
}

func chargedThoughUnlimited(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	settle(t, l, record("a", 25))
	wantBalance(t, l, "alice", billing.Balance{Amount: -15, Unlimited: true})
}

func declareConcurrently(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			users := []billing.User{{Name: "alice", Balance: 1000}, {Name: "bob", Balance: 7}}
			if err := l.Declare(context.Background(), users); err != nil {
				t.Errorf("Declare: %v", err)
			}
		})
	}
	all.Wait()
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	wantBalance(t, l, "bob", billing.Balance{Amount: 7})
}

func settleAfterDeclare(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	if err := l.Settle(t.Context(), record("a", 1), nil); !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("Settle: %v, want ErrUnknownUser", err)
	}
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	wantBalance(t, l, "alice", billing.Balance{Amount: 10})
	settle(t, l, record("a", 1))
	wantBalance(t, l, "alice", billing.Balance{Amount: 9})
	if diff := cmp.Diff([]string{"a"}, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
