package caddymodule

import (
	"context"
	"net/http"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// settleTimeout bounds what is written after a request, when its own context
// may have ended.
const settleTimeout = 10 * time.Second

// canPay looks at the user's money before upstream is asked.
func (x *exchange) canPay() bool {
	var err error
	if x.ledger, err = x.gateway.ledger(x.ctx); err != nil {
		x.internal("opening the store", err)
		return false
	}
	x.payer = billing.PaidByNobody
	if x.simple {
		return true
	}
	balance, err := x.ledger.Balance(x.ctx, x.key.user.name)
	switch {
	case err != nil:
		x.internal("reading a balance", err)
		return false
	case balance.Unlimited:
		return true
	case balance.Amount <= 0 && x.rate() != 0:
		x.fail(balanceUsedUp())
		return false
	}
	x.payer = billing.PaidFromBalance
	return true
}

// balanceUsedUp has the headers that make Claude Code show its message and not
// retry.
func balanceUsedUp() *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, kind: billingError, final: true,
		message: "spend limit reached: the balance of this key's owner is used up",
		header: http.Header{
			"Anthropic-Ratelimit-Unified-Status":                  {"rejected"},
			"Anthropic-Ratelimit-Unified-Overage-Utilization":     {"1"},
			"Anthropic-Ratelimit-Unified-Overage-Disabled-Reason": {"out_of_credits"},
		},
	}
}

// rate is what the user pays per upstream dollar.
func (x *exchange) rate() billing.Rate {
	if x.group != nil {
		return x.group.rate
	}
	return x.defaultRate
}

// settle prices and keeps the request's record, once. When it returns nil, the
// record survives the end of the process.
func (x *exchange) settle(used upstream.Usage, estimated bool) error {
	r := &x.record
	r.ID, r.Time = x.id, x.arrived.UTC()
	r.User, r.KeyID = x.key.user.name, x.key.id
	r.Group, r.Model = x.groupName(), x.call.Model
	r.Session, r.Stream = x.session, x.call.Stream
	r.Estimated, r.Billing = estimated, x.payer
	r.DurationMS = time.Since(x.arrived).Milliseconds()
	model, match := r.Price(x.prices, billingUsage(used), x.rate())
	if x.simple {
		r.Charged = 0
	}
	if match <= billing.MatchFamily {
		x.runtime.unpriced.warn(x.logger, model, match)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), settleTimeout)
	defer cancel()
	if err := x.ledger.Settle(ctx, r); err != nil {
		return err
	}
	x.settled = true
	return nil
}

// settleNothing keeps the record of a request that used nothing: it failed, or
// its client left before the answer began.
func (x *exchange) settleNothing() {
	x.payer = billing.PaidByNobody
	if err := x.settle(upstream.Usage{}, false); err != nil {
		x.logger.Error("the record of a failed request could not be kept", "request_id", x.id, "error", err)
	}
}

func billingUsage(u upstream.Usage) billing.Usage {
	out := billing.Usage{
		Input: u.Input, Output: u.Output, CacheWrite5m: u.CacheWrite5m, CacheWrite1h: u.CacheWrite1h, CacheRead: u.CacheRead,
		WebSearches: u.WebSearches, Speed: u.Speed, Tier: u.Tier, Geo: u.Geo,
	}
	for _, iteration := range u.Iterations {
		out.Iterations = append(out.Iterations, billing.Iteration(iteration))
	}
	return out
}

func (x *exchange) contentSession() anthropic.ContentSession {
	if x.settings.contentSession == sessionByCacheable {
		return anthropic.Cacheable
	}
	return anthropic.Conversation
}
