package ledgertest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sub2api/caddy-sub2api/billing"
)

var keyTests = map[string]func(*testing.T, world){
	"keys come back as they went in":              keysRoundTrip,
	"keys are listed in order of creation":        keysListed,
	"a key logs in until it is revoked":           login,
	"a key that was asked for before it is there": loginLater,
	"keys of strangers and keys twice":            keysRefused,
	"a login tells of the owner's changes":        loginProfile,
	"a key's limits bind whoever pays":            keyLimits,
	"a key's limits have windows":                 keyWindows,
	"holds count in a key's windows":              keyHeld,
	"a claim is met whole or not at all":          allOrNothing,
	"a key is revoked in flight":                  revokeInFlight,
	"a key's last use":                            lastUsed,
}

// key makes a gateway key of some text.
func key(text, user string, change ...func(*billing.Key)) billing.Key {
	digest := sha256.Sum256([]byte(text))
	k := billing.Key{
		ID: hex.EncodeToString(digest[:6]), Digest: digest, Prefix: text[:1], User: user, Created: epoch.Truncate(time.Second),
	}
	for _, f := range change {
		f(&k)
	}
	return k
}

func limits(daily, monthly billing.USD) func(*billing.Key) {
	return func(k *billing.Key) { k.Limits = billing.Limits{billing.Daily: daily, billing.Monthly: monthly} }
}

func withKey(k billing.Key) func(*billing.HoldRequest) {
	return func(c *billing.HoldRequest) { c.KeyID = k.ID }
}

// spent is a record that was made with the key.
func spent(id string, k billing.Key, when time.Time, charged billing.USD) *billing.Record {
	r := record(id, charged)
	r.Time, r.KeyID, r.User = when, k.ID, k.User
	return r
}

func addKey(t *testing.T, l billing.Ledger, keys ...billing.Key) {
	t.Helper()
	for _, k := range keys {
		if err := l.AddKey(t.Context(), k); err != nil {
			t.Fatalf("AddKey(%s): %v", k.ID, err)
		}
	}
}

func revoke(t *testing.T, l billing.Ledger, k billing.Key) {
	t.Helper()
	if err := l.RevokeKey(t.Context(), k.ID); err != nil {
		t.Fatalf("RevokeKey(%s): %v", k.ID, err)
	}
}

func wantKeys(t *testing.T, l billing.Ledger, user string, want ...billing.Key) {
	t.Helper()
	got, err := l.Keys(t.Context(), user)
	if err != nil {
		t.Fatalf("Keys(%q): %v", user, err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(time.Second)); diff != "" {
		t.Errorf("Keys(%q) (-want +got):\n%s", user, diff)
	}
}

func wantLogin(t *testing.T, l billing.Ledger, want billing.Key) billing.Profile {
	t.Helper()
	got, owner, err := l.Login(t.Context(), want.Digest)
	if err != nil {
		t.Errorf("Login: %v", err)
		return owner
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(billing.Key{}, "LastUsed")); diff != "" {
		t.Errorf("Login: the key (-want +got):\n%s", diff)
	}
	if owner.Name != want.User {
		t.Errorf("Login: the owner is %q, want %q", owner.Name, want.User)
	}
	return owner
}

func wantNoLogin(t *testing.T, l billing.Ledger, k billing.Key) {
	t.Helper()
	if got, owner, err := l.Login(t.Context(), k.Digest); !errors.Is(err, billing.ErrUnknownKey) {
		t.Errorf("Login: key %+v of %q, %v; want ErrUnknownKey", got, owner.Name, err)
	}
}

func keysRoundTrip(t *testing.T, w world) {
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 10})
	if err := l.AddUser(t.Context(), billing.User{Name: "any: é}\x00"}); err != nil {
		t.Fatal(err)
	}
	full := key("sk-full", "any: é}\x00", limits(1<<53+1, 1<<61), func(k *billing.Key) {
		k.Groups = []string{"second", "first", "any: é}\x00,"}
		k.Models = []string{"claude-*", "claude-opus-5"}
		k.Expires = ahead
	})
	elsewhere := full
	elsewhere.Expires = ahead.In(time.FixedZone("elsewhere", 3600))
	plain := key("sk-plain", "alice", func(k *billing.Key) { k.Created = full.Created.Add(time.Second) })
	addKey(t, l, elsewhere, plain)
	wantKeys(t, l, "", full, plain)
	wantLogin(t, l, full)
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantLogin(t, l, full)
	wantLogin(t, l, plain)
	wantKeys(t, l, "", full, plain)
	got, err := l.Keys(t.Context(), full.User)
	if err != nil || len(got) != 1 || got[0].Expires.Location() != time.UTC || got[0].Created.Location() != time.UTC {
		t.Errorf("Keys: %+v, %v; want one, with times in UTC", got, err)
	}
}

