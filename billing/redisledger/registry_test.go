package redisledger_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

const (
	// mostWrongKeys is how many digests of no key are remembered.
	mostWrongKeys = 10_000
	// registryBatch is how many users one script gives, or declares.
	registryBatch = 256
	// largestAmount is the most that is credited or charged at once.
	largestAmount billing.USD = 1 << 62
)

func keyOf(user, secret string) billing.Key {
	d := sha256.Sum256([]byte(secret))
	return billing.Key{ID: fmt.Sprintf("%x", d[:6]), Digest: d, User: user}
}

// wantLogin checks what a ledger makes of a key: nil for a key that is good.
func (n *node) wantLogin(t testing.TB, k billing.Key, want error) {
	t.Helper()
	got, profile, err := n.Login(context.Background(), k.Digest)
	if !errors.Is(err, want) || err == nil && (got.ID != k.ID || profile.Name != k.User) {
		t.Errorf("Login: key %q of %q, %v; want key %q of %q, %v", got.ID, profile.Name, err, k.ID, k.User, want)
	}
}

// TestChangesReachOthersInTwoSeconds although all is answered from memory.
func TestChangesReachOthersInTwoSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		a, b := open(t, client), open(t, clientOf(t, mini))
		ctx := t.Context()
		must(t, a.AddUser(ctx, billing.User{Name: "alice", Balance: 10}))
		must(t, a.AddUser(ctx, billing.User{Name: "bob"}))
		revoked, removed, late := keyOf("alice", "revoked"), keyOf("bob", "removed"), keyOf("alice", "late")
		must(t, a.AddKey(ctx, revoked))
		must(t, a.AddKey(ctx, removed))
		b.wantLogin(t, revoked, nil)
		b.wantLogin(t, removed, nil)
		b.wantLogin(t, late, billing.ErrUnknownKey)
		yes, no, five := true, false, 5
		for _, change := range []struct {
			what string
			make func() error
			want func(billing.Profile) bool
		}{
			{"nothing", func() error { return nil }, func(p billing.Profile) bool { return !p.Disabled && p.Balance.Amount == 10 }},
			{"disabled", func() error {
				return a.ChangeUser(ctx, "alice", billing.UserChange{Disabled: &yes, Concurrency: &five})
			},
				func(p billing.Profile) bool { return p.Disabled && p.Concurrency == 5 }},
			{"enabled", func() error { return a.ChangeUser(ctx, "alice", billing.UserChange{Disabled: &no}) },
				func(p billing.Profile) bool { return !p.Disabled && p.Concurrency == 5 }},
			{"credited", func() error {
				_, _, err := a.Credit(ctx, "alice", billing.Credit{ID: "c", Amount: 7})
				return err
			}, func(p billing.Profile) bool { return p.Balance.Amount == 17 }},
			{"subscribed", func() error { return a.Subscribe(ctx, "alice", "g", time.Time{}) },
				func(p billing.Profile) bool { return len(p.Subscriptions) == 1 }},
			{"unsubscribed", func() error { return a.Unsubscribe(ctx, "alice", "g") },
				func(p billing.Profile) bool { return len(p.Subscriptions) == 0 }},
			{"another key", func() error { return a.AddKey(ctx, late) },
				func(p billing.Profile) bool { return p.Name == "alice" && p.Balance.Amount == 17 }},
		} {
			must(t, change.make())
			time.Sleep(2 * time.Second)
			for _, n := range []*node{a, b} {
				if _, p, err := n.Login(ctx, revoked.Digest); err != nil || !change.want(p) {
					t.Errorf("%s, two seconds later: %+v, %v", change.what, p, err)
				}
			}
		}
		b.wantLogin(t, late, nil)

		must(t, a.RevokeKey(ctx, revoked.ID))
		must(t, a.RemoveUser(ctx, "bob"))
		a.wantLogin(t, revoked, billing.ErrUnknownKey) // at once where it was changed
		a.wantLogin(t, removed, billing.ErrUnknownKey)
		time.Sleep(2 * time.Second)
		b.wantLogin(t, revoked, billing.ErrUnknownKey)
		b.wantLogin(t, removed, billing.ErrUnknownKey)
		b.wantLogin(t, late, nil)

		must(t, a.AddUser(ctx, billing.User{Name: "bob", Balance: 3})) // another bob
		again := keyOf("bob", "again")
		must(t, a.AddKey(ctx, again))
		b.wantLogin(t, removed, billing.ErrUnknownKey)
		if _, p, err := b.Login(ctx, again.Digest); err != nil || p.Balance.Amount != 3 {
			t.Errorf("the next bob is %+v, %v", p, err)
		}
	})
}

