package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

// numberTests are about those who have a name one after the other.
var numberTests = map[string]func(*testing.T, world){
	"a removal raises the number of a name":            numbersRise,
	"what a removed user holds counts for nobody":      numbersHeld,
	"what a removed user spent is paid by nobody":      numbersSettled,
	"a record without a number is of who has the name": numberNone,
	"a record of a number that is yet to come":         numberToCome,
	"credit ids are of one user":                       numbersCredits,
	"the opening balance is credited once to each":     numbersOpening,
	"who is added after a config declared him goes on": numberStays,
	"the last use of a key is of its own user":         numbersLastUsed,
}

// wantNumber asks for a user's number, by a hold request of nothing.
func wantNumber(t *testing.T, l billing.Ledger, user string, want int64) {
	t.Helper()
	c := req("for the number of "+user, 0)
	c.User = user
	payer, err := l.Hold(t.Context(), c)
	if err != nil || payer != (billing.Payer{Billing: billing.PaidFromBalance, UserNumber: want}) {
		t.Errorf("Hold of %q: %+v, %v; want the number %d", user, payer, err, want)
	}
	l.Release(t.Context(), c.ID)
}

// numbered is a record of a user of that number.
func numbered(r *billing.Record, number int64) *billing.Record {
	r.UserNumber = number
	return r
}

func numbersRise(t *testing.T, w world) {
	l := w.open(t)
	add(t, l, billing.User{Name: "alice"}, billing.User{Name: "bob"})
	declare(t, l, billing.User{Name: "carol"})
	reopen := func() {
		close1(t, l)
		l = w.open(t)
	}
	defer func() { close1(t, l) }()
	for number := int64(1); number < 5; number++ {
		wantNumber(t, l, "alice", number)
		reopen()
		wantNumber(t, l, "alice", number)
		wantNumber(t, l, "bob", 1)
		wantNumber(t, l, "carol", 1)
		remove(t, l, "alice")
		if number%2 == 0 {
			reopen()
		}
		wantStranger(t, l, "alice")
		if number == 3 { // the config may take a name up again as well
			declare(t, l, billing.User{Name: "alice"})
			wantNumber(t, l, "alice", 4)
		}
		add(t, l, billing.User{Name: "alice"})
	}
	if err := l.RemoveUser(t.Context(), "carol"); !errors.Is(err, billing.ErrUnknownUser) { // who is the config's
		t.Errorf("RemoveUser: %v, want ErrUnknownUser", err)
	}
	wantNumber(t, l, "carol", 1)
}

// again makes the same user once more, with a key and a subscription of the same names.
func again(t *testing.T, l billing.Ledger, k billing.Key) {
	t.Helper()
	add(t, l, billing.User{Name: "alice", Balance: 1000})
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", ahead)
}

// wantFresh wants alice to have what again makes, and nothing spent or held.
func wantFresh(t *testing.T, l billing.Ledger, k billing.Key) {
	t.Helper()
	wantProfile(t, l, billing.Profile{
		Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 1000},
		Subscriptions: []billing.Subscription{{Group: "g", Subscribed: true, Until: ahead}},
	})
	wantKeys(t, l, "alice", k)
	whole := req("all of it", 1000, withKey(k))
	hold(t, l, billing.PaidFromBalance, whole)
	l.Release(t.Context(), whole.ID)
	whole = req("all of the subscription", 1000, withKey(k), ofGroup("g", billing.Limits{1000, 1000, 1000}))
	hold(t, l, billing.PaidFromSubscription, whole)
	l.Release(t.Context(), whole.ID)
}

func numbersHeld(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	k := key("sk-alice", "alice", limits(1000, 1000))
	again(t, l, k)
	group := ofGroup("g", billing.Limits{1000, 1000, 1000})
	hold(t, l, billing.PaidFromBalance, req("a", 300, withKey(k)))
	hold(t, l, billing.PaidFromBalance, req("b", 300, withKey(k)))
	hold(t, l, billing.PaidFromSubscription, req("c", 300, group))
	hold(t, l, billing.PaidFromSubscription, req("d", 300, group))
	remove(t, l, "alice")
	again(t, l, k)
	wantFresh(t, l, k)
	wantNumber(t, l, "alice", 2)
	l.Release(t.Context(), "a")
	l.Release(t.Context(), "c")
	wantFresh(t, l, k)
	settle(t, l, numbered(spent("b", k, w.clock.Now(), 200), 1))
	settle(t, l, numbered(used("d", w.clock.Now(), 200), 1))
	wantFresh(t, l, k)
}

// numbersSettled settles what a removed user spent: while nobody has the name, while
// the next has it, and while one whom the config declares does; whoever pays.
func numbersSettled(t *testing.T, w world) {
	l := w.open(t)
	k := key("sk-alice", "alice", limits(1000, 1000))
	again(t, l, k)
	count := 0
	settleAll := func(number int64) {
		t.Helper()
		for _, how := range []string{billing.PaidFromBalance, billing.PaidFromSubscription, billing.PaidByNobody} {
			count++
			r := numbered(spent(fmt.Sprint(count), k, w.clock.Now(), 100), number)
			r.Billing, r.Group = how, "g"
			settle(t, l, r)
			settle(t, l, r)
		}
	}
	remove(t, l, "alice")
	settleAll(1)
	wantStranger(t, l, "alice")
	again(t, l, k)
	wantFresh(t, l, k)
	settleAll(1)
	wantFresh(t, l, k)
	remove(t, l, "alice")
	settleAll(1)
	settleAll(2)
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantStranger(t, l, "alice")
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	settleAll(2)
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g"})
	settle(t, l, numbered(record("own", 100), 3))
	wantBalance(t, l, "alice", billing.Balance{Amount: 900})
	if n := len(List(t, l, billing.RecordFilter{User: "alice"})); n != count+1 {
		t.Errorf("%d records, want %d", n, count+1)
	}
	wantUsage(t, l, billing.RecordFilter{}, billing.ByUser, billing.ByKey)
	for _, r := range List(t, l, billing.RecordFilter{User: "alice"}) {
		if want := r.UserNumber; want < 1 || want > 3 {
			t.Errorf("record %s is of the number %d", r.ID, want)
		}
	}
}