func keysListed(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	wantKeys(t, l, "")
	wantKeys(t, l, "alice")
	declare(t, l, billing.User{Name: "alice"}, billing.User{Name: "bob"})
	var all, alices []billing.Key
	for i := range 20 {
		k := key(fmt.Sprint("sk-", i), []string{"alice", "bob"}[i%2])
		k.Created = k.Created.Add(time.Duration(i) * time.Minute)
		addKey(t, l, k)
		all = append(all, k)
		if k.User == "alice" {
			alices = append(alices, k)
		}
	}
	wantKeys(t, l, "", all...)
	wantKeys(t, l, "alice", alices...)
	revoke(t, l, all[2])
	wantKeys(t, l, "alice", append(alices[:1:1], alices[2:]...)...)
	wantKeys(t, l, "carol")
}

func login(t *testing.T, w world) {
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice"})
	one, two := key("sk-one", "alice"), key("sk-two", "alice")
	addKey(t, l, one, two)
	for range 2 {
		wantLogin(t, l, one)
		wantLogin(t, l, two)
		wantNoLogin(t, l, key("sk-three", ""))
		wantNoLogin(t, l, billing.Key{})
	}
	revoke(t, l, one)
	wantNoLogin(t, l, one)
	wantLogin(t, l, two)
	if err := l.RevokeKey(t.Context(), one.ID); !errors.Is(err, billing.ErrUnknownKey) {
		t.Errorf("RevokeKey again: %v, want ErrUnknownKey", err)
	}
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantNoLogin(t, l, one)
	wantLogin(t, l, two)
}

func loginLater(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"})
	k := key("sk-one", "alice")
	for range 2 {
		wantNoLogin(t, l, k)
		addKey(t, l, k)
		wantLogin(t, l, k)
		revoke(t, l, k)
	}
	wantNoLogin(t, l, k)
	wantKeys(t, l, "")
}

func keysRefused(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	k := key("sk-one", "alice")
	if err := l.AddKey(t.Context(), k); !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("AddKey: %v, want ErrUnknownUser", err)
	}
	wantNoLogin(t, l, k)
	declare(t, l, billing.User{Name: "alice"}, billing.User{Name: "bob"})
	addKey(t, l, k)
	if err := l.AddKey(t.Context(), key("sk-one", "bob")); !errors.Is(err, billing.ErrKeyExists) {
		t.Errorf("AddKey: %v, want ErrKeyExists", err)
	}
	wantKeys(t, l, "", k)
	wantLogin(t, l, k)
}