// TestChangesInAnOutageReachWhoMissedThem when it is over for them: what is known goes
// on until then.
func TestChangesInAnOutageReachWhoMissedThem(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		outage := outageOf(client)
		b, a := open(t, client), open(t, clientOf(t, mini))
		a.declareAlice(t)
		k, late := keyOf("alice", "k"), keyOf("alice", "late")
		must(t, a.AddKey(t.Context(), k))
		b.wantLogin(t, k, nil)
		outage.is.Store(true)
		must(t, a.RevokeKey(t.Context(), k.ID))
		must(t, a.AddKey(t.Context(), late))
		time.Sleep(time.Minute)
		b.wantLogin(t, k, nil)
		b.wantLogin(t, late, billing.ErrUnavailable)
		outage.is.Store(false)
		time.Sleep(20 * time.Second) // the outage is only noticed within it
		b.wantLogin(t, k, billing.ErrUnknownKey)
		b.wantLogin(t, late, nil)
	})
}

// TestMoreChangesThanAreTold: then all is asked for again; and so it is when Redis has
// lost its data.
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
		b.wantLogin(t, k, nil)
		time.Sleep(2 * time.Second)
		b.wantLogin(t, k, billing.ErrUnknownKey)
		b.wantLogin(t, wrong, nil)

		mini.FlushAll()
		time.Sleep(2 * time.Second)
		b.wantLogin(t, wrong, billing.ErrUnknownKey)
	})
}

// TestLoginOvertakenByAChange: an answer from before a change is not remembered after
// it.
func TestLoginOvertakenByAChange(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		b, a := open(t, client), open(t, clientOf(t, mini))
		a.declareAlice(t)
		k, known := keyOf("alice", "k"), keyOf("alice", "known")
		must(t, a.AddKey(t.Context(), k))
		must(t, a.AddKey(t.Context(), known))
		b.wantLogin(t, known, nil)
		var slow atomic.Bool
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				err := next(ctx, cmds)
				if isScript(cmds) && slow.Swap(false) {
					time.Sleep(3 * time.Second)
				}
				return err
			}
		}))
		slow.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.wantLogin(t, k, nil) // by then, it was good
		}()
		synctest.Wait()
		must(t, a.RevokeKey(t.Context(), k.ID))
		<-done
		b.wantLogin(t, k, billing.ErrUnknownKey)
		b.wantLogin(t, known, nil)
	})
}

// TestLoginFromMemory: a digest is asked for once, unless very many are wrong.
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

		for i := range mostWrongKeys - 1 {
			l.wantLogin(t, keyOf("alice", fmt.Sprint(i)), billing.ErrUnknownKey)
		}
		trips.want(t, "wrong keys", mostWrongKeys-1)
		l.wantLogin(t, wrong, billing.ErrUnknownKey)
		l.wantLogin(t, known, nil)
		trips.want(t, "keys that were asked for, after as many wrong ones as are remembered", 0)
		l.wantLogin(t, keyOf("alice", "one more"), billing.ErrUnknownKey)
		l.wantLogin(t, known, nil)
		trips.want(t, "one more", 1)
		l.wantLogin(t, wrong, billing.ErrUnknownKey)
		trips.want(t, "a wrong key that was forgotten", 1)

		mini.SetError(loading)
		l.settle(t, "a") // which finds out
		l.wantLogin(t, known, nil)
		l.wantLogin(t, wrong, billing.ErrUnknownKey)
		l.wantLogin(t, keyOf("alice", "other"), billing.ErrUnavailable)
	})
}

// TestWhatIsKnownOfUsersEndsWithRedissData: it has lost all, of which no record tells,
// and whoever is asked for first has all declared again. What is known of the others is
// of before.
func TestWhatIsKnownOfUsersEndsWithRedissData(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		for balance := range billing.USD(3) { // the first counts
			must(t, l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: 10 + balance}, {Name: "bob", Balance: balance}}))
		}
		l.wantBalance(t, 10)
		mini.FlushAll()
		if b, err := l.Balance(t.Context(), "bob"); err != nil || b.Amount != 2 {
			t.Errorf("bob has %s, %v; want what the config says now", b.Amount, err)
		}
		l.wantBalance(t, 12)
		l.settle(t, "a")
		l.wantBalance(t, 12-charge)
	})
}

