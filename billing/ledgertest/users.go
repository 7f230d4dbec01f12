package ledgertest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sub2api/caddy-sub2api/billing"
)

var userTests = map[string]func(*testing.T, world){
	"a user is added with an opening balance": userAdded,
	"a user is added once":                    userAddedOnce,
	"an added user is changed":                userChanged,
	"a removed user is gone":                  userRemoved,
	"a removed user's requests are forgiven":  userRemovedInFlight,
	"a removed user comes back":               userRevived,
	"a user is declared, then added":          declaredThenAdded,
	"a user is added, then declared":          addedThenDeclared,
	"users are listed in order of name":       usersListed,
	"any text is a name of added users":       anyAddedName,
}

func add(t *testing.T, l billing.Ledger, users ...billing.User) {
	t.Helper()
	for _, u := range users {
		if err := l.AddUser(t.Context(), u); err != nil {
			t.Fatalf("AddUser(%q): %v", u.Name, err)
		}
	}
}

func remove(t *testing.T, l billing.Ledger, user string) {
	t.Helper()
	if err := l.RemoveUser(t.Context(), user); err != nil {
		t.Fatalf("RemoveUser(%q): %v", user, err)
	}
}

func profile(t *testing.T, l billing.Ledger, user string) billing.Profile {
	t.Helper()
	p, err := l.User(t.Context(), user)
	if err != nil {
		t.Fatalf("User(%q): %v", user, err)
	}
	return p
}

func wantProfile(t *testing.T, l billing.Ledger, want billing.Profile) {
	t.Helper()
	if diff := cmp.Diff(want, profile(t, l, want.Name), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("User(%q) (-want +got):\n%s", want.Name, diff)
	}
	wantBalance(t, l, want.Name, want.Balance)
}

func wantUsers(t *testing.T, l billing.Ledger, want ...string) {
	t.Helper()
	users, err := l.Users(t.Context())
	if err != nil {
		t.Fatalf("Users: %v", err)
	}
	var got []string
	for _, u := range users {
		got = append(got, u.Name)
		if diff := cmp.Diff(profile(t, l, u.Name), u, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q of Users is not what User gives (-User +Users):\n%s", u.Name, diff)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Users (-want +got):\n%s", diff)
	}
}

// wantStranger wants nothing to work for a user.
func wantStranger(t *testing.T, l billing.Ledger, user string) {
	t.Helper()
	ctx := t.Context()
	_, balanceErr := l.Balance(ctx, user)
	_, userErr := l.User(ctx, user)
	c := req("a stranger's", 0)
	c.User = user
	_, holdErr := l.Hold(ctx, c)
	_, _, creditErr := l.Credit(ctx, user, billing.Credit{ID: "a stranger's", Amount: 1, Time: epoch})
	for what, err := range map[string]error{
		"Balance": balanceErr, "User": userErr, "Hold": holdErr, "Credit": creditErr,
		"ChangeUser": l.ChangeUser(ctx, user, billing.UserChange{}),
		"RemoveUser": l.RemoveUser(ctx, user),
		"AddKey":     l.AddKey(ctx, key("a stranger's", user)),
		"Subscribe":  l.Subscribe(ctx, user, "g", ahead),
	} {
		if !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("%s of %q: %v, want ErrUnknownUser", what, user, err)
		}
	}
	wantKeys(t, l, user)
	wantSubscription(t, l, user, billing.Subscription{Group: "g"})
}

func userAdded(t *testing.T, w world) {
	l := w.open(t)
	wantUsers(t, l)
	wantStranger(t, l, "alice")
	add(t, l, billing.User{Name: "alice", Balance: 1000, Concurrency: 7}, billing.User{Name: "bob", Balance: -5})
	alice := billing.Profile{Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 1000}, Concurrency: 7}
	bob := billing.Profile{Name: "bob", Source: billing.SourceAPI, Balance: billing.Balance{Amount: -5}}
	wantProfile(t, l, alice)
	wantProfile(t, l, bob)
	hold(t, l, billing.PaidFromBalance, req("a", 600))
	settle(t, l, record("a", 300))
	alice.Balance.Amount = 700
	wantProfile(t, l, alice)
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantProfile(t, l, alice)
	wantProfile(t, l, bob)
	wantUsers(t, l, "alice", "bob")
	if err := l.AddUser(t.Context(), billing.User{Balance: 5}); err == nil {
		t.Error("a user without a name was added")
	}
	wantUsers(t, l, "alice", "bob")
}

func userAddedOnce(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	add(t, l, billing.User{Name: "alice", Balance: 1000, Concurrency: 7})
	if err := l.AddUser(t.Context(), billing.User{Name: "alice", Balance: 50}); !errors.Is(err, billing.ErrUserExists) {
		t.Errorf("AddUser again: %v, want ErrUserExists", err)
	}
	wantProfile(t, l, billing.Profile{Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 1000}, Concurrency: 7})
}

