package redisledger_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// TestHoldInOutage: what is known here goes on being promised once.
func TestHoldInOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		outage := outageOf(client)
		l, other := open(t, client), open(t, clientOf(t, mini))
		ctx := t.Context()
		must(t, l.Declare(ctx, []billing.User{{Name: "alice", Balance: 3 * charge}, {Name: "free", Unlimited: true}, {Name: "bob"}}))
		must(t, l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: 5 * charge}}))
		of := func(id, user, key, group string, declared bool, amount billing.USD) *billing.HoldRequest {
			c := req(id, amount)
			c.User, c.KeyID, c.Unlimited = user, key, user == "free"
			if group != "" {
				c.Terms = &billing.Terms{Group: group, Declared: declared, Limits: billing.Limits{billing.Monthly: 2 * charge}}
			}
			return c
		}
		want := func(c *billing.HoldRequest, payer string, reason billing.Reason) {
			t.Helper()
			got, err := l.Hold(ctx, c)
			var refusal *billing.Refusal
			errors.As(err, &refusal)
			if got.Billing != payer || (reason == "") != (err == nil) || reason != "" && (refusal == nil || refusal.Reason != reason) {
				t.Errorf("Hold(%s): %+v, %v; want %q or the lack %q", c.ID, got, err, payer, reason)
			}
		}
		must(t, l.Subscribe(ctx, "alice", "own", time.Time{}))
		want(of("before", "alice", "k", "", false, charge), billing.PaidFromBalance, "")
		want(of("own", "alice", "", "own", false, charge), billing.PaidFromSubscription, "")
		want(of("not", "bob", "", "own", false, charge), "", billing.ReasonSubscription)

		outage.is.Store(true)
		want(of("1", "alice", "k", "", false, charge), billing.PaidFromBalance, "")
		want(of("2", "alice", "", "", false, 2*charge), "", billing.ReasonBalance)
		l.settle(t, "before") // the charge takes the place of the hold
		want(of("2", "alice", "", "", false, charge), billing.PaidFromBalance, "")
		want(of("3", "alice", "", "", false, 1), "", billing.ReasonBalance)
		l.Release(ctx, "2")
		want(of("3", "alice", "", "", false, charge), billing.PaidFromBalance, "")

		want(of("key", "alice", "k", "declared", true, 2*charge), billing.PaidFromSubscription, "")
		want(of("declared", "alice", "", "declared", true, 1), "", billing.ReasonWindow)
		want(of("key 2", "alice", "k", "declared 2", true, 2*charge), billing.PaidFromSubscription, "")
		want(of("key 3", "alice", "k", "own", false, charge), "", billing.ReasonKeyLimit)
		want(of("own 2", "alice", "", "own", false, charge), billing.PaidFromSubscription, "")
		want(of("own 3", "alice", "", "own", false, 1), "", billing.ReasonWindow)
		want(of("free", "free", "", "", false, 1<<40), billing.PaidByNobody, "")
		want(of("not", "bob", "", "own", false, 1), "", billing.ReasonSubscription)
		for _, c := range []*billing.HoldRequest{of("unheard of", "carol", "", "", false, 1), of("unheard of", "alice", "", "other", false, 1)} {
			if _, err := l.Hold(ctx, c); !errors.Is(err, billing.ErrUnavailable) {
				t.Errorf("Hold of what is not known here: %v, want ErrUnavailable", err)
			}
		}

		outage.is.Store(false)
		time.Sleep(2 * time.Second)
		// Others hear of 1 and 3, which were set aside here, and not of the end of the one
		// before, which expires.
		other.wantHeld(t, 3*charge)
		time.Sleep(holdTTL)
		other.wantHeld(t, 2*charge)
		for _, id := range []string{"1", "3"} {
			l.settle(t, id)
		}
		other.wantHeld(t, 0)
		other.wantBalance(t, 0)
	})
}

// TestHoldCountsWhatWaits: Redis answers, but has not got all records yet.
func TestHoldCountsWhatWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		ctx := t.Context()
		must(t, l.Declare(ctx, []billing.User{{Name: "alice", Balance: 1000}}))
		must(t, l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: 900}}))
		l.wantMet(t, "known", 1)
		l.Release(ctx, "known")
		lost := new(loser)
		client.AddHook(pipelineHook(lost.hook))
		waits := exampleOf("w")
		waits.Charged, waits.KeyID = 600, "k"
		used := exampleOf("u")
		used.Cost, used.Billing, used.Group = 70, billing.PaidFromSubscription, "g"
		// Both are in the spool alone: nobody answers, and Redis lost what it heard.
		outage := outageOf(client)
		outage.is.Store(true)
		must(t, l.Settle(ctx, waits, nil))
		must(t, l.Settle(ctx, used, nil))
		subscribed := req("subscribed", 31)
		subscribed.Terms = &billing.Terms{Group: "g", Declared: true, Limits: billing.Limits{100}}
		keyed := req("keyed", 301)
		keyed.KeyID = "k"
		refused := func(when string) {
			t.Helper()
			for _, c := range []*billing.HoldRequest{req("balance", 401), subscribed, keyed} {
				var refusal *billing.Refusal
				if _, err := l.Hold(ctx, c); c.KeyID == "k" && when == "down" {
					l.Release(ctx, c.ID) // of the key's limits nothing is known here
				} else if c.Terms != nil && when == "down" {
					l.Release(ctx, c.ID) // nor of the windows
				} else if !errors.As(err, &refusal) {
					t.Errorf("%s: Hold(%s): %v, want a refusal", when, c.ID, err)
				}
			}
		}
		refused("down")
		outage.is.Store(false)
		time.Sleep(time.Second)
		refused("up")
		l.wantWaiting(t, 0)
		for _, c := range []*billing.HoldRequest{req("balance", 400), subscribed, keyed} {
			if c.ID != "balance" {
				c.Amount--
				c.MinAvailable--
			}
			if _, err := l.Hold(ctx, c); err != nil {
				t.Errorf("Hold(%s) of one less: %v", c.ID, err)
			}
			l.Release(ctx, c.ID)
		}
		l.wantMet(t, "a", 400)
		l.wantRefused(t, "b", 1, true)
	})
}

