package scheduler_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestPickWithoutSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		priority := func(n int) func(*upstream.Account) { return func(a *upstream.Account) { a.Priority = n } }
		r := newRig(t, defaults(account("spare", priority(60)), account("a"), account("b")))
		defer r.state.Close()
		ctx := context.Background()
		chosen := func() map[string]int {
			t.Helper()
			names := map[string]int{}
			for range 30 {
				a, err := r.PickWithoutSlot(scheduler.Demand{Model: "m", Endpoint: scheduler.CountTokens})
				if err != nil {
					t.Fatal(err)
				}
				names[a.Name]++
			}
			return names
		}
		if names := chosen(); names["a"] < 10 || names["b"] < 10 || names["spare"] > 0 {
			t.Errorf("two accounts of one priority and a spare one: %v", names)
		}
		r.report("a", scheduler.Outcome{Kind: scheduler.Throttled, Status: 429, Model: "m", Sent: time.Now()})
		if names := chosen(); names["a"] < 10 {
			t.Errorf("with a last for messages: %v", names)
		}
		r.report("a", scheduler.Outcome{Kind: scheduler.Throttled, Status: 429, Model: "m", Endpoint: scheduler.CountTokens, Sent: time.Now()})
		if names := chosen(); names["b"] != 30 {
			t.Errorf("with a last for count_tokens: %v", names)
		}
		r.report("b", retryAfter(scheduler.Outcome{Kind: scheduler.Throttled, Status: 429, Model: "m", Endpoint: scheduler.CountTokens, Sent: time.Now()}, time.Second))
		r.report("spare", scheduler.Outcome{Kind: scheduler.Unreachable})
		if names := chosen(); names["b"] != 30 {
			t.Errorf("with all last, and b back first: %v", names)
		}
		time.Sleep(10 * time.Second)
		limit := func(name string, d time.Duration) {
			if _, err := r.Report(ctx, name, rejected(d)); err != nil {
				t.Fatal(err)
			}
		}
		limit("a", time.Minute)
		if names := chosen(); names["b"] != 30 {
			t.Errorf("with a limited: %v", names)
		}
		limit("b", 2*time.Minute)
		if names := chosen(); names["spare"] != 30 {
			t.Errorf("with a and b limited: %v", names)
		}
		limit("spare", 3*time.Minute)
		var out *scheduler.OutError
		if _, err := r.PickWithoutSlot(scheduler.Demand{Model: "m", Endpoint: scheduler.CountTokens}); !errors.As(err, &out) || time.Until(out.Until) > time.Minute {
			t.Errorf("with all limited: %v, want the soonest reset", err)
		}
		if _, err := r.PickWithoutSlot(scheduler.Demand{Model: "m", Force: upstream.Gemini}); !errors.Is(err, scheduler.ErrNoAccount) {
			t.Errorf("of a platform without accounts: %v", err)
		}
	})
}
