package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// BenchmarkPick picks an account and releases it, as a request does, without a
// session, for a bound one, and while half of the accounts are limited.
func BenchmarkPick(b *testing.B) {
	for _, accounts := range []int{10, 100, 10_000} {
		settings := scheduler.Settings{LoadAware: true, StickyTTL: time.Hour, FallbackMaxWaiting: 100}
		for i := range accounts {
			settings.Accounts = append(settings.Accounts, &upstream.Account{
				Name: fmt.Sprintf("account-%d", i), Platform: upstream.Anthropic, Priority: 50, Concurrency: 8,
			})
		}
		for _, name := range []string{"no session", "bound session", "half out"} {
			b.Run(fmt.Sprintf("%s/%d", name, accounts), func(b *testing.B) {
				state := memstate.New()
				defer state.Close()
				s, err := scheduler.New(settings, scheduler.NewLeases(state, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				ctx := context.Background()
				d := scheduler.Demand{Request: "request", User: "user", Model: "claude-sonnet-4-5"}
				if name == "bound session" {
					d.Session = "session"
				}
				if name == "half out" {
					for _, a := range settings.Accounts[:accounts/2] {
						if _, err := s.Report(ctx, a.Name, scheduler.Outcome{
							Kind: scheduler.Limited, Status: 429, RetryAfter: time.Hour, Windows: []scheduler.WindowReport{{Name: "5h", Status: "rejected"}},
						}); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportAllocs()
				for b.Loop() {
					lease, err := s.Pick(ctx, d)
					if err != nil {
						b.Fatal(err)
					}
					lease.Release()
				}
			})
		}
	}
}
