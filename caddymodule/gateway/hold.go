package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// aheadLedger is a ledger that holds in somebody else's round trip, if what that
// one is for comes true.
type aheadLedger interface {
	HoldIn(req *billing.HoldRequest) (roundtrip.Batch, heldAhead)
}

// heldAhead tells what came of that, as Hold does, unless the ledger has not
// answered: then it is to be asked.
type heldAhead = func() (payer billing.Payer, answered bool, err error)

// open opens the ledger. along is for the ask for the user's slot: where the ledger is in the same store, money is set aside
// in that round trip.
func (x *exchange) open() (along roundtrip.Batch, err error) {
	if x.ledger, err = x.gateway.Ledger(x.ctx); err != nil {
		return nil, storeError("opening the store", err)
	}
	if x.config.Simple {
		return nil, nil
	}
	x.holdRequest = x.newHoldRequest()
	if ledger, ok := x.ledger.(aheadLedger); ok && !x.runtime.money.busy(x.holdRequest.User) {
		along, x.ahead = ledger.HoldIn(x.holdRequest)
	}
	return along, nil
}

// setAside sets aside what the request needs, and waits in line while others of
// its user have that, who may give it back. What the ledger has set aside ahead is
// the request's, whoever waits by now: those in line may be waiting for it.
func (x *exchange) setAside() (payer billing.Payer, err error) {
	answered := false
	if ahead := x.ahead; ahead != nil {
		x.ahead = nil
		if payer, answered, err = ahead(); answered && !isHeld(err) {
			return payer, err
		}
	}
	hold := func() (err error) {
		payer, err = x.ledger.Hold(x.ctx, x.holdRequest)
		return err
	}
	if !answered && !x.runtime.money.busy(x.holdRequest.User) {
		if err := hold(); !isHeld(err) {
			return payer, err
		}
	}
	err = x.runtime.money.wait(x.ctx, x.holdRequest.User, x.config.HoldWait, hold)
	return payer, err
}

// newClaim is the money that the request needs.
func (x *exchange) newHoldRequest() *billing.HoldRequest {
	c := &billing.HoldRequest{ID: x.id, User: x.key.User.Name, KeyID: x.key.ID, Unlimited: x.key.User.Unlimited, MinAvailable: 1}
	asked := billing.Usage{Geo: x.call.Geo, Tier: x.call.Tier}
	if x.call.Fast {
		asked.Speed = "fast"
	}
	size := int64(len(x.call.Body))
	switch x.config.Hold {
	case HoldEstimate:
		c.Amount = x.config.Prices.Estimate(x.call.Model, size, x.call.MaxTokens, asked, x.arrived)
	case HoldMax:
		c.Amount = x.config.Prices.Most(x.call.Model, size, x.call.MaxTokens, x.call.HasInputElsewhere(), asked, x.arrived)
	}
	if x.group != nil && x.group.Subscription {
		until, declared := x.key.User.Subscriptions[x.group.Name]
		c.Terms = &billing.Terms{Group: x.group.Name, Limits: x.group.Limits, Declared: declared, Until: until}
	} else {
		c.Amount = c.Amount.Times(x.rate())
		if x.rate() == 0 {
			c.MinAvailable = 0
		}
	}
	if x.config.Hold == HoldMax {
		c.MinAvailable = max(c.MinAvailable, c.Amount)
	}
	return c
}

// hold sets aside what the request may cost, before upstream is asked.
func (x *exchange) hold() error {
	x.payer = billing.Payer{Billing: billing.PaidByNobody}
	if x.config.Simple {
		return nil
	}
	payer, err := x.setAside()
	var refusal *billing.Refusal
	switch {
	case errors.As(err, &refusal):
		return x.cannotPay(refusal)
	case err != nil:
		return storeError("setting money aside", err)
	}
	x.payer, x.held = payer, true
	return nil
}

// letGo gives back what is set aside for a request that was not settled, also
// where the request ended before it could ask for that.
func (x *exchange) letGo() {
	if x.ahead == nil && (!x.held || x.settled) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), settleTimeout)
	defer cancel()
	if x.ahead != nil {
		if _, answered, err := x.ahead(); !answered || err != nil {
			return
		}
	}
	x.ledger.Release(ctx, x.id)
	x.runtime.money.freed(x.key.User.Name)
}

// cannotPay is the refusal for want of money.
func (x *exchange) cannotPay(r *billing.Refusal) *apiError {
	if r.Temporary {
		return errSetAside()
	}
	return errSpent(x.lacking(r), r)
}

// lacking says what lacks, to the client.
func (x *exchange) lacking(r *billing.Refusal) string {
	until := ""
	if !r.Until.IsZero() {
		until = " until " + r.Until.UTC().Format(time.RFC3339)
	}
	name := ""
	if x.group != nil {
		name = x.group.Name
	}
	what := "the balance of this key's owner"
	switch r.Reason {
	case billing.ReasonSubscription:
		return "this key's owner has no subscription of " + name
	case billing.ReasonExpired:
		return fmt.Sprintf("the subscription of %s ended at %s", name, r.Until.UTC().Format(time.RFC3339))
	case billing.ReasonWindow:
		what = fmt.Sprintf("the %s limit of %s USD of the subscription of %s", r.Span, r.Limit, name)
	case billing.ReasonKeyLimit:
		what = fmt.Sprintf("the %s limit of %s USD of this key", r.Span, r.Limit)
	}
	if r.Left > 0 {
		return fmt.Sprintf("%s has %s USD left%s, and this request may cost more; lower max_tokens", what, r.Left, until)
	}
	return what + " is used up" + until
}
