package redisledger

import (
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// standing is what a claim is judged by. hold.lua judges by the same rules, so
// that all happens at one moment; why it refuses is found out here.
type standing struct {
	user         told
	subscription subscription
	key          *limitedKey // nil: no key's limits count
}

// told is a user as Redis has him. The version grows with each change.
type told struct {
	billing.Balance
	version int64
}

// purse is windows, and what is set aside of them.
type purse struct {
	held    billing.USD
	windows billing.Windows
	// toldAt is when Redis told of the windows, countedAt when something was counted
	// in them here since, by cache.clock.
	toldAt, countedAt question
}

// isNewer tells whether windows that Redis told when it was asked at a moment lack
// something that has been counted since.
func (p *purse) isNewer(asked question, told *billing.Windows) bool {
	if asked >= p.countedAt {
		return false
	}
	for s, w := range p.windows {
		if now := told[s]; w.Start.After(now.Start) || w.Start.Equal(now.Start) && w.Used > now.Used {
			return true
		}
	}
	return false
}

// subscription is one that the ledger has, or the purse of one that a config
// declares.
type subscription struct {
	purse
	subscribed bool
	until      time.Time // zero: no end
}

// limitedKey is a key that has limits.
type limitedKey struct {
	purse
	limits billing.Limits
}

// waits are what records in the spool will take, and what is set aside here, where
// Redis may not know it.
type waits struct{ balance, key, subscription billing.USD }

func (w *waits) add(other waits) {
	w.balance = w.balance.Plus(other.balance)
	w.key = w.key.Plus(other.key)
	w.subscription = w.subscription.Plus(other.subscription)
}

func (w *waits) take(other waits) {
	w.add(waits{-other.balance, -other.key, -other.subscription})
}

// lessen takes off what waits, as if it were set aside: Redis may have it, so that it
// counts twice until that is known.
func (s *standing) lessen(w waits) {
	s.user.Held = s.user.Held.Plus(w.balance)
	s.subscription.held = s.subscription.held.Plus(w.subscription)
	if s.key != nil {
		s.key.held = s.key.held.Plus(w.key)
	}
}

// judge tells who pays, and what speaks against it. What waiting can't mend comes
// first.
func (s *standing) judge(c *billing.Claim) (payer string, refusal *billing.Refusal) {
	switch {
	case c.Terms != nil:
		payer, refusal = billing.PaidFromSubscription, s.subscription.judge(c)
	case s.user.Unlimited:
		payer = billing.PaidByNobody
	default:
		payer = billing.PaidFromBalance
		left := s.user.Amount
		if c.Least > 0 && left.Plus(-s.user.Held) < c.Least {
			refusal = &billing.Refusal{Lack: billing.LackBalance, Left: left, Held: left >= c.Least}
		}
	}
	if s.key == nil {
		return payer, refusal
	}
	r := s.key.windows.Lacks(billing.LackKeyLimit, s.key.limits, c.Time, s.key.held, c.Least)
	if refusal == nil || r != nil && refusal.Held && !r.Held {
		refusal = r
	}
	return payer, refusal
}

func (s *subscription) judge(c *billing.Claim) *billing.Refusal {
	subscribed, until := s.subscribed, s.until
	if c.Terms.Declared {
		subscribed, until = true, c.Terms.Until
	}
	switch {
	case !subscribed:
		return &billing.Refusal{Lack: billing.LackSubscription}
	case isOver(until, c.Time):
		return &billing.Refusal{Lack: billing.LackTime, Until: until}
	}
	return s.windows.Lacks(billing.LackWindow, c.Terms.Limits, c.Time, s.held, c.Least)
}

// isOver tells whether an end, zero for none, has come.
func isOver(until, at time.Time) bool { return !until.IsZero() && !at.Before(until) }
