package upstream

import (
	"fmt"
	"net/http"
	"time"
)

// FailureKind says what a failure means for the account.
type FailureKind uint8

const (
	// Refused: upstream judged the request, not the account (400, 404, 413, 422
	// and statuses that say nothing of the account): another account would say
	// the same.
	Refused FailureKind = iota + 1
	// Unauthorized: the credential is not accepted (401).
	Unauthorized
	// Forbidden: 403.
	Forbidden
	// RateLimited: a window of the account is spent (429).
	RateLimited
	// Burst: throttled for a moment, no window is spent (429).
	Burst
	// SpendLimit: a spend limit was reached; it ends with the month, UTC (429).
	SpendLimit
	// CreditGone: no credit, or the organisation is on hold (402, some 400).
	CreditGone
	// Overloaded: 529.
	Overloaded
	// ServerFault: other 5xx, and answers that break off or make no sense.
	ServerFault
	// Unreachable: no answer: connection, TLS or proxy failed, or header_timeout
	// passed.
	Unreachable
	// Conflict: 408 or 409, which another account may not have.
	Conflict
)

// Failure is an answer that was not a success, or the lack of one. It is an
// error whose text is for the operator's log.
type Failure struct {
	Kind FailureKind
	// Status is upstream's HTTP status; for an error event in a stream the status
	// of its type; 0 without an answer.
	Status int
	// Type and Message are upstream's error.type and error.message.
	Type, Message string
	// Header and Body are upstream's answer as it came; nil without one.
	Header http.Header
	Body   []byte
	// RetryAfter is upstream's retry-after; 0 = none.
	RetryAfter time.Duration
	// Reset is when the account's limit ends; zero = not said.
	Reset time.Time
	// Family is the one model family that is limited; "" = all models.
	Family string
	// Fast: only fast-mode requests are limited.
	Fast bool
	// Window is what was said of the five-hour window; nil = nothing.
	Window *Window
	// Err is the failure of the connection; nil where there was an answer.
	Err error
}

// Window is what upstream's headers said of an account's five-hour window.
type Window struct {
	// Status is "allowed", "allowed_warning" or "rejected".
	Status string
	// Reset is the window's end; zero = not said.
	Reset time.Time
	// Utilization is the spent fraction; it may pass 1. Negative = not said.
	Utilization float64
	// Overage: the window is rejected and requests are served from overage.
	Overage bool
}

func (f *Failure) Error() string {
	switch {
	case f.Err != nil:
		return fmt.Sprintf("no answer from upstream: %v", f.Err)
	case f.Type != "":
		return fmt.Sprintf("upstream answered %d %s: %s", f.Status, f.Type, f.Message)
	}
	return fmt.Sprintf("upstream answered %d", f.Status)
}

// Unwrap gives the failure of the connection.
func (f *Failure) Unwrap() error { return f.Err }

// Elsewhere tells whether another account should be tried.
func (f *Failure) Elsewhere() bool { return f.Kind != Refused }
