package sqliteledger

import (
	"context"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// hold is what a hold request has set aside.
type hold struct {
	payer  billing.Payer
	amount billing.USD
	on     [2]*billing.USD // the sums that it is part of; nil for none
}

// Hold implements billing.Ledger. Holds are in memory and end with the process.
func (l *Ledger) Hold(ctx context.Context, req *billing.HoldRequest) (billing.Payer, error) {
	if err := ctx.Err(); err != nil {
		return billing.Payer{}, fmt.Errorf("holding money for %q: %w", req.ID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.Payer{}, billing.ErrClosed
	}
	payer, err := l.hold(req)
	if err != nil {
		return billing.Payer{}, fmt.Errorf("holding %s of user %q for %q: %w", req.Amount, req.User, req.ID, err)
	}
	return payer, nil
}

func (l *Ledger) hold(req *billing.HoldRequest) (payer billing.Payer, err error) {
	if before, isHeld := l.holds[req.ID]; isHeld {
		return before.payer, nil
	}
	if err := l.check(); err != nil {
		return payer, err
	}
	u := l.directory.user(req.User)
	if u == nil {
		return payer, billing.ErrUnknownUser
	}
	k := l.directory.keys[req.KeyID]
	if k != nil && !k.isLimited() {
		k = nil
	}
	var now time.Time
	if k != nil || req.Terms != nil { // a balance has no windows
		now = l.now()
	}
	h := hold{amount: req.Amount, payer: billing.Payer{UserNumber: u.number}}
	budgets := billing.Budgets{Balance: billing.Balance{Amount: u.amount, Held: u.held}}
	switch {
	case req.Terms != nil:
		s := l.directory.subscriptions[membership{req.User, req.Terms.Group}]
		if s == nil && req.Terms.Declared {
			s = l.directory.subscription(membership{req.User, req.Terms.Group})
		}
		if s != nil {
			b := &budgets.Subscription
			*b = billing.SubscriptionBudget{Subscribed: s.subscribed, Until: s.until, Held: s.held}
			if s.isAhead(now) && b.Refuses(req, now) == nil {
				l.move(&settled{subscription: s}, &s.budget, now)
			}
			b.Windows = s.windows
			h.on[0] = &s.held
		}
	case !req.Unlimited:
		h.on[0] = &u.held
	}
	if k != nil {
		if k.isAhead(now) {
			l.move(&settled{key: k, lastUsed: nanosOf(k.LastUsed)}, &k.budget, now)
		}
		budgets.Key = &billing.KeyBudget{Limits: k.Limits, Windows: k.windows, Held: k.held}
		h.on[1] = &k.held
	}
	var refusal *billing.Refusal
	h.payer.Billing, refusal = billing.Judge(req, &budgets, now)
	if refusal != nil {
		return payer, refusal
	}
	for _, sum := range h.on {
		if req.Amount < 0 || sum != nil && *sum > largestAmount-req.Amount {
			return payer, fmt.Errorf("the amount is out of range, the limit is %s for all that is held", largestAmount)
		}
	}
	for _, sum := range h.on {
		if sum != nil {
			*sum += h.amount
		}
	}
	l.holds[req.ID] = h
	return h.payer, nil
}

// move has windows that the clock was ahead for begin today, in memory and, with the
// records that gather, in the database.
func (l *Ledger) move(r *settled, p *budget, now time.Time) {
	r.now = billing.UnixNano(now)
	r.countIn(&p.windows, l.location)
	l.current.records = append(l.current.records, r)
	l.wake()
}

// Release implements billing.Ledger.
func (l *Ledger) Release(_ context.Context, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endHold(id)
}

func (l *Ledger) endHold(id string) {
	h, isHeld := l.holds[id]
	if !isHeld {
		return
	}
	for _, sum := range h.on {
		if sum != nil {
			*sum -= h.amount
		}
	}
	delete(l.holds, id)
}
