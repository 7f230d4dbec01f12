package anthropic

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// unified is what the headers about a subscription's windows begin with.
const unified = "Anthropic-Ratelimit-Unified-"

// Asked is what of a request matters for what its failure means.
type Asked struct {
	Model string
	Fast  bool
}

// ReadFailure makes a Failure of an answer that is not a success.
func ReadFailure(status int, header http.Header, body []byte, asked Asked, now time.Time) *upstream.Failure {
	failure := gjson.Get(textOf(body), "error")
	f := &upstream.Failure{
		Status:  status,
		Type:    strings.Clone(failure.Get("type").String()),
		Message: strings.Clone(failure.Get("message").String()),
		Header:  header,
		Body:    body,
		Windows: ReadWindows(header),
	}
	f.RetryAfter, f.RetryNow = retryAfter(header, now)
	code := failure.Get("details.error_code").String()
	f.Kind = kindOfStatus(status)
	switch {
	case status == http.StatusTooManyRequests:
		readLimit(f, code, asked, now)
	case status == http.StatusBadRequest && saysCreditGone(f.Type, code, f.Message):
		f.Kind = upstream.Denied
	case status == http.StatusNotFound && f.Type == "not_found_error":
		f.Kind = upstream.Absent
	}
	return f
}

func kindOfStatus(status int) upstream.FailureKind {
	switch {
	case status == http.StatusUnauthorized:
		return upstream.Unauthorized
	case status == http.StatusPaymentRequired, status == http.StatusForbidden:
		return upstream.Denied
	case status == http.StatusTooManyRequests:
		return upstream.Throttled
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status >= 500:
		return upstream.Failed
	}
	return upstream.Refused
}

// creditWords are what the API says in a 400 when credit or organisation are at
// an end. A client may have placed them there: they only make the gateway ask the
// account itself.
var creditWords = []string{
	"credit balance is too low", "organization has been disabled", "organization is disabled", "organization is on hold",
}

func saysCreditGone(kind, code, message string) bool {
	message = strings.ToLower(message)
	return kind == "billing_error" || code == "organization_on_hold" || strings.HasPrefix(code, "linked_organization_") ||
		slices.ContainsFunc(creditWords, func(words string) bool { return strings.Contains(message, words) })
}

// readLimit finds what a 429 is about: a spend limit, claims of the account that
// are rejected, or neither.
func readLimit(f *upstream.Failure, code string, asked Asked, now time.Time) {
	switch code {
	case "enforced_spend_limit_reached", "contract_spend_limit_reached":
		f.Kind = upstream.SpendLimit
		return
	case "ramp_limit_exceeded":
		return
	}
	if reset, spent := fastLimit(f.Header); spent && asked.Fast {
		f.Windows = append(f.Windows, upstream.Window{Name: upstream.ClaimFast, Status: rejected, Reset: reset, Utilization: -1})
	}
	overall := parseTime(f.Header.Get(unified + "Reset"))
	if !slices.ContainsFunc(f.Windows, isRejected) {
		if w, ok := representative(f.Header); ok {
			f.Windows = slices.DeleteFunc(f.Windows, func(other upstream.Window) bool { return other.Name == w.Name })
			f.Windows = append(f.Windows, w)
		}
	}
	for i := range f.Windows {
		w := &f.Windows[i]
		w.Overage = false // or the request would have been served
		if !isRejected(*w) {
			continue
		}
		if w.Reset.IsZero() && w.Name != upstream.ClaimFast {
			w.Reset = overall
		}
		if !w.Reset.IsZero() && !w.Reset.After(now) {
			continue // over, by upstream's own word
		}
		f.Kind = upstream.Limited
		if (w.Family == "" || strings.Contains(asked.Model, w.Family)) && w.Reset.After(f.Reset) {
			f.Reset = w.Reset
		}
	}
}

const rejected = "rejected"

func isRejected(w upstream.Window) bool { return w.Status == rejected }

// representative is the claim that a 429 names as a whole, where it names no
// window that is rejected; false where that is none of the account's: overage
// alone.
func representative(header http.Header) (upstream.Window, bool) {
	status := header.Get(unified + "Status")
	claim := header.Get(unified + "Representative-Claim")
	reset := header.Get(unified + "Reset")
	if claim == "overage" || status != rejected && (status != "" || claim == "" && reset == "") {
		return upstream.Window{}, false
	}
	name := windowOfClaim(claim)
	if status == "" && header.Get(unified+name+"-Status") != "" {
		return upstream.Window{}, false // which says that it is allowed
	}
	return upstream.Window{
		Name: name, Family: familyOf(name), Status: rejected, Reset: parseTime(reset), Utilization: utilization(header, name),
	}, true
}

