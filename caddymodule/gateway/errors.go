package gateway

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/tidwall/sjson"
)

// apiError is a refusal in the shape of the Anthropic API. Its message is for
// the client: it names no account and no secret.
type apiError struct {
	status  int
	kind    string // error.type
	message string
	// retryAfter is when to come back; 0 = not said.
	retryAfter time.Duration
	// final: a retry can't mend it.
	final bool
	// header holds more headers of the answer; nil for none.
	header http.Header
	// seal ends what a stream has left open, before the error's event.
	seal string
}

// Error implements error.
func (e *apiError) Error() string { return e.message }

// stepError is why a step of a request could not be taken.
type stepError struct {
	doing string
	err   error
	// ofStore: the store is at fault, or what it said.
	ofStore bool
}

// Error implements error.
func (e *stepError) Error() string { return e.doing + ": " + e.err.Error() }

// Unwrap returns what was wrong.
func (e *stepError) Unwrap() error { return e.err }

// storeError is that a step failed for the store's sake.
func storeError(doing string, err error) error { return &stepError{doing, err, true} }

// upstreamError is that the account which was asked last has failed, and no other is asked.
type upstreamError struct{ failure *upstream.Failure }

// Error implements error.
func (e *upstreamError) Error() string { return e.failure.Error() }

var (
	// errGone: the client has left, or the gateway ends the request.
	errGone = errors.New("the request has ended")
	// errCutShort: the connection must be cut, since half of a JSON text can't say that it
	// failed.
	errCutShort = errors.New("the answer is cut short")
)

// What the gateway refuses and what fails is made here, and nowhere else. The type and
// the status are those that clients of the API act upon.

// The types of errors, as the API names them.
const (
	invalidRequestError = "invalid_request_error"
	authenticationError = "authentication_error"
	billingError        = "billing_error"
	notFoundError       = "not_found_error"
	requestTooLarge     = "request_too_large"
	rateLimitError      = "rate_limit_error"
	serverError         = "api_error"
	timeoutError        = "timeout_error"
	overloadedError     = "overloaded_error"
)

// statusOverloaded is the API's own status for an upstream that is overloaded.
const statusOverloaded = 529

// longestRetryAfter is the longest retry-after that goes without
// x-should-retry: false. SDKs sleep for any retry-after, however long.
const longestRetryAfter = 60 * time.Second

// body is the error's JSON.
func (e *apiError) body(requestID string) []byte {
	body := []byte(`{"type":"error","error":{"type":"","message":""},"request_id":""}`)
	for path, value := range map[string]string{"error.type": e.kind, "error.message": e.message, "request_id": requestID} {
		// The path exists in the template, so that nothing can fail.
		body, _ = sjson.SetBytes(body, path, value)
	}
	return body
}

// write answers with the error. It must be the first thing written.
func (e *apiError) write(w http.ResponseWriter, requestID string) {
	e.writeBody(w, requestID, e.body(requestID))
}

// writeBody is write with the JSON of another API.
func (e *apiError) writeBody(w http.ResponseWriter, requestID string, body []byte) {
	header := w.Header()
	for name, values := range e.header {
		header[name] = values
	}
	header.Set("Content-Type", "application/json")
	header.Set("Request-Id", requestID)
	setRetry(header, e.retryAfter, e.final)
	w.WriteHeader(e.status)
	w.Write(body)
}

// event is the error as an event of a stream.
func (e *apiError) event(requestID string) []byte {
	return append(append([]byte("event: error\ndata: "), e.body(requestID)...), "\n\n"...)
}

// setRetry writes the headers that tell clients whether and when to retry.
func setRetry(header http.Header, after time.Duration, final bool) {
	if after > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	if final || after > longestRetryAfter {
		header.Set("X-Should-Retry", "false")
	}
}

// What is wrong with the request itself. None of it is mended by a retry.

func invalid(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, kind: invalidRequestError, final: true, message: message}
}

func errMethod(allowed string) *apiError {
	e := invalid("method not allowed; use " + allowed)
	e.status, e.header = http.StatusMethodNotAllowed, http.Header{"Allow": {allowed}}
	return e
}

func errCompressed() *apiError {
	e := invalid("compressed request bodies are not accepted; send the body without Content-Encoding")
	e.status = http.StatusUnsupportedMediaType
	return e
}

func errBodyTooLarge(most int64) *apiError {
	return &apiError{
		status: http.StatusRequestEntityTooLarge, kind: requestTooLarge, final: true,
		message: fmt.Sprintf("the request body is larger than %d bytes", most),
	}
}

func errNotFound(what string) *apiError {
	return &apiError{status: http.StatusNotFound, kind: notFoundError, final: true, message: what}
}

// Who asks, and what for.

func errKey(message string) *apiError {
	return &apiError{status: http.StatusUnauthorized, kind: authenticationError, final: true, message: message}
}

func errWrongKeys(wait time.Duration) *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, kind: rateLimitError, retryAfter: wait,
		message: "too many requests with wrong gateway keys came from this address; try again later",
	}
}

// errNoAccount: no account that the key may use serves a model, on a platform if one is
// forced.
func errNoAccount(force upstream.Platform, model string) *apiError {
	message := "no account that this key may use serves the model " + shorten(model)
	if force != "" {
		message += " on the platform " + string(force)
	}
	return invalid(message)
}

// The money.

