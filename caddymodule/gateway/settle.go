package gateway

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// settleTimeout bounds what is written after a request, when its own context
// may have ended.
const settleTimeout = 10 * time.Second

// rate is what the user pays per upstream dollar.
func (x *exchange) rate() billing.Rate {
	if x.group != nil {
		return x.group.Rate
	}
	return x.DefaultRate
}

// settleLast settles an answer that upstream has completed. Where the slots are in
// the same store, they are given back in the same round trip.
func (x *exchange) settleLast(used anthropic.Reading) error {
	along, done := scheduler.ReleaseAlong(x.slot, x.lease)
	defer done(x.ctx)
	return x.settleAlong(used, along)
}

// settle prices and keeps the request's record, once. When it returns nil, the
// record survives the end of the process.
func (x *exchange) settle(used anthropic.Reading) error { return x.settleAlong(used, nil) }

func (x *exchange) settleAlong(used anthropic.Reading, along roundtrip.Batch) error {
	r := &x.record
	r.ID, r.Time = x.id, x.arrived.UTC()
	r.User, r.KeyID = x.key.User.Name, x.key.ID
	r.Group, r.Model = x.groupName(), x.call.Model
	r.Session, r.Stream = x.session, x.call.Stream
	r.Estimated, r.Billing, r.UserNumber = used.Estimated || used.Cut, x.payer.Billing, x.payer.UserNumber
	r.DurationMS = time.Since(x.arrived).Milliseconds()
	model, match := r.Price(x.Prices, billingUsage(used.Usage), x.rate(), used.Model)
	if x.Simple {
		r.Charged = 0
	}
	if match <= billing.MatchFamily {
		x.runtime.unpriced.warn(x.logger, model, match)
	}
	if used.Cut {
		x.logger.Warn("upstream reports more tokens than an answer can have; the record has as many as are believed, and says estimated",
			"account", r.Account, "request_id", x.id, "model", x.call.Model)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), settleTimeout)
	defer cancel()
	if err := x.ledger.Settle(ctx, r, along); err != nil {
		return err
	}
	x.settled = true
	if x.held {
		x.runtime.money.freed(r.User)
	}
	return nil
}

// settleNothing keeps the record of a request that used nothing: it failed, or
// its client left before the answer began.
func (x *exchange) settleNothing() {
	x.payer = billing.Payer{Billing: billing.PaidByNobody}
	if err := x.settle(anthropic.Reading{}); err != nil {
		x.logger.Error("the record of a failed request could not be kept", "request_id", x.id, "error", err)
	}
}

// settleBroken settles an answer that broke off, with what is known of it.
func (x *exchange) settleBroken(used anthropic.Reading) {
	if err := x.settle(used); err != nil {
		x.logger.Error("the record of an answer that broke off could not be kept", "request_id", x.id, "error", err)
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
	if x.Config.ContentSession == SessionByCacheable {
		return anthropic.Cacheable
	}
	return anthropic.Conversation
}
