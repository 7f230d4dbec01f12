package upstream

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

// FailureKind says what a failure means for the account; 0 = nothing.
type FailureKind uint8

const (
	// Refused: upstream judged the request, not the account (400, 413, 422 and
	// statuses that say nothing of the account): another account would say the
	// same.
	Refused FailureKind = iota + 1
	// Unauthorized: the credential is not accepted (401).
	Unauthorized
	// Denied: 402, 403, or a 400 with words about credit or organisation.
	Denied
	// Limited: claims of the account are rejected, such as a window that is spent
	// (429).
	Limited
	// SpendLimit: a spend limit was reached; it ends with the month, UTC (429).
	SpendLimit
	// Throttled: 429 without a rejected claim.
	Throttled
	// Failed: 529, other 5xx, 408, 409, no answer in time, and answers that break
	// off or make no sense.
	Failed
	// Absent: the account has not got the model (404 of type not_found_error).
	Absent
	// Unreachable: no connection could be made: refused, TLS, proxy.
	Unreachable
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
	// RetryAfter is upstream's retry-after; 0 = none. RetryNow: it was zero or past.
	RetryAfter time.Duration
	RetryNow   bool
	// Windows are what was said of the account's windows and other claims.
	Windows []Window
	// Reset is when the rejected claims that the request is about end; zero = not
	// said.
	Reset time.Time
	// Late: upstream did not answer in time.
	Late bool
	// Paid: upstream may have worked on the request for so long that it is paid, so
	// it is sent nowhere else.
	Paid bool
	// Err is the failure of the connection; nil where there was an answer.
	Err error
}

// Window is what upstream's headers said of one claim of an account: of a window,
// of all of them, or of fast mode.
type Window struct {
	// Name is the window's own (5h, 7d, 7d_opus, …), ClaimUnified or ClaimFast.
	Name string
	// Family is the one model family that it is about; "" = all models.
	Family string
	// Status is "allowed", "allowed_warning" or "rejected".
	Status string
	// Reset is the window's end; zero = not said.
	Reset time.Time
	// Utilization is the spent fraction; it may pass 1. Negative = not said.
	Utilization float64
	// Overage: the window is rejected and requests are served from overage.
	Overage bool
}

// The claims that are no windows.
const (
	ClaimUnified = "unified" // upstream does not say which window it is
	ClaimFast    = "fast"    // fast mode's own limit
)

func (f *Failure) Error() string {
	switch {
	case f.Err != nil:
		return fmt.Sprintf("no answer from upstream: %v", f.Err)
	case f.Type != "":
		return fmt.Sprintf("upstream answered %d %s: %s", f.Status, f.Type, f.Message)
	}
	return fmt.Sprintf("upstream answered %d", f.Status)
}

// Conceal takes a secret out of what upstream said, which may quote what it was
// sent.
func (f *Failure) Conceal(secret string) {
	f.Type, f.Message = concealed(f.Type, secret), concealed(f.Message, secret)
	if secret != "" {
		f.Body = bytes.ReplaceAll(f.Body, []byte(secret), []byte(concealment))
	}
}

// Unwrap gives the failure of the connection.
func (f *Failure) Unwrap() error { return f.Err }

// Answer is what two failures have in common that are the same answer: status and
// error type, or the lack of an answer.
func (f *Failure) Answer() string {
	switch {
	case f.Late:
		return "late"
	case f.Kind == Unreachable:
		return "no connection"
	case f.Err != nil:
		return "broken off"
	}
	return fmt.Sprintf("%d %.100s", f.Status, f.Type)
}

// Elsewhere reports whether another account should be tried.
func (f *Failure) Elsewhere() bool { return f.Kind != Refused && !f.Paid }
