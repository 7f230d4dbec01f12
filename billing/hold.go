package billing

import (
	"fmt"
	"time"
)

// HoldRequest is the money that a request asks to be set aside.
type HoldRequest struct {
	// ID is that of the record to come. Which windows count, and whether a
	// subscription has expired, is judged by the ledger's clock, at once.
	ID   string
	User string
	// KeyID is the key whose limits count, if the ledger has it.
	KeyID string
	// Terms are those of the subscription that pays; nil: the balance pays.
	Terms *Terms
	// Unlimited: the config declares the user without a limit, so that nobody pays
	// where there are no Terms. What else is known of users does not say so.
	Unlimited bool
	// Amount is set aside, in the unit of Record.Spent.
	Amount USD
	// MinAvailable is what must be left beside what others have set aside; 0 asks for
	// nothing, so that what is free is not refused but for want of a subscription.
	MinAvailable USD
}

// Payer is who pays for a hold request.
type Payer struct {
	// Billing is PaidFromBalance, PaidFromSubscription or PaidByNobody.
	Billing string
	// UserNumber is that of the user: 1 for the first of that name, and one more for
	// each who has it after a RemoveUser.
	UserNumber int64
}

// Terms are what a group asks of its users.
type Terms struct {
	Group string
	// Limits are those of the group.
	Limits Limits
	// Declared: the config subscribes the user, until just before Until (zero = for
	// ever), and the ledger's own subscription does not matter.
	Declared bool
	Until    time.Time
}

// Reason is what does not suffice for a hold request.
type Reason string

const (
	ReasonBalance      Reason = "balance"      // the balance is used up
	ReasonSubscription Reason = "subscription" // the user has none of the group
	ReasonExpired      Reason = "time"         // the subscription has expired, at Until
	ReasonWindow       Reason = "window"       // a window of the subscription is used up, until Until
	ReasonKeyLimit     Reason = "key limit"    // a window of the key is used up, until Until
)

// Refusal is why a hold request is not met.
type Refusal struct {
	Reason Reason
	// Span and Limit are those of ReasonWindow and ReasonKeyLimit.
	Span  Span
	Limit USD
	// Left is what is left of the balance or the window, with what others have set
	// aside.
	Left USD
	// Until is when a window ends; zero if it has not begun. Of several used up,
	// it is the last one to end.
	Until time.Time
	// Temporary: it would be met if what others have set aside came back.
	Temporary bool
}

// Error implements error.
func (r *Refusal) Error() string {
	switch r.Reason {
	case ReasonWindow, ReasonKeyLimit:
		return fmt.Sprintf("the %s %s of %s is used up, %s is left", r.Span, r.Reason, r.Limit, r.Left)
	case ReasonExpired:
		return fmt.Sprintf("the subscription expired at %s", r.Until.UTC().Format(time.RFC3339))
	case ReasonSubscription:
		return "there is no subscription"
	}
	return fmt.Sprintf("the balance does not suffice, %s is left", r.Left)
}

// Refuse reports whether the windows refuse a hold request at a time, under the limits and
// with that much set aside by others, for a reason (ReasonWindow or ReasonKeyLimit);
// nil if they don't. The zero Windows have nothing used.
func (ws Windows) Refuse(reason Reason, limits Limits, at time.Time, held, least USD) *Refusal {
	var worst *Refusal
	for s, w := range ws.At(at) {
		limit := limits[s]
		if limit <= 0 || least <= 0 {
			continue
		}
		left := limit.Plus(-w.Used)
		if left.Plus(-held) >= least {
			continue
		}
		r := &Refusal{Reason: reason, Span: Span(s), Limit: limit, Left: left, Until: w.End, Temporary: left >= least}
		// What waiting can't mend comes first, then what lasts longest.
		if worst == nil || worst.Temporary && !r.Temporary || worst.Temporary == r.Temporary && !r.Until.Before(worst.Until) {
			worst = r
		}
	}
	return worst
}
