package redisledger_test

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

// mostAmount is the most that a ledger credits or charges at once, twice.
const mostAmount billing.USD = 1 << 62

func keyOf(user, secret string) billing.Key {
	d := sha256.Sum256([]byte(secret))
	return billing.Key{ID: fmt.Sprintf("%x", d[:6]), Digest: d, User: user}
}

// wantLogin checks what a ledger makes of a key: nil for a key that is good.
func (n *node) wantLogin(t *testing.T, k billing.Key, want error) {
	t.Helper()
	got, profile, err := n.Login(context.Background(), k.Digest)
	if !errors.Is(err, want) || err == nil && (got.ID != k.ID || profile.Name != k.User) {
		t.Errorf("Login: key %q of %q, %v; want key %q of %q, %v", got.ID, profile.Name, err, k.ID, k.User, want)
	}
}

// TestChangesReachOthersInTwoSeconds although all is answered from memory.
func TestChangesReachOthersInTwoSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		a, b := open(t, client), open(t, client)
		ctx := t.Context()
		must(t, a.AddUser(ctx, billing.User{Name: "alice", Balance: 10}))
		must(t, a.AddUser(ctx, billing.User{Name: "bob"}))
		revoked, removed, late := keyOf("alice", "revoked"), keyOf("bob", "removed"), keyOf("alice", "late")
		must(t, a.AddKey(ctx, revoked))
		must(t, a.AddKey(ctx, removed))
		b.wantLogin(t, revoked, nil)
		b.wantLogin(t, removed, nil)
		b.wantLogin(t, late, billing.ErrUnknownKey)
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

		must(t, a.RevokeKey(ctx, revoked.ID))
		must(t, a.RemoveUser(ctx, "bob"))
		must(t, a.AddKey(ctx, late))
		a.wantLogin(t, revoked, billing.ErrUnknownKey) // at once where it was changed
		a.wantLogin(t, removed, billing.ErrUnknownKey)
		a.wantLogin(t, late, nil)
		time.Sleep(2 * time.Second)
		b.wantLogin(t, revoked, billing.ErrUnknownKey)
		b.wantLogin(t, removed, billing.ErrUnknownKey)
		b.wantLogin(t, late, nil)
	})
}

// TestMoreChangesThanAreTold: then all is asked for again, as when Redis has lost its
// data.
func TestMoreChangesThanAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		a, b := open(t, client), open(t, clientOf(t, mini))
		a.declareAlice(t)
		k, wrong := keyOf("alice", "k"), keyOf("alice", "wrong")
		must(t, a.AddKey(t.Context(), k))
		b.wantLogin(t, k, nil)
		b.wantLogin(t, wrong, billing.ErrUnknownKey)
		must(t, a.RevokeKey(t.Context(), k.ID))
		must(t, a.AddKey(t.Context(), wrong))
		for i := range 1000 {
			must(t, a.Subscribe(t.Context(), "alice", "g", time.Unix(int64(i), 0)))
		}
		b.wantLogin(t, k, nil) // it has not heard of it
		time.Sleep(2 * time.Second)
		b.wantLogin(t, k, billing.ErrUnknownKey)
		b.wantLogin(t, wrong, nil)

		mini.FlushAll()
		time.Sleep(2 * time.Second)
		b.wantLogin(t, wrong, billing.ErrUnknownKey)
	})
}

func TestLoginFromMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		known, wrong := keyOf("alice", "known"), keyOf("alice", "wrong")
		must(t, l.AddKey(t.Context(), known))
		trips := new(roundTrips)
		l.wantLogin(t, known, nil)
		client.AddHook(pipelineHook(trips.hook))
		l.wantLogin(t, wrong, billing.ErrUnknownKey)
		trips.want(t, "a key that was not asked for before", 1)
		for range 3 {
			l.wantLogin(t, known, nil)
			l.wantLogin(t, wrong, billing.ErrUnknownKey)
		}
		trips.want(t, "keys that were", 0)
		const many = 10_010 // more than are remembered, which are all forgotten once
		for i := range many {
			if i%100 == 0 {
				l.wantLogin(t, wrong, billing.ErrUnknownKey) // which is asked for again and again
			}
			l.wantLogin(t, keyOf("alice", fmt.Sprint("wrong ", i)), billing.ErrUnknownKey)
		}
		trips.want(t, "wrong keys", many+1)
		l.wantLogin(t, known, nil)
		l.wantLogin(t, wrong, billing.ErrUnknownKey)
		trips.want(t, "keys that were, after many wrong ones", 0)
		l.wantLogin(t, keyOf("alice", "wrong 0"), billing.ErrUnknownKey)
		trips.want(t, "a wrong one that was forgotten", 1)

		outageOf(client).is.Store(true)
		l.settle(t, "a") // which finds out
		l.wantLogin(t, known, nil)
		if _, _, err := l.Login(t.Context(), keyOf("alice", "other").Digest); err == nil || errors.Is(err, billing.ErrUnknownKey) {
			t.Errorf("Login with a key that is not known here: %v, want an error of Redis", err)
		}
	})
}

// TestSchema: data of the version before goes on, that of a newer one is left
// alone.
func TestSchema(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	mini.HSet("{n}:user:alice", "balance", fmt.Sprint(int64(opening)-5*charge), "opening", fmt.Sprint(int64(opening)), "unlimited", "0", "version", "6")
	l := open(t, client)
	l.wantSettled(t, 5)
	l.declareAlice(t)
	l.wantSettled(t, 5)
	l.settle(t, "a")
	l.wantSettled(t, 6)
	users, err := l.Users(t.Context())
	if err != nil || len(users) != 1 || users[0].Source != billing.SourceConfig {
		t.Errorf("users %+v, %v", users, err)
	}
	if got, _ := mini.Get("{n}:schema"); got != "2" {
		t.Errorf("schema %q, want 2", got)
	}
	must(t, mini.Set("{n}:schema", "3"))
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
	l := open(t, connect(t, &redis.Options{Addr: mini.Addr()}))
	var users []billing.User
	for i := range 2*256 + 7 {
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
	if err != nil || len(all) != len(keys) {
		t.Fatalf("%d keys, %v; want %d", len(all), err, len(keys))
	}
	for i := range all {
		if all[i].ID != keys[i] {
			t.Fatalf("key %d is %s, want %s", i, all[i].ID, keys[i])
		}
	}
}

// TestSumsEndBeforeTheyOverflow as balances do that Redis can't count.
func TestSumsEndBeforeTheyOverflow(t *testing.T) {
	mini := miniredis.RunT(t)
	l := open(t, connect(t, &redis.Options{Addr: mini.Addr()}))
	ctx := t.Context()
	must(t, l.AddUser(ctx, billing.User{Name: "alice", Balance: mostAmount / 2}))
	credit := func(id string, amount billing.USD) error {
		_, _, err := l.Credit(ctx, "alice", billing.Credit{ID: id, Amount: amount})
		return err
	}
	must(t, credit("a", mostAmount/2))
	if err := credit("b", 1); err == nil || errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("a credit beyond the end: %v", err)
	}
	l.wantBalance(t, mostAmount)
	for i := range 2 {
		c := claim(fmt.Sprint(i), mostAmount)
		c.Least = 1
		_, err := l.Hold(ctx, c)
		if met := err == nil; met != (i == 0) {
			t.Errorf("Hold %d: %v", i, err)
		}
	}
	for i := range 6 {
		err := credit(fmt.Sprint("less ", i), -mostAmount/2)
		if met := err == nil; met != (i < 3) {
			t.Errorf("credit %d: %v", i, err)
		}
	}
	r := exampleOf("r")
	r.Billing, r.Group = billing.PaidFromSubscription, "g"
	for i := range 5 { // the windows stop counting, the records are kept
		r.ID, r.Cost = fmt.Sprint("cost ", i), mostAmount
		must(t, l.Settle(ctx, r, nil))
	}
	if n := len(recordsIn(t, l, billing.RecordFilter{})); n != 5 {
		t.Errorf("%d records, want 5", n)
	}
}
