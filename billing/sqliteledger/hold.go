package sqliteledger

import (
	"context"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// hold is what a claim has set aside.
type hold struct {
	payer  billing.Payer
	amount billing.USD
	on     [2]*billing.USD // the sums that it is part of; nil for none
}

// Hold implements billing.Ledger. Holds are in memory and end with the process.
func (l *Ledger) Hold(ctx context.Context, claim *billing.Claim) (billing.Payer, error) {
	if err := ctx.Err(); err != nil {
		return billing.Payer{}, fmt.Errorf("holding money for %q: %w", claim.ID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.Payer{}, billing.ErrClosed
	}
	payer, err := l.hold(claim)
	if err != nil {
		return billing.Payer{}, fmt.Errorf("holding %s of user %q for %q: %w", claim.Amount, claim.User, claim.ID, err)
	}
	return payer, nil
}

func (l *Ledger) hold(claim *billing.Claim) (payer billing.Payer, err error) {
	if before, isHeld := l.holds[claim.ID]; isHeld {
		return before.payer, nil
	}
	if err := l.check(); err != nil {
		return payer, err
	}
	u := l.people.user(claim.User)
	if u == nil {
		return payer, billing.ErrUnknownUser
	}
	k := l.people.keys[claim.KeyID]
	if k != nil && !k.isLimited() {
		k = nil
	}
	var now time.Time
	if k != nil || claim.Terms != nil { // a balance has no windows
		now = l.now()
	}
	h := hold{amount: claim.Amount, payer: billing.Payer{UserNumber: u.number}}
	var refusal *billing.Refusal
	h.payer.Billing, h.on[0], refusal = l.payerOf(u, claim, now)
	if k != nil {
		if k.isAhead(now) {
			l.move(&settled{key: k, lastUsed: nanosOf(k.LastUsed)}, &k.purse, now)
		}
		r := k.windows.Lacks(billing.LackKeyLimit, k.Limits, now, k.held, claim.Least)
		// What waiting can't mend comes first.
		if r != nil && (refusal == nil || refusal.Held && !r.Held) {
			refusal = r
		}
		h.on[1] = &k.held
	}
	if refusal != nil {
		return payer, refusal
	}
	for _, sum := range h.on {
		if claim.Amount < 0 || sum != nil && *sum > largestAmount-claim.Amount {
			return payer, fmt.Errorf("the amount is out of range, the limit is %s for all that is held", largestAmount)
		}
	}
	for _, sum := range h.on {
		if sum != nil {
			*sum += h.amount
		}
	}
	l.holds[claim.ID] = h
	return h.payer, nil
}

// move has windows that the clock was ahead for begin today, in memory and, with the
// records that gather, in the database.
func (l *Ledger) move(r *settled, p *purse, now time.Time) {
	r.now = billing.UnixNano(now)
	r.countIn(&p.windows, l.location)
	l.current.records = append(l.current.records, r)
	l.wake()
}

// payerOf is who pays for a claim, the sum of what is held there, and why it
// does not suffice.
func (l *Ledger) payerOf(u *user, claim *billing.Claim, now time.Time) (string, *billing.USD, *billing.Refusal) {
	switch {
	case claim.Terms != nil:
		s, refusal := l.subscriptionFor(claim, now)
		if refusal != nil {
			return "", nil, refusal
		}
		if s.isAhead(now) {
			l.move(&settled{subscription: s}, &s.purse, now)
		}
		refusal = s.windows.Lacks(billing.LackWindow, claim.Terms.Limits, now, s.held, claim.Least)
		return billing.PaidFromSubscription, &s.held, refusal
	case claim.Unlimited:
		return billing.PaidByNobody, nil, nil
	}
	var refusal *billing.Refusal
	if claim.Least > 0 && u.amount.Plus(-u.held) < claim.Least {
		refusal = &billing.Refusal{Lack: billing.LackBalance, Left: u.amount, Held: u.amount >= claim.Least}
	}
	return billing.PaidFromBalance, &u.held, refusal
}

// subscriptionFor is the subscription that a claim's terms ask for, if it is in
// force.
func (l *Ledger) subscriptionFor(claim *billing.Claim, now time.Time) (*subscription, *billing.Refusal) {
	terms := claim.Terms
	of := membership{claim.User, terms.Group}
	until := terms.Until
	if !terms.Declared {
		s := l.people.subscriptions[of]
		if s == nil || !s.subscribed {
			return nil, &billing.Refusal{Lack: billing.LackSubscription}
		}
		until = s.until
	}
	if !until.IsZero() && !now.Before(until) {
		return nil, &billing.Refusal{Lack: billing.LackTime, Until: until}
	}
	return l.people.subscription(of), nil
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
