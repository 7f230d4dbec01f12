// Package scheduler decides which account serves a request: session
// stickiness, priority, live load, waiting lines, and each account's standing
// (limited, overloaded, in error).
package scheduler

import (
	"errors"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// Settings are the options of the `scheduling` block and the pool they act on.
// Immutable: a new config makes a new Scheduler over the same State.
type Settings struct {
	Accounts []*upstream.Account
	Groups   []Group
	// GroupsDontLimit (mode simple): a group chooses the platform, and every
	// account of that platform is a candidate.
	GroupsDontLimit bool

	StickyTTL           time.Duration // default 1h
	StickyMaxWaiting    int           // default 3
	StickyWaitTimeout   time.Duration // default 45s
	FallbackMaxWaiting  int           // default 100, per account
	FallbackWaitTimeout time.Duration // default 30s
	UserExtraWaiting    int           // default 20
	UserWaitTimeout     time.Duration // default 30s
	LoadAware           bool          // default true
	OverloadCooldown    time.Duration // default 1m, doubles on repeats up to 10m
	RateLimitCooldown   time.Duration // default 5m, when upstream names no reset
	// ErrorRetry is when an account in error is asked again, doubling to 6h while
	// it stays in error; default 10m, 0 = never.
	ErrorRetry time.Duration
}

// Group ties keys to accounts.
type Group struct {
	Name     string
	Platform upstream.Platform
	// Accounts are the names of the group's accounts; empty = every account of
	// the platform (and mixed_scheduling ones, as section "Candidates" of the
	// README says).
	Accounts []string
}

// Demand is what a request needs of an account.
type Demand struct {
	// Request is the request's id: unique; leases are named after it.
	Request string
	User    string
	// Group is the group's name; "" = none: every account of the platform.
	Group string
	// Force is the platform that the request's path forces; "" = the group's.
	Force upstream.Platform
	Model string
	Fast  bool
	// Session is the conversation, "" for none; Pick scopes it by group.
	Session string
	// Exclude names the accounts that already failed for this request.
	Exclude []string
}

// OutcomeKind says what upstream's answer means for the account's standing.
type OutcomeKind uint8

// What can come of a request. The comments give the effect.
const (
	// Success: clears strikes, probes, rate limits (where Window says allowed).
	// Window says rejected without Overage: limited to the window's end.
	Success OutcomeKind = iota + 1
	// Unauthorized (401): in error.
	Unauthorized
	// Forbidden (403): out for this model for RateLimitCooldown; the third in a
	// row, with no success between: in error.
	Forbidden
	// RateLimited (429 of a spent window): limited until Reset, else for
	// RetryAfter, else for RateLimitCooldown; Family or Fast narrow it.
	RateLimited
	// Burst (429 without a spent window): limited for RetryAfter, else for
	// RateLimitCooldown; no window is touched.
	Burst
	// SpendLimit: limited to the end of the month, UTC.
	SpendLimit
	// CreditGone (402; 400 about credit or hold): in error.
	CreditGone
	// Overloaded (529): out for OverloadCooldown, doubling on repeats to 10 min
	// until a success.
	Overloaded
	// ServerFault (other 5xx, connection failures): 5 in a row within 60 s: out
	// for 30 s, doubling to 10 min, cleared by a success.
	ServerFault
)

// Outcome is what one attempt at an account came to.
type Outcome struct {
	Kind OutcomeKind
	// Status is the HTTP status that the attempt came to, that of an error event
	// in a stream included; 0 = none (connection failures). An account's
	// ErrorCodes are about it.
	Status int
	// Model is the client's model.
	Model string
	// Reset is when the limit ends; zero = upstream did not say.
	Reset time.Time
	// RetryAfter is upstream's retry-after; 0 = none.
	RetryAfter time.Duration
	// Family, where not "", is the one model family that is limited, as in a
	// model's name: "opus", "sonnet".
	Family string
	// Fast: only fast-mode requests are limited; of a Success: the request was
	// in fast mode.
	Fast bool
	// Reason is shown to the operator. It holds no secret.
	Reason string
	// Window is what upstream said of the five-hour window; nil = nothing.
	Window *WindowReport
}

// WindowReport is what upstream's headers said of the account's five-hour
// window.
type WindowReport struct {
	// Status is "allowed", "allowed_warning" or "rejected".
	Status string
	// Reset is the window's end; zero = not said.
	Reset time.Time
	// Utilization is the spent fraction; it may pass 1. Negative = not said.
	Utilization float64
	// Overage: rejected, and served from overage all the same.
	Overage bool
}

// Errors of Pick and Admit. The waiting ones come with context: match with
// errors.Is.
var (
	// ErrNoAccount: no account of the group serves this model at all.
	ErrNoAccount = errors.New("no account serves this model")
	// ErrFull: every line was full, or the wait timed out.
	ErrFull = errors.New("all slots are in use")
	// ErrUnavailable: the store of the state is out of reach, and the state is
	// told to do nothing without it.
	ErrUnavailable = errors.New("the scheduler's store is out of reach")
	// ErrClosed: the state was closed.
	ErrClosed = errors.New("scheduler state is closed")
)

// OutError says that accounts there are, but all are out.
type OutError struct {
	// Until is the soonest time that one is back; zero = not by itself.
	Until time.Time
}

func (e *OutError) Error() string {
	if e.Until.IsZero() {
		return "every account that serves this model is out, and none will be back by itself"
	}
	return "every account that serves this model is out until " + e.Until.UTC().Format(time.RFC3339)
}