func loginProfile(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	if err := l.AddUser(t.Context(), billing.User{Name: "alice", Balance: 5, Concurrency: 3}); err != nil {
		t.Fatal(err)
	}
	k := key("sk-one", "alice")
	addKey(t, l, k)
	if p := wantLogin(t, l, k); p.Source != billing.SourceAPI || p.Concurrency != 3 || p.Disabled {
		t.Errorf("the owner is %+v", p)
	}
	disabled, four := true, 4
	if err := l.ChangeUser(t.Context(), "alice", billing.UserChange{Disabled: &disabled, Concurrency: &four}); err != nil {
		t.Fatal(err)
	}
	if p := wantLogin(t, l, k); p.Concurrency != 4 || !p.Disabled {
		t.Errorf("the owner is %+v", p)
	}
	if err := l.RemoveUser(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	wantNoLogin(t, l, k)
}

func keyLimits(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "balance", Balance: 10_000}, billing.User{Name: "unlimited", Unlimited: true},
		billing.User{Name: "subscription"})
	for _, payer := range []string{billing.PaidFromBalance, billing.PaidFromSubscription, billing.PaidByNobody} {
		user := payer
		if payer == billing.PaidByNobody {
			user = "unlimited"
		}
		ask := func(id string, amount billing.USD, k billing.Key) *billing.HoldRequest {
			c := req(payer+id, amount, withKey(k))
			if payer == billing.PaidFromSubscription {
				subscribed("g", billing.Limits{})(c)
			}
			c.User, c.Unlimited = user, user == "unlimited"
			return c
		}
		for span, change := range map[billing.Span]func(*billing.Key){
			billing.Daily: limits(100, 10_000), billing.Monthly: limits(0, 100),
		} {
			k := key(fmt.Sprint(payer, span), user, change)
			addKey(t, l, k)
			id := span.String()
			full := billing.Refusal{Reason: billing.ReasonKeyLimit, Span: span, Limit: 100, Left: 100}
			refused(t, l, full, ask(id, 101, k))
			hold(t, l, payer, ask(id, 100, k))
			r := spent(payer+id, k, now, 70)
			r.Billing, r.Group = payer, "g"
			if payer == billing.PaidFromSubscription {
				r.Charged = 1000 // but that is not what it takes
			} else {
				r.Cost = 1000
			}
			settle(t, l, r)
			settle(t, l, r)
			full.Left, full.Until = 30, windows(now, 0)[span].End
			refused(t, l, full, ask(id+"2", 31, k))
			hold(t, l, payer, ask(id+"2", 30, k))
			hold(t, l, payer, ask(id+"3", 0, k))
		}
		hold(t, l, payer, ask("4", 500, key("sk-of-the-config", user))) // no limit is known of it
	}
	wantBalance(t, l, "balance", billing.Balance{Amount: 10_000 - 2*70, Held: 2*30 + 500})
}

func keyWindows(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10_000})
	k := key("sk-one", "alice", limits(100, 250))
	addKey(t, l, k)
	first := windows(now, 0)
	settle(t, l, spent("a", k, now, 100))
	daily := billing.Refusal{Reason: billing.ReasonKeyLimit, Limit: 100, Until: first[billing.Daily].End}
	refused(t, l, daily, req("b", 1, withKey(k)))
	w.clock.PassUntil(t, first[billing.Daily].End.Add(-1))
	refused(t, l, daily, req("b", 1, withKey(k)))
	w.clock.Pass(t, 1)
	next := w.clock.Now()
	hold(t, l, billing.PaidFromBalance, req("b", 100, withKey(k)))
	settle(t, l, spent("b", k, next, 100))
	settle(t, l, spent("late", k, now, 40))
	w.clock.Pass(t, 24*time.Hour)
	monthly := billing.Refusal{Reason: billing.ReasonKeyLimit, Span: billing.Monthly, Limit: 250, Left: 10, Until: first[billing.Monthly].End}
	refused(t, l, monthly, req("c", 11, withKey(k)))
	hold(t, l, billing.PaidFromBalance, req("c", 10, withKey(k)))
	l.Release(t.Context(), "c")
	w.clock.PassUntil(t, first[billing.Monthly].End)
	hold(t, l, billing.PaidFromBalance, req("d", 100, withKey(k)))
}

