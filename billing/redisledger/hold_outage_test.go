package redisledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// TestHoldInOutage: what is known here goes on being promised once.
func TestHoldInOutage(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l)
	ctx := t.Context()
	must(t, l.Declare(ctx, []billing.User{{Name: "alice", Balance: 3 * charge}, {Name: "free", Unlimited: true}, {Name: "bob"}}))
	must(t, l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: 5 * charge}}))
	of := func(id, user, key, group string, declared bool, amount billing.USD) *billing.Claim {
		c := claim(id, amount)
		c.User, c.KeyID = user, key
		if group != "" {
			c.Terms = &billing.Terms{Group: group, Declared: declared, Limits: billing.Limits{billing.Monthly: 2 * charge}}
		}
		return c
	}
	want := func(c *billing.Claim, payer string, lack billing.Lack) {
		t.Helper()
		got, err := l.Hold(ctx, c)
		var refusal *billing.Refusal
		errors.As(err, &refusal)
		if got != payer || (lack == "") != (err == nil) || lack != "" && (refusal == nil || refusal.Lack != lack) {
			t.Errorf("Hold(%s): %q, %v; want %q or the lack %q", c.ID, got, err, payer, lack)
		}
	}
	must(t, l.Subscribe(ctx, "alice", "own", time.Time{}))
	want(of("before", "alice", "k", "", false, charge), billing.PaidFromBalance, "")
	want(of("own", "alice", "", "own", false, charge), billing.PaidFromSubscription, "")
	want(of("not", "bob", "", "own", false, charge), "", billing.LackSubscription)

	mini.Close()
	want(of("1", "alice", "k", "", false, charge), billing.PaidFromBalance, "")
	want(of("2", "alice", "", "", false, 2*charge), "", billing.LackBalance)
	settle(t, l, "before") // the charge takes the place of the hold
	want(of("2", "alice", "", "", false, charge), billing.PaidFromBalance, "")
	want(of("3", "alice", "", "", false, 1), "", billing.LackBalance)
	l.Release(ctx, "2")
	want(of("3", "alice", "", "", false, charge), billing.PaidFromBalance, "")

	want(of("key", "alice", "k", "declared", true, 2*charge), billing.PaidFromSubscription, "")
	want(of("declared", "alice", "", "declared", true, 1), "", billing.LackWindow)
	want(of("key 2", "alice", "k", "declared 2", true, 2*charge), billing.PaidFromSubscription, "")
	want(of("key 3", "alice", "k", "own", false, charge), "", billing.LackKeyLimit)
	want(of("own 2", "alice", "", "own", false, charge), billing.PaidFromSubscription, "")
	want(of("own 3", "alice", "", "own", false, 1), "", billing.LackWindow)
	want(of("free", "free", "", "", false, 1<<40), billing.PaidByNobody, "")
	want(of("not", "bob", "", "own", false, 1), "", billing.LackSubscription)
	for _, c := range []*billing.Claim{of("unheard of", "carol", "", "", false, 1), of("unheard of", "alice", "", "other", false, 1)} {
		var refusal *billing.Refusal
		if _, err := l.Hold(ctx, c); err == nil || errors.As(err, &refusal) || errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("Hold of what is not known here: %v, want an error of Redis", err)
		}
	}

	must(t, mini.Restart())
	if !l.recovered(ctx) {
		t.Fatal("Redis is not taken to be back")
	}
	must(t, l.renew(ctx))
	other := open(t, client, Options{Namespace: "n"})
	wantHeld(t, other, 2*charge) // 1 and 3: others hear of what was set aside here
	for _, id := range []string{"1", "3"} {
		settle(t, l, id)
	}
	wantHeld(t, other, 0)
	if b, err := other.Balance(ctx, "alice"); err != nil || b.Amount != 0 {
		t.Errorf("balance %s, %v; want 0", b.Amount, err)
	}
}

// TestHoldCountsWhatWaits: Redis is back, but has not got all records yet.
func TestHoldCountsWhatWaits(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l)
	ctx := t.Context()
	must(t, l.Declare(ctx, []billing.User{{Name: "alice", Balance: 1000}}))
	must(t, l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: 900}}))
	waits := exampleOf("w")
	waits.Charged, waits.KeyID = 600, "k"
	must(t, l.spool.keep(waits, true))
	used := exampleOf("u")
	used.Cost, used.Billing, used.Group = 70, billing.PaidFromSubscription, "g"
	must(t, l.spool.keep(used, true))
	subscribed := claim("subscribed", 31)
	subscribed.Terms = &billing.Terms{Group: "g", Declared: true, Limits: billing.Limits{100}}
	keyed := claim("keyed", 301)
	keyed.KeyID = "k"
	for _, c := range []*billing.Claim{claim("balance", 401), subscribed, keyed} {
		var refusal *billing.Refusal
		if _, err := l.Hold(ctx, c); !errors.As(err, &refusal) {
			t.Errorf("Hold(%s): %v, want a refusal", c.ID, err)
		}
		c.Amount--
		c.Least--
		if _, err := l.Hold(ctx, c); err != nil {
			t.Errorf("Hold(%s) of one less: %v", c.ID, err)
		}
		l.Release(ctx, c.ID)
	}
	must(t, l.drain(ctx))
	if n := len(l.cache.spent); n != 0 {
		t.Errorf("records of %d purses count as waiting", n)
	}
	wantMet(t, l, "a", 400)
	wantHeldRefusal(t, l, "b", 1)
}