// TestSchema: data of the version before goes on, that of a newer one is left alone.
func TestSchema(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		ctx := t.Context()
		mini.HSet("{n}:user:alice", "balance", fmt.Sprint(int64(opening)-5*charge), "opening", fmt.Sprint(int64(opening)), "unlimited", "0", "version", "6")
		l := open(t, client)
		l.wantSettled(t, 5)
		l.declareAlice(t)
		l.wantSettled(t, 5)
		l.settle(t, "a")
		l.wantSettled(t, 6)
		users, err := l.Users(ctx)
		if err != nil || len(users) != 1 || users[0].Source != billing.SourceConfig {
			t.Errorf("users %+v, %v", users, err)
		}
		if got, _ := mini.Get("{n}:schema"); got != "2" {
			t.Errorf("schema %q, want 2", got)
		}
		must(t, mini.Set("{n}:schema", "3"))
		err = l.Declare(ctx, []billing.User{{Name: "bob", Balance: 1}})
		if err == nil || !strings.Contains(err.Error(), "version 3") || !strings.Contains(err.Error(), "knows 2") {
			t.Errorf("Declare over a newer schema: %v, want an error that names both versions", err)
		}
		if mini.Exists("{n}:user:bob") {
			t.Error("the user was declared all the same")
		}
	})
}

// TestRecordsOfAnEarlierVersion, which had no numbers of users, and did not keep when a
// record was settled, are read, are charged once, and are pruned.
func TestRecordsOfAnEarlierVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		ctx := t.Context()
		mini.HSet("{n}:user:alice", "balance", fmt.Sprint(int64(opening)-2*charge), "opening", fmt.Sprint(int64(opening)), "version", "3", "source", "config")
		day := today.Format(time.DateOnly)
		mini.SetAdd("{n}:days", day)
		kept := map[string]*billing.Record{}
		for id, isUnpriced := range map[string]bool{"old": false, "unpriced": true} {
			r := exampleOf(id)
			r.Unpriced = isUnpriced
			kept[id] = r
			data := journal.Encode(nil, r)
			data = data[:len(data)-1] // the user's number, which is 0
			mini.HSet("{n}:records:"+day, id, string(data))
			stamp := binary.BigEndian.AppendUint64(nil, uint64(r.Time.UnixNano())^1<<63)
			_, err := mini.ZAdd("{n}:index:"+day, 0, string(stamp)+id)
			must(t, err)
		}
		l := open(t, client)
		l.declareAlice(t)
		l.wantSettled(t, 2)
		for id, want := range kept {
			got, err := l.Record(ctx, id)
			must(t, err)
			want.Settled = want.Time
			if *got != *want {
				t.Errorf("record %+v, want %+v", got, want)
			}
			must(t, l.Settle(ctx, got, nil))
		}
		l.settle(t, "new")
		l.wantSettled(t, 3)
		checkKept(t, client, []string{"old", "unpriced", "new"})
		wantIdentity(t, client, "alice")
		mini.SetTime(today.AddDate(0, 0, 2))
		if n, err := l.Prune(ctx, today.AddDate(0, 0, 1)); n != 3 || err != nil {
			t.Errorf("Prune: %d, %v", n, err)
		}
		l.wantSettled(t, 3)
		wantIdentity(t, client, "alice")
	})
}

// TestManyUsers are listed, and declared, over several batches.
func TestManyUsers(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		var users []billing.User
		for i := range 2*registryBatch + 7 {
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
	})
}

// TestSumsEndBeforeTheyOverflow as balances do that Redis can't count.
func TestSumsEndBeforeTheyOverflow(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
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
		l.wantBalance(t, largestAmount)
		for i := range 2 {
			c := req(fmt.Sprint(i), largestAmount)
			c.MinAvailable = 1
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
		if s, err := l.Subscription(ctx, "alice", "g"); err != nil || s.Windows[billing.Daily].Used != largestAmount {
			t.Errorf("of the subscription %v is used, %v; want %s", s.Windows, err, largestAmount)
		}
		if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != 5 || l.Waiting() != 0 {
			t.Errorf("there are the records %v, and %d wait", ids, l.Waiting())
		}
	})
}