func userChanged(t *testing.T, w world) {
	l := w.open(t)
	add(t, l, billing.User{Name: "alice", Balance: 1000, Concurrency: 7}, billing.User{Name: "bob", Concurrency: 2})
	want := billing.Profile{Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 1000}, Concurrency: 7}
	none, three, yes, no := 0, 3, true, false
	for _, c := range []struct {
		change      billing.UserChange
		concurrency int
		disabled    bool
	}{
		{billing.UserChange{}, 7, false},
		{billing.UserChange{Disabled: &yes}, 7, true},
		{billing.UserChange{Concurrency: &three}, 3, true},
		{billing.UserChange{Concurrency: &none, Disabled: &no}, 0, false},
		{billing.UserChange{Concurrency: &three, Disabled: &yes}, 3, true},
	} {
		if err := l.ChangeUser(t.Context(), "alice", c.change); err != nil {
			t.Fatalf("ChangeUser: %v", err)
		}
		want.Concurrency, want.Disabled = c.concurrency, c.disabled
		wantProfile(t, l, want)
	}
	wantProfile(t, l, billing.Profile{Name: "bob", Source: billing.SourceAPI, Concurrency: 2})
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantProfile(t, l, want)
}

func userRemoved(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	add(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Balance: 1000})
	alices, bobs := key("sk-alice", "alice", limits(100, 0)), key("sk-bob", "bob")
	addKey(t, l, alices, bobs)
	subscribe(t, l, "alice", "g", ahead)
	settle(t, l, used("b", now, 10))
	settle(t, l, spent("a", alices, epoch.Add(-time.Hour), 400))
	wantLogin(t, l, alices)
	remove(t, l, "alice")
	gone := func() {
		t.Helper()
		wantStranger(t, l, "alice")
		wantNoLogin(t, l, alices)
		wantUsers(t, l, "bob")
		wantKeys(t, l, "", bobs)
		if diff := cmp.Diff([]string{"b", "a"}, ids(List(t, l, billing.RecordFilter{User: "alice"}))); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
	}
	gone()
	wantLogin(t, l, bobs)
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	gone()
	wantBalance(t, l, "bob", billing.Balance{Amount: 1000})
}

func userRemovedInFlight(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	add(t, l, billing.User{Name: "alice", Balance: 1000})
	k := key("sk-alice", "alice", limits(500, 0))
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", ahead)
	hold(t, l, billing.PaidFromBalance, req("a", 300, withKey(k)))
	hold(t, l, billing.PaidFromBalance, req("b", 100, withKey(k)))
	hold(t, l, billing.PaidFromSubscription, req("c", 100, ofGroup("g", billing.Limits{200, 0, 0})))
	remove(t, l, "alice")
	settle(t, l, spent("a", k, epoch, 250))
	settle(t, l, spent("a", k, epoch, 250))
	l.Release(t.Context(), "b")
	settle(t, l, used("c", epoch, 30))
	settle(t, l, numbered(spent("of no charge", k, epoch, 0), 1))
	wantStranger(t, l, "alice")
	add(t, l, billing.User{Name: "alice", Balance: 1000})
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	if n := len(List(t, l, billing.RecordFilter{User: "alice"})); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
}

func userRevived(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	add(t, l, billing.User{Name: "alice", Balance: 1000, Concurrency: 7}, billing.User{Name: "debtor"})
	k := key("sk-alice", "alice")
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", ahead)
	settle(t, l, used("a", now, 10))
	credit(t, l, "alice", "c", 5, 1005)
	yes := true
	if err := l.ChangeUser(t.Context(), "alice", billing.UserChange{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	owing := record("b", 70)
	owing.User = "debtor"
	settle(t, l, owing)
	remove(t, l, "alice")
	remove(t, l, "debtor")

	add(t, l, billing.User{Name: "alice", Balance: 20, Concurrency: 2})
	wantProfile(t, l, billing.Profile{Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 20}, Concurrency: 2})
	wantNoLogin(t, l, k)
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g"})
	refused(t, l, billing.Refusal{Reason: billing.ReasonSubscription}, req("d", 1, ofGroup("g", billing.Limits{})))
	wantUsed(t, l, "g", billing.Daily, 0, time.Time{})
	credit(t, l, "alice", "d", 1, 21)
	declare(t, l, billing.User{Name: "debtor", Balance: 3}) // by the config this time
	wantProfile(t, l, billing.Profile{Name: "debtor", Source: billing.SourceConfig, Balance: billing.Balance{Amount: 3}})
	addKey(t, l, k)
	wantLogin(t, l, k)
	remove(t, l, "alice")
	add(t, l, billing.User{Name: "alice"})
	wantBalance(t, l, "alice", billing.Balance{})
}

func declaredThenAdded(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Unlimited: true})
	want := billing.Profile{Name: "alice", Source: billing.SourceConfig, Balance: billing.Balance{Amount: 1000}}
	wantProfile(t, l, want)
	wantProfile(t, l, billing.Profile{Name: "bob", Source: billing.SourceConfig})
	yes := true
	for what, err := range map[string]error{
		"ChangeUser": l.ChangeUser(t.Context(), "alice", billing.UserChange{Disabled: &yes}),
		"RemoveUser": l.RemoveUser(t.Context(), "alice"),
	} {
		if !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("%s of a declared user: %v, want ErrUnknownUser", what, err)
		}
	}
	k := key("sk-alice", "alice")
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", ahead)
	settle(t, l, record("a", 300))
	add(t, l, billing.User{Name: "alice", Balance: 50, Concurrency: 3}, billing.User{Name: "bob", Balance: 9})
	want.Source, want.Balance.Amount, want.Concurrency = billing.SourceAPI, 750, 3
	want.Subscriptions = []billing.Subscription{{Group: "g", Subscribed: true, Until: ahead}}
	wantProfile(t, l, want)
	wantLogin(t, l, k)
	wantProfile(t, l, billing.Profile{Name: "bob", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 9}})
	remove(t, l, "alice")
	declare(t, l, billing.User{Name: "alice", Balance: 1000}) // another alice
	wantProfile(t, l, billing.Profile{Name: "alice", Source: billing.SourceConfig, Balance: billing.Balance{Amount: 1000}})
}