// TestAnswerToHoldIsLost: whatever Redis did, the hold ends with the settle.
func TestAnswerToHoldIsLost(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	lost := new(loser)
	client.AddHook(pipelineHook(lost.hook))
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l)
	declareAlice(t, l)
	must(t, l.AddKey(t.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{1000}}))
	wantMet(t, l, "known", 1)
	lost.next.Store(true)
	keyed := claim("a", 100)
	keyed.KeyID = "k" // of whose limits nothing is known here
	if _, err := l.Hold(t.Context(), keyed); err != nil {
		t.Fatal(err)
	}
	if held := mini.HGet("{n}:user:alice", "held"); held != "101" {
		t.Errorf("Redis has %s set aside, want 101", held)
	}
	if !l.recovered(t.Context()) {
		t.Fatal("Redis is not taken to be back")
	}
	must(t, l.renew(t.Context()))
	wantHeld(t, l, 101)
	settle(t, l, "a")
	wantHeld(t, l, 1)
	if held := mini.HGet("{n}:key:k", "held"); held != "0" {
		t.Errorf("Redis has %s set aside of the key, want 0", held)
	}
}

// TestAnswerToAClaimAheadIsLost, or comes when the client has left, or Redis hears of
// the claim after its end: nothing stays set aside.
func TestAnswerToAClaimAheadIsLost(t *testing.T) {
	for _, test := range []struct{ left, late bool }{{false, false}, {true, false}, {true, true}} {
		mini := miniredis.RunT(t)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
		stopLoops(l)
		declareAlice(t, l)
		wantMet(t, l, "known", 1)
		must(t, l.endHolds(t.Context(), []hold{{id: "script", purses: []purseName{userPurse("alice")}}}))
		var hear func()
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				if hear != nil {
					return next(ctx, cmds)
				}
				copied := copyOf(cmds)
				hear = func() { _ = next(context.Background(), copied) }
				if !test.late {
					hear()
				}
				return fail(cmds, os.ErrDeadlineExceeded)
			}
		}))
		requested, leave := context.WithCancel(t.Context())
		defer leave()
		ctx, ahead := l.HoldAhead(requested, claim("a", 100))
		if test.left {
			leave()
		}
		redispipe.Exec(context.WithoutCancel(ctx), client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
		if payer, answered, err := ahead(); answered || err != nil {
			t.Errorf("HoldAhead: %q, %v, %v", payer, answered, err)
		}
		if test.late {
			hear()
		}
		if held := mini.HGet("{n}:user:alice", "held"); held != "101" && (test.late || !test.left) {
			t.Errorf("%+v: Redis has %s set aside, want 101", test, held)
		}
		if !test.left && !l.recovered(t.Context()) {
			t.Fatal("Redis is not taken to be back")
		}
		must(t, l.endHolds(t.Context(), l.holds.debts()))
		wantHeld(t, l, 1)
		l.Release(t.Context(), "known")
		wantNothingRemembered(t, l)
	}
}

// TestOthersHearOfHoldsAfterAnOutage within two seconds.
func TestOthersHearOfHoldsAfterAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l, other := open(t, client, Options{Namespace: "n", Spool: t.TempDir()}), open(t, client, Options{Namespace: "n"})
		declareAlice(t, l)
		wantMet(t, l, "shared", 10)
		mini.SetError("LOADING")
		wantMet(t, l, "here", 100)
		l.Release(t.Context(), "shared")
		mini.SetError("")
		time.Sleep(2 * time.Second)
		wantHeld(t, other, 100)
	})
}

// TestUnwritable: where no record could be kept, nothing begins.
func TestUnwritable(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(blocked, nil, 0o600))
	for _, spool := range []string{"", blocked} {
		mini := miniredis.RunT(t)
		l := open(t, connect(t, &redis.Options{Addr: mini.Addr()}), Options{Namespace: "n", Spool: spool})
		declareAlice(t, l)
		wantMet(t, l, "a", 1)
		mini.Close()
		for range 2 {
			if err := setAside(l, "b", 1); !errors.Is(err, billing.ErrUnwritable) {
				t.Errorf("spool %q: %v, want ErrUnwritable", spool, err)
			}
		}
	}
}