// windowOfClaim is the name that the headers have for a claim's window: 7d_opus
// for seven_day_opus.
func windowOfClaim(claim string) string {
	for _, words := range [][2]string{{"five_hour", "5h"}, {"seven_day", "7d"}} {
		if rest, ok := strings.CutPrefix(claim, words[0]); ok {
			return words[1] + rest
		}
	}
	if claim == "" {
		return upstream.ClaimUnified
	}
	return strings.ToLower(claim)
}

// ReadWindows reads what an answer's headers say of the account's windows, sorted
// by name, with ClaimUnified for all of them where that is said; nil where they
// say nothing.
func ReadWindows(header http.Header) (windows []upstream.Window) {
	overage := header.Get(unified + "Overage-Status")
	for name, values := range header {
		rest, ok := strings.CutPrefix(name, unified)
		if !ok || len(values) == 0 {
			continue
		}
		window, ok := strings.CutSuffix(rest, "-Status")
		switch {
		case rest == "Status":
			window = upstream.ClaimUnified
			if values[0] == rejected {
				continue // readLimit finds out of what
			}
		case !ok, window == "Overage", len(window) > maxWindowWord, len(values[0]) > maxWindowWord:
			continue
		}
		window = strings.ToLower(window)
		windows = append(windows, upstream.Window{
			Name: window, Family: familyOf(window), Status: values[0],
			Reset:       parseTime(header.Get(unified + window + "-Reset")),
			Utilization: utilization(header, window),
			Overage:     values[0] == rejected && (overage == "allowed" || overage == "allowed_warning"),
		})
	}
	slices.SortFunc(windows, func(a, b upstream.Window) int { return strings.Compare(a.Name, b.Name) })
	return windows
}

// familyOf is the model family that a window's name ends with, "" for a window of
// all models.
func familyOf(window string) string {
	for _, family := range modelname.Families {
		if strings.HasSuffix(window, "_"+family) || strings.HasSuffix(window, "-"+family) {
			return family
		}
	}
	return ""
}

// fastLimit reports whether fast mode's own limit is spent, and until when.
func fastLimit(header http.Header) (reset time.Time, spent bool) {
	for _, kind := range []string{"Input", "Output"} {
		prefix := "Anthropic-Fast-" + kind + "-Tokens-"
		if header.Get(prefix+"Remaining") == "0" {
			spent = true
			if t := parseTime(header.Get(prefix + "Reset")); t.After(reset) {
				reset = t
			}
		}
	}
	return reset, spent
}

func utilization(header http.Header, window string) float64 {
	u, err := strconv.ParseFloat(header.Get(unified+window+"-Utilization"), 64)
	if err != nil || !(u >= 0) || u > maxUtilization {
		return -1
	}
	return u
}

// maxWindowWord bounds a window's name and status, which are kept; the longest in
// use have 15 bytes.
const maxWindowWord = 40

// maxUtilization is more than any window is overdrawn by.
const maxUtilization = 1000

// parseTime reads unix seconds or RFC 3339, the two forms in use; zero for
// anything else.
func parseTime(s string) time.Time {
	if seconds, err := strconv.ParseFloat(s, 64); err == nil {
		if seconds > 0 && seconds < 1e11 {
			return time.Unix(int64(seconds), 0)
		}
		return time.Time{}
	}
	t, _ := time.Parse(time.RFC3339, s)
	return t
}

// retryAfter reads retry-after, seconds or a date; 0 = absent or unreadable. now
// reports whether it was there, and zero or past.
func retryAfter(header http.Header, at time.Time) (after time.Duration, now bool) {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil && seconds == seconds {
		after = time.Duration(min(max(seconds, 0), 366*24*3600) * float64(time.Second))
		return after, after == 0
	}
	if date, err := http.ParseTime(value); err == nil {
		after = max(0, date.Sub(at))
		return after, after == 0
	}
	return 0, false
}

// statusOfType is the HTTP status of an error.type, for errors that come as
// events of a stream.
func statusOfType(kind string) int {
	switch kind {
	case "invalid_request_error":
		return http.StatusBadRequest
	case "authentication_error":
		return http.StatusUnauthorized
	case "billing_error":
		return http.StatusPaymentRequired
	case "permission_error":
		return http.StatusForbidden
	case "not_found_error":
		return http.StatusNotFound
	case "request_too_large":
		return http.StatusRequestEntityTooLarge
	case "rate_limit_error":
		return http.StatusTooManyRequests
	case "timeout_error":
		return http.StatusGatewayTimeout
	case "overloaded_error":
		return 529
	}
	return http.StatusInternalServerError
}

// ReadError makes a Failure of an error object that came with status 200, as an
// event of a stream or as the whole answer: the one that an answer with the
// status of its type would have been.
func ReadError(data []byte) *upstream.Failure {
	kind := gjson.Get(textOf(data), "error.type").String()
	return ReadFailure(statusOfType(kind), http.Header{}, slices.Clone(data), Asked{}, time.Time{})
}