func keyHeld(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 10_000})
	one, two := key("sk-one", "alice", limits(100, 0)), key("sk-two", "alice", limits(100, 0))
	addKey(t, l, one, two)
	hold(t, l, billing.PaidFromBalance, req("a", 70, withKey(one)))
	held := billing.Refusal{Reason: billing.ReasonKeyLimit, Limit: 100, Left: 100, Temporary: true}
	refused(t, l, held, req("b", 31, withKey(one)))
	hold(t, l, billing.PaidFromBalance, req("b", 31, withKey(two)))
	hold(t, l, billing.PaidFromBalance, req("c", 400)) // of no key
	hold(t, l, billing.PaidFromBalance, req("d", 30, withKey(one)))
	refused(t, l, held, req("e", 1, withKey(one)))
	l.Release(t.Context(), "d")
	l.Release(t.Context(), "d")
	settle(t, l, spent("a", one, now, 5))
	held.Left, held.Until = 95, windows(now, 0)[billing.Daily].End
	hold(t, l, billing.PaidFromBalance, req("e", 95, withKey(one)))
	refused(t, l, held, req("f", 1, withKey(one)))
	wantBalance(t, l, "alice", billing.Balance{Amount: 9_995, Held: 31 + 400 + 95})
}

func allOrNothing(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	tight, wide := key("sk-tight", "alice", limits(100, 0)), key("sk-wide", "alice", limits(5000, 0))
	addKey(t, l, tight, wide)
	refused(t, l, billing.Refusal{Reason: billing.ReasonKeyLimit, Limit: 100, Left: 100}, req("a", 101, withKey(tight)))
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	refused(t, l, billing.Refusal{Reason: billing.ReasonBalance, Left: 1000}, req("a", 1001, withKey(wide)))
	terms := subscribed("g", billing.Limits{400, 0, 0})
	refused(t, l, billing.Refusal{Reason: billing.ReasonWindow, Limit: 400, Left: 400}, req("a", 401, withKey(wide), terms))
	refused(t, l, billing.Refusal{Reason: billing.ReasonKeyLimit, Limit: 100, Left: 100}, req("a", 101, withKey(tight), terms))
	hold(t, l, billing.PaidFromSubscription, req("a", 400, withKey(wide), terms))
	l.Release(t.Context(), "a")
	if _, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 9000, Time: epoch}); err != nil {
		t.Fatal(err)
	}
	hold(t, l, billing.PaidFromBalance, req("b", 5000, withKey(wide)))
	hold(t, l, billing.PaidFromBalance, req("c", 100, withKey(tight)))
}

func revokeInFlight(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	k := key("sk-one", "alice", limits(100, 100))
	addKey(t, l, k)
	wantLogin(t, l, k)
	hold(t, l, billing.PaidFromBalance, req("a", 60, withKey(k)))
	hold(t, l, billing.PaidFromBalance, req("b", 40, withKey(k)))
	revoke(t, l, k)
	wantNoLogin(t, l, k)
	settle(t, l, spent("a", k, epoch, 55))
	l.Release(t.Context(), "b")
	wantBalance(t, l, "alice", billing.Balance{Amount: 945})
	if diff := cmp.Diff([]string{"a"}, ids(List(t, l, billing.RecordFilter{KeyID: k.ID}))); diff != "" {
		t.Errorf("records of the key (-want +got):\n%s", diff)
	}
	wantKeys(t, l, "alice")
}

func lastUsed(t *testing.T, w world) {
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	one, two := key("sk-one", "alice", limits(100, 0)), key("sk-two", "alice")
	two.Created = one.Created.Add(time.Second)
	addKey(t, l, one, two)
	wantKeys(t, l, "alice", one, two)
	now := one.Created.Add(-4 * time.Hour)
	free := spent("free", two, now, 0)
	free.Billing = billing.PaidByNobody
	for _, r := range []*billing.Record{
		spent("a", one, now, 1), spent("b", one, now.Add(2*time.Hour), 1), spent("late", one, now.Add(time.Hour), 1), free,
	} {
		settle(t, l, r)
	}
	one.LastUsed, two.LastUsed = now.Add(2*time.Hour), now
	wantKeys(t, l, "alice", one, two)
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantKeys(t, l, "alice", one, two)
}
