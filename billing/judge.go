package billing

import "time"

// Budgets are what a hold request is judged by: what there is, and what others have set aside.
type Budgets struct {
	Balance Balance
	// Subscription is the one that the request's terms ask for. The zero value is none.
	Subscription SubscriptionBudget
	// Key are the limits of the request's key; nil: it has none.
	Key *KeyBudget
}

// SubscriptionBudget is a subscription that a ledger has, or the windows of one that a
// config declares.
type SubscriptionBudget struct {
	Subscribed bool
	Until      time.Time // zero: no end
	Windows    Windows
	Held       USD
}

// KeyBudget is what a key has left of its limits.
type KeyBudget struct {
	Limits  Limits
	Windows Windows
	Held    USD
}

// Judge returns who pays for a hold request at a moment (PaidFromBalance, PaidFromSubscription
// or PaidByNobody), and what speaks against it, nil for nothing. Of several reasons, one
// that waiting can't mend comes first. A script that must judge by itself, as hold.lua
// of redisledger, follows the same rules; the conformance suite holds them together.
func Judge(c *HoldRequest, b *Budgets, now time.Time) (payer string, refusal *Refusal) {
	switch {
	case c.Terms != nil:
		payer, refusal = PaidFromSubscription, b.Subscription.judge(c, now)
	case c.Unlimited:
		payer = PaidByNobody
	default:
		payer = PaidFromBalance
		if left := b.Balance.Amount; c.MinAvailable > 0 && left.Plus(-b.Balance.Held) < c.MinAvailable {
			refusal = &Refusal{Reason: ReasonBalance, Left: left, Temporary: left >= c.MinAvailable}
		}
	}
	if b.Key == nil {
		return payer, refusal
	}
	r := b.Key.Windows.Refuse(ReasonKeyLimit, b.Key.Limits, now, b.Key.Held, c.MinAvailable)
	if refusal == nil || r != nil && refusal.Temporary && !r.Temporary {
		refusal = r
	}
	return payer, refusal
}

func (s *SubscriptionBudget) judge(c *HoldRequest, now time.Time) *Refusal {
	if r := s.Refuses(c, now); r != nil {
		return r
	}
	return s.Windows.Refuse(ReasonWindow, c.Terms.Limits, now, s.Held, c.MinAvailable)
}

// Refuses is why a subscription is not in force for a hold request at a moment; nil if it is.
func (s *SubscriptionBudget) Refuses(c *HoldRequest, now time.Time) *Refusal {
	subscribed, until := s.Subscribed, s.Until
	if c.Terms.Declared {
		subscribed, until = true, c.Terms.Until
	}
	switch {
	case !subscribed:
		return &Refusal{Reason: ReasonSubscription}
	case !until.IsZero() && !now.Before(until):
		return &Refusal{Reason: ReasonExpired, Until: until}
	}
	return nil
}