func numberNone(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	if err := l.Settle(t.Context(), record("of a stranger", 1), nil); !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("Settle: %v, want ErrUnknownUser", err)
	}
	add(t, l, billing.User{Name: "alice", Balance: 1000})
	settle(t, l, record("a", 100))
	wantBalance(t, l, "alice", billing.Balance{Amount: 900})
	remove(t, l, "alice")
	settle(t, l, record("b", 100)) // of nobody, any more
	add(t, l, billing.User{Name: "alice", Balance: 1000})
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	settle(t, l, record("c", 100))
	wantBalance(t, l, "alice", billing.Balance{Amount: 900})
}

// numberToCome: a store that came back from a backup knows less than records do.
func numberToCome(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	add(t, l, billing.User{Name: "alice", Balance: 1000})
	settle(t, l, numbered(record("a", 100), 2))
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	if diff := cmp.Diff([]string{"a"}, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	err := l.Settle(t.Context(), numbered(&billing.Record{ID: "b", Time: epoch, User: "nobody", Billing: billing.PaidFromBalance}, 1), nil)
	if !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("Settle: %v, want ErrUnknownUser", err)
	}
}

func numbersCredits(t *testing.T, w world) {
	l := w.open(t)
	add(t, l, billing.User{Name: "alice", Balance: 10})
	for number := 1; number < 4; number++ {
		credit(t, l, "alice", "a", 5, 15)
		credit(t, l, "alice", "", 5, 20)
		close1(t, l)
		l = w.open(t)
		wantCredit(t, l, "alice", billing.Credit{ID: "a", Amount: 5, Time: epoch}, 20, false)
		wantCredit(t, l, "alice", billing.Credit{Amount: 5, Time: epoch}, 20, false)
		remove(t, l, "alice")
		add(t, l, billing.User{Name: "alice", Balance: 10})
		wantBalance(t, l, "alice", billing.Balance{Amount: 10})
	}
	close1(t, l)
}

func numbersOpening(t *testing.T, w world) {
	l := w.open(t)
	defer func() { close1(t, l) }()
	for number := range 3 {
		for range 2 {
			declare(t, l, billing.User{Name: "alice", Balance: 1000})
			wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
		}
		settle(t, l, record(fmt.Sprint(number), 600))
		close1(t, l)
		l = w.open(t)
		declare(t, l, billing.User{Name: "alice", Balance: 1000})
		wantBalance(t, l, "alice", billing.Balance{Amount: 400})
		add(t, l, billing.User{Name: "alice", Balance: 7}) // the config has dropped her
		wantBalance(t, l, "alice", billing.Balance{Amount: 407})
		declare(t, l, billing.User{Name: "alice", Balance: 1000})
		wantBalance(t, l, "alice", billing.Balance{Amount: 407})
		remove(t, l, "alice")
	}
}

func numberStays(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Unlimited: true})
	hold(t, l, billing.PaidFromBalance, req("a", 300))
	subscribe(t, l, "alice", "g", ahead)
	settle(t, l, used("b", w.clock.Now(), 10))
	credit(t, l, "alice", "c", 5, 1005)
	add(t, l, billing.User{Name: "alice", Balance: 50}, billing.User{Name: "bob", Balance: 50})
	wantNumber(t, l, "alice", 1)
	wantProfile(t, l, billing.Profile{
		Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 1055, Held: 300},
		Subscriptions: []billing.Subscription{{Group: "g", Subscribed: true, Until: ahead, Windows: windows(w.clock.Now(), 10)}},
	})
	wantCredit(t, l, "alice", billing.Credit{ID: "c", Amount: 5, Time: epoch}, 1055, false)
	settle(t, l, numbered(record("a", 100), 1))
	wantBalance(t, l, "alice", billing.Balance{Amount: 955})
	wantBalance(t, l, "bob", billing.Balance{Amount: 50})
	declare(t, l, billing.User{Name: "bob", Balance: 1000}) // whose he is no more
	wantBalance(t, l, "bob", billing.Balance{Amount: 50})
}

func numbersLastUsed(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	k := key("sk-alice", "alice")
	again(t, l, k)
	settle(t, l, numbered(spent("a", k, epoch.Add(-2*time.Hour), 1), 1))
	remove(t, l, "alice")
	again(t, l, k)
	settle(t, l, numbered(spent("b", k, epoch.Add(-time.Hour), 1), 1))
	wantKeys(t, l, "alice", k)
	settle(t, l, numbered(spent("c", k, epoch.Add(-3*time.Hour), 1), 2))
	k.LastUsed = epoch.Add(-3 * time.Hour)
	wantKeys(t, l, "alice", k)
}
