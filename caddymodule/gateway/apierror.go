package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"

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
}

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