// errSetAside: what is left is set aside for others' requests.
func errSetAside() *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, kind: rateLimitError, retryAfter: busyRetryAfter,
		message: "what is left of the budget is set aside for requests in flight; try again",
	}
}

// errSpent says what is used up. Its headers make Claude Code show the message and not
// retry.
func errSpent(what string, r *billing.Refusal) *apiError {
	e := &apiError{
		status: http.StatusTooManyRequests, kind: billingError, final: true,
		message: "spend limit reached: " + what,
		header: http.Header{
			"Anthropic-Ratelimit-Unified-Status":                  {"rejected"},
			"Anthropic-Ratelimit-Unified-Overage-Utilization":     {"1"},
			"Anthropic-Ratelimit-Unified-Overage-Disabled-Reason": {"out_of_credits"},
		},
	}
	if (r.Reason == billing.ReasonWindow || r.Reason == billing.ReasonKeyLimit) && !r.Until.IsZero() {
		reset := strconv.FormatInt(r.Until.Unix(), 10)
		e.header.Set("Anthropic-Ratelimit-Unified-Reset", reset)
		e.header.Set("Anthropic-Ratelimit-Unified-Overage-Reset", reset)
		e.header.Set("Anthropic-Ratelimit-Unified-Overage-Period", r.Span.String())
		e.retryAfter = max(time.Second, time.Until(r.Until))
	}
	return e
}

// The accounts.

func errBusy() *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, kind: rateLimitError, retryAfter: busyRetryAfter,
		message: "too many requests are in flight; try again",
	}
}

// errAllOut is the refusal while every account is out, until the soonest is back or
// asked whether it is; zero = none will be by itself.
func errAllOut(until time.Time) *apiError {
	e := &apiError{status: http.StatusServiceUnavailable, kind: overloadedError}
	if until.IsZero() {
		e.final = true
		e.message = "every account that serves this model is out, until the operator of this gateway acts"
		return e
	}
	e.retryAfter = untilBack(until)
	e.message = "every account that serves this model is out for now; try again"
	return e
}

// untilBack is the retry-after for a time.
func untilBack(at time.Time) time.Duration { return max(time.Second, time.Until(at)) }

// The gateway.

// errEnded: the gateway ends the request, for a reason of its own.
func errEnded(why string) *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, kind: overloadedError, retryAfter: shutdownRetryAfter, message: why + "; try again",
	}
}

func errInternal() *apiError {
	return &apiError{
		status: http.StatusInternalServerError, kind: serverError,
		message: "the gateway could not process the request; its log says why, under this request_id",
	}
}

func errStore() *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, kind: serverError, retryAfter: store.OpenRetry,
		message: "the gateway's store can't be used at present; try again",
	}
}

// Upstream.

// errUpstream is what a client hears when the account that was asked last has failed; nil
// where upstream judged the request itself: then its own words pass.
func errUpstream(f *upstream.Failure) *apiError {
	e := &apiError{
		status: http.StatusBadGateway, kind: serverError, message: "the upstream service failed; try again",
		retryAfter: f.RetryAfter, final: f.Paid,
	}
	switch {
	case f.Kind == upstream.Unauthorized, f.Kind == upstream.Denied, f.Kind == 0 && f.Status == http.StatusUnauthorized:
		e.message, e.final = "the upstream account of this request can't be used at present", true
	case f.Kind == upstream.Unreachable:
		e.message = "the upstream service could not be reached; try again"
	case f.Status == http.StatusBadRequest, f.Status == http.StatusNotFound,
		f.Status == http.StatusRequestEntityTooLarge, f.Status == http.StatusUnprocessableEntity:
		return nil
	case f.Status == http.StatusTooManyRequests:
		e.status, e.kind, e.message = f.Status, rateLimitError, "the upstream rate limit is reached; try again later"
		if !f.Reset.IsZero() {
			e.retryAfter = untilBack(f.Reset)
		}
	case f.Status == statusOverloaded:
		e.status, e.kind, e.message = f.Status, overloadedError, "the upstream service is overloaded; try again"
	case f.Status == http.StatusGatewayTimeout:
		e.status, e.kind, e.message = f.Status, timeoutError, "the upstream service took too long to answer; try again"
	}
	if f.Paid {
		e.message = "the upstream service broke off its answer after a long time; it may have been paid for, so it was not asked for again"
		if f.Late {
			e.message = "the upstream service took too long to answer; the answer may have been paid for, so it was not asked for again"
		}
	}
	return e
}

// errPassed is upstream's refusal of the request, in a stream that has begun.
func errPassed(kind, message string) *apiError {
	if kind == "" {
		kind = invalidRequestError
	}
	return &apiError{kind: kind, message: message}
}

// A stream that breaks off. The status is for one of which nothing has gone out.

func errBrokenOff(kind, message string) *apiError {
	return &apiError{status: http.StatusServiceUnavailable, retryAfter: store.OpenRetry, kind: kind, message: message}
}

func errStreamBroken() *apiError {
	return errBrokenOff(serverError, "the upstream service broke off its answer")
}

func errStreamSilent() *apiError {
	return errBrokenOff(timeoutError, "the upstream service fell silent in the middle of its answer")
}

func errStreamEnded(why string) *apiError { return errBrokenOff(overloadedError, why+"; try again") }

func errNotRecorded() *apiError {
	return errBrokenOff(serverError, "the gateway could not record this answer; its log says why, under this request_id")
}