// TestAnswerToHoldIsLost: whatever Redis did, the hold ends with the settle.
func TestAnswerToHoldIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		must(t, l.AddKey(t.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{1000}}))
		l.wantMet(t, "known", 1)
		lost := new(loser)
		client.AddHook(pipelineHook(lost.hook))
		lost.next.Store(true)
		keyed := req("a", 100)
		keyed.KeyID = "k" // of whose limits nothing is known here
		if _, err := l.Hold(t.Context(), keyed); err != nil {
			t.Fatal(err)
		}
		if held := mini.HGet("{n}:user:alice", "held"); held != "101" {
			t.Errorf("Redis has %s set aside, want 101", held)
		}
		time.Sleep(time.Second)
		l.wantHeld(t, 101)
		l.settle(t, "a")
		l.wantHeld(t, 1)
		keyed.ID = "b"
		keyed.Amount, keyed.MinAvailable = 1000, 1000
		time.Sleep(holdTTL + time.Second) // of the key, this process did not know
		if _, err := l.Hold(t.Context(), keyed); err != nil {
			t.Errorf("the key's limit has not come back: %v", err)
		}
	})
}

// TestAnswerToAHoldAlongIsLost, or comes when the client has left, or Redis hears of
// the request after its end: nothing stays set aside for more than a minute.
func TestAnswerToAHoldAlongIsLost(t *testing.T) {
	for _, test := range []struct{ left, late bool }{{false, false}, {true, false}, {true, true}} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			l, other := open(t, client), open(t, clientOf(t, mini))
			l.declareAlice(t)
			l.wantMet(t, "known", 1)
			faults := &fates{next: []fate{heardUnanswered}}
			if test.late {
				faults.next = []fate{heardLate}
			}
			client.AddHook(pipelineHook(faults.hook))
			if payer, answered, err := l.holdIn(req("a", 100), redislink.Guard{}, nil); answered || err != nil {
				t.Errorf("HoldIn: %+v, %v, %v", payer, answered, err)
			}
			if test.left {
				l.Release(t.Context(), "a")
			}
			faults.deliver()
			if held := mini.HGet("{n}:user:alice", "held"); held != "101" {
				t.Errorf("%+v: Redis has %s set aside, want 101", test, held)
			}
			time.Sleep(holdTTL + 2*time.Second)
			other.wantHeld(t, 1)
			l.Release(t.Context(), "known")
			other.wantHeld(t, 0)
		})
	}
}

// TestOthersHearOfHoldsAfterAnOutage within two seconds, and of those that ended in it
// within a minute.
func TestOthersHearOfHoldsAfterAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l, other := open(t, client), open(t, clientOf(t, mini))
		l.declareAlice(t)
		l.wantMet(t, "shared", 10)
		mini.SetError(loading)
		l.wantMet(t, "here", 100)
		l.Release(t.Context(), "shared")
		mini.SetError("")
		time.Sleep(2 * time.Second)
		if b, err := other.Balance(t.Context(), "alice"); err != nil || b.Held < 100 {
			t.Errorf("%s is set aside, %v; want 100 at least", b.Held, err)
		}
		time.Sleep(holdTTL)
		other.wantHeld(t, 100)
	})
}

// TestUnwritable: where no record could be kept, nothing begins, until one could.
func TestUnwritable(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(blocked, nil, 0o600))
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := openWith(t, client, redisledger.Options{Spool: blocked})
		l.declareAlice(t)
		l.wantMet(t, "a", 1)
		mini.SetError(loading)
		for range 2 {
			if err := l.setAside("b", 1); !errors.Is(err, billing.ErrUnwritable) {
				t.Errorf("Hold: %v, want ErrUnwritable", err)
			}
		}
		must(t, os.Remove(blocked))
		time.Sleep(time.Second)
		l.wantMet(t, "b", 1)
		l.logs.want(t, "the spool takes no records", 1)
		l.logs.want(t, "the spool takes records again", 1)
	})
}
