package config

import (
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// setDefaults fills in every option that the config left out. It runs when the
// module is provisioned, so that a JSON config gets the same defaults as a
// Caddyfile; running it again changes nothing.
func (h *Config) setDefaults() {
	fill(&h.Mode, modeStandard)
	fill(&h.Store, &Store{})
	h.Store.setDefaults()
	for i := range h.Accounts {
		a := &h.Accounts[i]
		fill(&a.Platform, string(upstream.Anthropic))
		fill(&a.BaseURL, upstream.Platform(a.Platform).DefaultBaseURL())
		fill(&a.Priority, new(50))
	}
	for i := range h.Groups {
		g := &h.Groups[i]
		fill(&g.Platform, string(upstream.Anthropic))
		if g.Limits == nil {
			fill(&g.RateMultiplier, new(rateOne))
		}
	}
	for i := range h.Users {
		u := &h.Users[i]
		fill(&u.Balance, "0")
		fill(&u.Concurrency, new(5))
	}

	fill(&h.Scheduling, &Scheduling{})
	h.Scheduling.setDefaults()

	fill(&h.Retry, &Retry{})
	fill(&h.Retry.Attempts, new(10))
	fill(&h.Retry.Delay, new(caddy.Duration(3*time.Second)))
	fill(&h.Retry.MaxSwitches, new(10))

	fill(&h.Request, &Request{})
	fill(&h.Request.MaxBody, new(int64(32<<20)))
	fill(&h.Request.InjectSystem, string(gateway.InjectSystemOAuth))
	fill(&h.Request.ThinkingBlocks, string(gateway.ThinkingRetry))
	fill(&h.Request.WrongKeyLimit, new(100))
	fill(&h.Request.Unserved, unserved404)

	fill(&h.Relay, &Relay{})
	fill(&h.Relay.HeaderTimeout, new(caddy.Duration(3*time.Minute)))
	fill(&h.Relay.AnswerTimeout, new(caddy.Duration(10*time.Minute)))
	fill(&h.Relay.StreamTimeout, new(caddy.Duration(2*time.Hour)))
	fill(&h.Relay.FirstEventTimeout, new(caddy.Duration(10*time.Minute)))
	fill(&h.Relay.IdleTimeout, new(caddy.Duration(3*time.Minute)))
	fill(&h.Relay.OnDisconnect, &OnDisconnect{})
	fill(&h.Relay.Keepalive, &Keepalive{})
	fill(&h.Relay.Keepalive.Interval, new(caddy.Duration(15*time.Second)))
	if *h.Relay.Keepalive.Interval != 0 {
		fill(&h.Relay.Keepalive.After, new(caddy.Duration(50*time.Second)))
	}

	fill(&h.Billing, &Billing{})
	fill(&h.Billing.RateMultiplier, new(rateOne))
	fill(&h.Billing.Hold, gateway.HoldEstimate)
	fill(&h.Billing.Durability, durabilityProcess)
	fill(&h.Billing.Timezone, "UTC")
	fill(&h.Billing.Retention, new(caddy.Duration(90*24*time.Hour)))
}

func (s *Store) setDefaults() {
	if s.Redis == nil {
		fill(&s.Embedded, &EmbeddedStore{})
		fill(&s.Embedded.Dir, filepath.Join(caddy.AppDataDir(), "sub2api"))
		return
	}
	fill(&s.Redis.Namespace, "sub2api")
	fill(&s.Redis.OnOutage, outageServe)
	fill(&s.Redis.Timeout, new(caddy.Duration(time.Second)))
	fill(&s.Redis.Spool, filepath.Join(caddy.AppDataDir(), "sub2api", "spool"))
}

func (s *Scheduling) setDefaults() {
	fill(&s.StickyTTL, new(caddy.Duration(time.Hour)))
	fill(&s.StickyMaxWaiting, new(3))
	fill(&s.StickyWaitTimeout, new(caddy.Duration(45*time.Second)))
	fill(&s.FallbackMaxWaiting, new(100))
	fill(&s.FallbackWaitTimeout, new(caddy.Duration(30*time.Second)))
	fill(&s.UserExtraWaiting, new(20))
	fill(&s.UserWaitTimeout, new(caddy.Duration(30*time.Second)))
	fill(&s.LoadAware, new(true))
	fill(&s.ContentSession, string(gateway.SessionByConversation))
	fill(&s.OverloadCooldown, new(caddy.Duration(time.Minute)))
	fill(&s.RateLimitCooldown, new(caddy.Duration(5*time.Minute)))
	fill(&s.ErrorRetry, new(caddy.Duration(10*time.Minute)))
}

// fill sets an option that has its zero value.
func fill[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}
