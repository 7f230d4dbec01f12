package gateway

import (
	"context"
	"errors"
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
	return x.config.DefaultRate
}

// settleWhole settles an answer that upstream has completed. When it returns nil, the
// record survives the end of the process. Where the slots are in the same store, they are
// given back in the same round trip.
func (x *exchange) settleWhole(used anthropic.Reading) error {
	along, done := scheduler.ReleaseAlong(x.slot, x.lease)
	defer done(x.ctx)
	return x.settle(used, along)
}

// settleRest settles a request that was not settled when it ended, in err: its answer did
// not come whole. One that went to no account has no record, unless an account is why.
func (x *exchange) settleRest(err error) {
	if x.closed {
		return
	}
	var failed *upstreamError
	if x.record.Attempts == 0 && !errors.As(err, &failed) {
		return
	}
	if x.record.Status == 0 {
		x.record.Status = x.statusOf(err)
	}
	var used anthropic.Reading
	if x.used != nil {
		used = *x.used
	} else {
		x.payer = billing.Payer{Billing: billing.PaidByNobody}
	}
	if err := x.settle(used, nil); err != nil {
		x.gateway.logger.Error("the record of a request that failed could not be kept", "request_id", x.id, "error", err)
	}
}

// brokeOff notes what an answer used that did not come whole.
func (x *exchange) brokeOff(used anthropic.Reading) { x.used = &used }

// settle prices and keeps the request's record, once.
func (x *exchange) settle(used anthropic.Reading, along roundtrip.Batch) error {
	x.closed = true
	r := &x.record
	r.ID, r.Time = x.id, x.arrived.UTC()
	r.User, r.KeyID = x.key.User.Name, x.key.ID
	r.Group, r.Model = x.groupName(), x.call.Model
	r.Session, r.Stream = x.session, x.call.Stream
	r.Estimated, r.Billing, r.UserNumber = used.Estimated || used.Cut, x.payer.Billing, x.payer.UserNumber
	r.DurationMS = time.Since(x.arrived).Milliseconds()
	model, match := r.Price(x.config.Prices, billingUsage(used.Usage), x.rate(), used.Model)
	if x.config.Simple {
		r.Charged = 0
	}
	if match <= billing.MatchFamily {
		x.runtime.unpriced.warn(x.gateway.logger, model, match)
	}
	if used.Cut {
		x.gateway.logger.Warn("upstream reports more tokens than an answer can have; the record has as many as are believed, and says estimated",
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
	if x.config.ContentSession == SessionByCacheable {
		return anthropic.Cacheable
	}
	return anthropic.Conversation
}
