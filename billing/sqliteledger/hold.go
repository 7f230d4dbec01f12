package sqliteledger

import (
	"context"
	"fmt"

	"github.com/sub2api/caddy-sub2api/billing"
)

// hold is what a claim has set aside.
type hold struct {
	payer  string
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
	return billing.Payer{Billing: payer, UserNumber: 1}, nil
}

func (l *Ledger) hold(claim *billing.Claim) (payer string, err error) {
	if before, isHeld := l.holds[claim.ID]; isHeld {
		return before.payer, nil
	}
	if err := l.check(); err != nil {
		return "", err
	}
	u := l.people.user(claim.User)
	if u == nil {
		return "", billing.ErrUnknownUser
	}
	h := hold{amount: claim.Amount}
	var refusal *billing.Refusal
	h.payer, h.on[0], refusal = l.payerOf(u, claim)
	if k := l.people.keys[claim.KeyID]; k != nil && k.isLimited() {
		r := k.windows.Lacks(billing.LackKeyLimit, k.Limits, claim.Time, k.held, claim.Least)
		// What waiting can't mend comes first.
		if r != nil && (refusal == nil || refusal.Held && !r.Held) {
			refusal = r
		}
		h.on[1] = &k.held
	}
	if refusal != nil {
		return "", refusal
	}
	for _, sum := range h.on {
		if claim.Amount < 0 || sum != nil && *sum > largestAmount-claim.Amount {
			return "", fmt.Errorf("the amount is out of range, the limit is %s for all that is held", largestAmount)
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

// payerOf tells who pays for a claim, the sum of what is held there, and why it
// does not suffice.
func (l *Ledger) payerOf(u *user, claim *billing.Claim) (string, *billing.USD, *billing.Refusal) {
	switch {
	case claim.Terms != nil:
		s, refusal := l.subscriptionFor(claim)
		if refusal != nil {
			return "", nil, refusal
		}
		refusal = s.windows.Lacks(billing.LackWindow, claim.Terms.Limits, claim.Time, s.held, claim.Least)
		return billing.PaidFromSubscription, &s.held, refusal
	case u.unlimited:
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
func (l *Ledger) subscriptionFor(claim *billing.Claim) (*subscription, *billing.Refusal) {
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
	if !until.IsZero() && !claim.Time.Before(until) {
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
