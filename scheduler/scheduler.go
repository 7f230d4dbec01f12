// Package scheduler decides which account serves a request: session
// stickiness, priority, live load, waiting lines, and each account's state
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
	OverloadCooldown    time.Duration // default 1m; see Cooldowns
	RateLimitCooldown   time.Duration // default 5m; see Cooldowns
	ErrorRetry          time.Duration // default 10m; see Cooldowns
}

// Group ties keys to accounts.
type Group struct {
	Name     string
	Platform upstream.Platform
	// Accounts are the names of the group's accounts; empty = every account of
	// the platform, and those of antigravity that mix.
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
	// Endpoint is what is asked of the account.
	Endpoint Endpoint
	// Session is the conversation, "" for none; Pick scopes it by group and user.
	Session string
	// Shared: all users of the group that name this session share its account.
	Shared bool
	// Exclude names the accounts that already failed for this request.
	Exclude []string
}

// OutcomeKind says what upstream's answer means for the account's state.
type OutcomeKind uint8

// What can come of a request. The comments give the effect. "Last" is for the
// request's model, speed and endpoint, for 5 s, doubling while it repeats up to
// the cooldown, or for upstream's retry-after.
const (
	// Success (2xx, and its content has begun): clears what was marked for the
	// request's model, speed and endpoint, and an error. A window that is rejected
	// without overage limits the account to the window's end.
	Success OutcomeKind = iota + 1
	// Answered: upstream's header is there, which ends a trial.
	Answered
	// Limited (429 with rejected claims): out for each of the Windows that is
	// rejected, until its Reset, else for RetryAfter, else for RateLimitCooldown.
	Limited
	// SpendLimit: out to the end of the month, UTC.
	SpendLimit
	// Denied (401, 402, 403, or words about credit or organisation): last for the
	// model at any speed, up to RateLimitCooldown. The gateway asks the account
	// itself whether it is in error.
	Denied
	// Throttled (429 without a rejected claim): last, up to RateLimitCooldown.
	Throttled
	// Failed (529, other 5xx, 408, 409, no answer in time, a connection that
	// broke): last, up to OverloadCooldown.
	Failed
	// Absent (404 of type not_found_error): last for the model, 10 min.
	Absent
	// Unreachable (no connection could be made): last for everything, its sessions
	// too, up to 10 min.
	Unreachable
)

// Outcome is what one attempt at an account came to.
type Outcome struct {
	Kind OutcomeKind
	// Status is the HTTP status that the attempt came to, that of an error event
	// in a stream included; 0 = none (connection failures). An account's
	// ErrorCodes are about it.
	Status int
	// Answer is what two failures have in common that are the same one: status
	// and error type.
	Answer string
	// Model is the client's model.
	Model    string
	Fast     bool
	Endpoint Endpoint
	// Sent is when the request was sent.
	Sent time.Time
	// RetryAfter is upstream's retry-after; 0 = none. RetryNow: it was zero or past.
	RetryAfter time.Duration
	RetryNow   bool
	// Reason is shown to the operator. It holds no secret.
	Reason string
	// Windows are what upstream said of its windows and other claims.
	Windows []WindowReport
	// Served is a model that the account has answered for; "" = none is known.
	Served string
}

// WindowReport is what upstream's headers said of one claim: a window of the
// account, or one of ClaimUnified and ClaimFast.
type WindowReport struct {
	// Name is the window's (5h, 7d_opus, …) or the claim's.
	Name string
	// Family is the one model family that it is about; "" = all models.
	Family string
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
	// Until is the soonest time that one is back, or asked whether it is; zero =
	// not by itself.
	Until time.Time
}

func (e *OutError) Error() string {
	if e.Until.IsZero() {
		return "every account that serves this model is out, and none will be back by itself"
	}
	return "every account that serves this model is out until " + e.Until.UTC().Format(time.RFC3339)
}
