package redisledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

func keyOf(user, secret string) billing.Key {
	d := sha256.Sum256([]byte(secret))
	return billing.Key{ID: fmt.Sprintf("%x", d[:6]), Digest: d, User: user}
}

// wantLogin checks what a ledger makes of a key: nil for a key that is good.
func wantLogin(t *testing.T, l *Ledger, k billing.Key, want error) {
	t.Helper()
	got, profile, err := l.Login(context.Background(), k.Digest)
	if !errors.Is(err, want) || err == nil && (got.ID != k.ID || profile.Name != k.User) {
		t.Errorf("Login: key %q of %q, %v; want key %q of %q, %v", got.ID, profile.Name, err, k.ID, k.User, want)
	}
}

// TestChangesReachOthersInTwoSeconds although all is answered from memory.
func TestChangesReachOthersInTwoSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		a, b := open(t, client, Options{Namespace: "n"}), open(t, client, Options{Namespace: "n"})
		ctx := t.Context()
		must(t, a.AddUser(ctx, billing.User{Name: "alice", Balance: 10}))
		must(t, a.AddUser(ctx, billing.User{Name: "bob"}))
		revoked, removed, late := keyOf("alice", "revoked"), keyOf("bob", "removed"), keyOf("alice", "late")
		must(t, a.AddKey(ctx, revoked))
		must(t, a.AddKey(ctx, removed))
		wantLogin(t, b, revoked, nil)
		wantLogin(t, b, removed, nil)
		wantLogin(t, b, late, billing.ErrUnknownKey)
		profile := func(want func(billing.Profile) bool) {
			t.Helper()
			time.Sleep(2 * time.Second)
			if _, p, err := b.Login(ctx, revoked.Digest); err != nil || !want(p) {
				t.Errorf("two seconds after a change: %+v, %v", p, err)
			}
		}
		profile(func(p billing.Profile) bool { return !p.Disabled && p.Balance.Amount == 10 })
		yes, five := true, 5
		must(t, a.ChangeUser(ctx, "alice", billing.UserChange{Disabled: &yes, Concurrency: &five}))
		profile(func(p billing.Profile) bool { return p.Disabled && p.Concurrency == 5 })
		if _, _, err := a.Credit(ctx, "alice", billing.Credit{ID: "c", Amount: 7}); err != nil {
			t.Fatal(err)
		}
		profile(func(p billing.Profile) bool { return p.Balance.Amount == 17 })
		must(t, a.Subscribe(ctx, "alice", "g", time.Time{}))
		profile(func(p billing.Profile) bool { return len(p.Subscriptions) == 1 })
		must(t, a.Unsubscribe(ctx, "alice", "g"))
		profile(func(p billing.Profile) bool { return len(p.Subscriptions) == 0 })
		must(t, a.Declare(ctx, []billing.User{{Name: "alice", Unlimited: true}}))
		profile(func(p billing.Profile) bool { return p.Source == billing.SourceConfig && p.Balance.Unlimited })

		must(t, a.RevokeKey(ctx, revoked.ID))
		must(t, a.RemoveUser(ctx, "bob"))
		must(t, a.AddKey(ctx, late))
		for _, own := range []struct {
			key  billing.Key
			want error
		}{{revoked, billing.ErrUnknownKey}, {removed, billing.ErrUnknownKey}, {late, nil}} {
			wantLogin(t, a, own.key, own.want) // at once where it was changed
		}
		time.Sleep(2 * time.Second)
		wantLogin(t, b, revoked, billing.ErrUnknownKey)
		wantLogin(t, b, removed, billing.ErrUnknownKey)
		wantLogin(t, b, late, nil)
	})
}

// TestMoreChangesThanAreTold: then all is asked for again.
func TestMoreChangesThanAreTold(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	a, b := open(t, client, Options{Namespace: "n"}), open(t, client, Options{Namespace: "n"})
	stopLoops(b)
	declareAlice(t, a)
	k, wrong := keyOf("alice", "k"), keyOf("alice", "wrong")
	must(t, a.AddKey(t.Context(), k))
	wantLogin(t, b, k, nil)
	wantLogin(t, b, wrong, billing.ErrUnknownKey)
	must(t, a.RevokeKey(t.Context(), k.ID))
	must(t, a.AddKey(t.Context(), wrong))
	for i := range 1000 {
		must(t, a.Subscribe(t.Context(), "alice", "g", time.Unix(int64(i), 0)))
	}
	wantLogin(t, b, k, nil)
	must(t, b.readChanges(t.Context()))
	wantLogin(t, b, k, billing.ErrUnknownKey)
	wantLogin(t, b, wrong, nil)

	mini.FlushAll() // and so it is when Redis has lost its data
	must(t, b.readChanges(t.Context()))
	wantLogin(t, b, wrong, billing.ErrUnknownKey)
}

// TestLoginOvertakenByAChange: an answer from before a change is not remembered
// after it.
func TestLoginOvertakenByAChange(t *testing.T) {
	ls := newLogins()
	d := digest{1}
	ls.learn(d, new(login), 5)
	ls.take(6, true)
	ls.forgetKey(d)
	ls.learn(d, new(login), 5)
	if known, _ := ls.find(d); known != nil {
		t.Error("what changed is answered from memory")
	}
	ls.learn(d, new(login), 7)
	if known, _ := ls.find(d); known == nil {
		t.Error("what is newer is not")
	}
}