// addedThenDeclared: a config that declares whom the API made changes nothing of
// them, and nothing when it no longer does.
func addedThenDeclared(t *testing.T, w world) {
	l := w.open(t)
	add(t, l, billing.User{Name: "alice", Balance: 50, Concurrency: 3}, billing.User{Name: "bob", Balance: 7})
	yes := true
	if err := l.ChangeUser(t.Context(), "alice", billing.UserChange{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	k := key("sk-alice", "alice")
	addKey(t, l, k)
	alice := billing.Profile{
		Name: "alice", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 50}, Concurrency: 3, Disabled: true,
	}
	bob := billing.Profile{Name: "bob", Source: billing.SourceAPI, Balance: billing.Balance{Amount: 7}}
	for range 2 {
		declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Unlimited: true})
		wantProfile(t, l, alice)
		wantProfile(t, l, bob)
		if p := wantLogin(t, l, k); p.Source != billing.SourceAPI || !p.Disabled || p.Concurrency != 3 {
			t.Errorf("the owner is %+v", p)
		}
		if err := l.AddUser(t.Context(), billing.User{Name: "alice", Balance: 1}); !errors.Is(err, billing.ErrUserExists) {
			t.Errorf("AddUser: %v, want ErrUserExists", err)
		}
		close1(t, l)
		l = w.open(t)
	}
	defer close1(t, l)
	declare(t, l, billing.User{Name: "bob", Balance: 1000})
	wantProfile(t, l, bob)
	remove(t, l, "alice")
	wantStranger(t, l, "alice")
	declare(t, l, billing.User{Name: "alice", Balance: 1000}, billing.User{Name: "bob", Balance: 1000})
	wantProfile(t, l, billing.Profile{Name: "alice", Source: billing.SourceConfig, Balance: billing.Balance{Amount: 1000}})
}

func usersListed(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	names := []string{"b", "B", "a", "ab", "é", "a b", "日本", "10", "9"}
	for i, name := range names {
		u := billing.User{Name: name, Balance: billing.USD(i)}
		if i%2 == 0 {
			add(t, l, u)
		} else {
			declare(t, l, u)
		}
	}
	hold(t, l, billing.PaidFromBalance, &billing.HoldRequest{ID: "a", User: "é", Amount: 2, MinAvailable: 2})
	subscribe(t, l, "ab", "g", ahead)
	slices.Sort(names)
	wantUsers(t, l, names...)
}

func anyAddedName(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	names := []string{"a b", "{a}", "}{", "a:b", "*", "é\x00\n'\"", "a", ":", "\xff", "%", "_"}
	for _, name := range names {
		add(t, l, billing.User{Name: name, Balance: 1000})
		credit(t, l, name, name, 100, 1100)
		addKey(t, l, key("sk-"+name, name, limits(100, 0)))
		subscribe(t, l, name, name, ahead)
		c := req("id "+name, 10, withKey(key("sk-"+name, name)))
		c.User = name
		hold(t, l, billing.PaidFromBalance, c)
		r := spent("id "+name, key("sk-"+name, name), epoch, 1)
		settle(t, l, r)
	}
	for _, name := range names {
		wantProfile(t, l, billing.Profile{
			Name: name, Source: billing.SourceAPI, Balance: billing.Balance{Amount: 1099},
			Subscriptions: []billing.Subscription{{Group: name, Subscribed: true, Until: ahead}},
		})
	}
	remove(t, l, "*")
	if users, err := l.Users(t.Context()); err != nil || len(users) != len(names)-1 {
		t.Errorf("%d users, %v; want %d", len(users), err, len(names)-1)
	}
	if keys, err := l.Keys(t.Context(), ""); err != nil || len(keys) != len(names)-1 {
		t.Errorf("%d keys, %v; want %d", len(keys), err, len(names)-1)
	}
}