func TestLoginFromMemory(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l)
	declareAlice(t, l)
	known, wrong := keyOf("alice", "known"), keyOf("alice", "wrong")
	must(t, l.AddKey(t.Context(), known))
	trips := new(roundTrips)
	wantLogin(t, l, known, nil)
	client.AddHook(trips)
	wantLogin(t, l, wrong, billing.ErrUnknownKey)
	trips.want(t, "a key that was not asked for before", 1)
	for range 3 {
		wantLogin(t, l, known, nil)
		wantLogin(t, l, wrong, billing.ErrUnknownKey)
	}
	trips.want(t, "keys that were", 0)

	for i := range mostWrongKeys + 10 {
		if i%100 == 0 {
			wantLogin(t, l, wrong, billing.ErrUnknownKey) // which is asked for again and again
		}
		l.logins.learn(sha256.Sum256(fmt.Append(nil, i)), nil, 1<<40)
	}
	if n := len(l.logins.wrong); n != mostWrongKeys || l.logins.order.Len() != n {
		t.Errorf("%d wrong keys are remembered, want %d", n, mostWrongKeys)
	}
	wantLogin(t, l, known, nil)
	wantLogin(t, l, wrong, billing.ErrUnknownKey)
	trips.want(t, "keys that were, after many wrong ones", 0)

	mini.Close()
	settle(t, l, "a") // which finds out
	wantLogin(t, l, known, nil)
	_, _, err := l.Login(t.Context(), keyOf("alice", "other").Digest)
	if err == nil || errors.Is(err, billing.ErrUnknownKey) {
		t.Errorf("Login with a key that is not known here: %v, want an error of Redis", err)
	}
}

// TestSchema: data of the version before goes on, that of a newer one is left
// alone.
func TestSchema(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	mini.HSet("{n}:user:alice", "balance", fmt.Sprint(int64(opening)-5*charge), "opening", fmt.Sprint(int64(opening)), "unlimited", "0", "version", "6")
	l := open(t, client, Options{Namespace: "n"})
	wantSettled(t, l, 5)
	declareAlice(t, l)
	wantSettled(t, l, 5)
	settle(t, l, "a")
	wantSettled(t, l, 6)
	users, err := l.Users(t.Context())
	if err != nil || len(users) != 1 || users[0].Source != billing.SourceConfig {
		t.Errorf("users %+v, %v", users, err)
	}
	if got, _ := mini.Get("{n}:schema"); got != "2" {
		t.Errorf("schema %q, want 2", got)
	}
	mini.Set("{n}:schema", "3")
	err = l.Declare(t.Context(), []billing.User{{Name: "bob", Balance: 1}})
	if err == nil || !strings.Contains(err.Error(), "version 3") || !strings.Contains(err.Error(), "knows 2") {
		t.Errorf("Declare over a newer schema: %v, want an error that names both versions", err)
	}
	if mini.Exists("{n}:user:bob") {
		t.Error("the user was declared all the same")
	}
}

// TestManyUsers are listed, and declared, over several batches.
func TestManyUsers(t *testing.T) {
	mini := miniredis.RunT(t)
	l := open(t, connect(t, &redis.Options{Addr: mini.Addr()}), Options{Namespace: "n"})
	var users []billing.User
	for i := range 2*profileBatch + 7 {
		users = append(users, billing.User{Name: fmt.Sprintf("%04d", i), Balance: billing.USD(i)})
	}
	must(t, l.Declare(t.Context(), users))
	listed, err := l.Users(t.Context())
	if err != nil || len(listed) != len(users) {
		t.Fatalf("%d users, %v; want %d", len(listed), err, len(users))
	}
	for i, p := range listed {
		if p.Name != users[i].Name || p.Balance.Amount != users[i].Balance {
			t.Errorf("user %d is %+v", i, p)
		}
	}
	var keys []string
	for i, u := range users {
		k := keyOf(u.Name, u.Name)
		k.Created = time.Unix(int64(-i), 0)
		must(t, l.AddKey(t.Context(), k))
		keys = append(keys, k.ID)
	}
	slices.Reverse(keys)
	all, err := l.Keys(t.Context(), "")
	for i := range all {
		if all[i].ID != keys[i] {
			t.Fatalf("key %d is %s, want %s", i, all[i].ID, keys[i])
		}
	}
	if err != nil || len(all) != len(keys) {
		t.Errorf("%d keys, %v; want %d", len(all), err, len(keys))
	}
}

// TestSumsEndBeforeTheyOverflow as balances do that Redis can't count.
func TestSumsEndBeforeTheyOverflow(t *testing.T) {
	mini := miniredis.RunT(t)
	l := open(t, connect(t, &redis.Options{Addr: mini.Addr()}), Options{Namespace: "n"})
	ctx := t.Context()
	must(t, l.AddUser(ctx, billing.User{Name: "alice", Balance: largestAmount / 2}))
	credit := func(id string, amount billing.USD) error {
		_, _, err := l.Credit(ctx, "alice", billing.Credit{ID: id, Amount: amount})
		return err
	}
	must(t, credit("a", largestAmount/2))
	if err := credit("b", 1); err == nil || errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("a credit beyond the end: %v", err)
	}
	if b, err := l.Balance(ctx, "alice"); err != nil || b.Amount != largestAmount {
		t.Errorf("balance %s, %v", b.Amount, err)
	}
	for i := range 2 {
		c := claim(fmt.Sprint(i), largestAmount)
		c.Least = 1
		_, err := l.Hold(ctx, c)
		if met := err == nil; met != (i == 0) {
			t.Errorf("Hold %d: %v", i, err)
		}
	}
	for i := range 6 {
		err := credit(fmt.Sprint("less ", i), -largestAmount/2)
		if met := err == nil; met != (i < 3) {
			t.Errorf("credit %d: %v", i, err)
		}
	}
	r := exampleOf("r")
	r.Billing, r.Group = billing.PaidFromSubscription, "g"
	for i := range 5 { // the windows stop counting, the records are kept
		r.ID, r.Cost = fmt.Sprint("cost ", i), largestAmount
		must(t, l.Settle(ctx, r, nil))
	}
}
