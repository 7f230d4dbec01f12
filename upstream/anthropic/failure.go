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

// shortRetryAfter is the retry-after below which a 429 is a burst: a spent
// window lasts longer.
const shortRetryAfter = 10 * time.Second

// unified is what the headers about a subscription's windows begin with.
const unified = "Anthropic-Ratelimit-Unified-"

// ReadFailure makes a Failure of an answer that is not a success. fast tells
// whether the request asked for fast mode.
func ReadFailure(status int, header http.Header, body []byte, fast bool, now time.Time) *upstream.Failure {
	failure := gjson.Get(textOf(body), "error")
	f := &upstream.Failure{
		Status:     status,
		Type:       strings.Clone(failure.Get("type").String()),
		Message:    strings.Clone(failure.Get("message").String()),
		Header:     header,
		Body:       body,
		RetryAfter: retryAfter(header, now),
	}
	code := failure.Get("details.error_code").String()
	f.Kind = kindOfStatus(status)
	switch status {
	case http.StatusTooManyRequests:
		readLimit(f, code, fast)
	case http.StatusBadRequest:
		if code == "organization_on_hold" || strings.Contains(strings.ToLower(f.Message), "credit balance is too low") {
			f.Kind = upstream.CreditGone
		}
	}
	return f
}

func kindOfStatus(status int) upstream.FailureKind {
	switch {
	case status == http.StatusUnauthorized:
		return upstream.Unauthorized
	case status == http.StatusPaymentRequired:
		return upstream.CreditGone
	case status == http.StatusForbidden:
		return upstream.Forbidden
	case status == http.StatusTooManyRequests:
		return upstream.Burst
	case status == http.StatusRequestTimeout, status == http.StatusConflict:
		return upstream.Conflict
	case status == 529:
		return upstream.Overloaded
	case status >= 500:
		return upstream.ServerFault
	}
	return upstream.Refused
}

// readLimit tells what a 429 is about: a spend limit, a burst, or one or more
// spent windows, of the account or of one model family or of fast mode.
func readLimit(f *upstream.Failure, code string, fast bool) {
	switch code {
	case "enforced_spend_limit_reached", "contract_spend_limit_reached":
		f.Kind = upstream.SpendLimit
		return
	case "ramp_limit_exceeded":
		return // a burst
	}
	if fast {
		if reset, spent := fastLimit(f.Header); spent {
			f.Kind, f.Fast, f.Reset = upstream.RateLimited, true, reset
			return
		}
	}
	status := f.Header.Get(unified + "Status")
	claim := f.Header.Get(unified + "Representative-Claim")
	reset := parseTime(f.Header.Get(unified + "Reset"))
	spent := spentWindows(f.Header)
	switch {
	case f.RetryAfter > 0 && f.RetryAfter < shortRetryAfter:
		return // a burst
	case len(spent) == 0 && (status == "" || status == "rejected") && (claim != "" || !reset.IsZero() || status != ""):
		spent = []spentWindow{{name: claim, reset: reset}}
	case len(spent) == 0:
		return // no window is spent: a burst
	}
	f.Kind = upstream.RateLimited
	f.Family = familyOf(spent[0].name)
	for _, w := range spent {
		if w.reset.IsZero() {
			w.reset = reset
		}
		if w.reset.After(f.Reset) {
			f.Reset = w.reset
		}
		if familyOf(w.name) != f.Family {
			f.Family = "" // windows of different kinds: nothing is left
		}
		if w.name == "5h" || w.name == "five_hour" {
			f.Window = &upstream.Window{Status: "rejected", Reset: w.reset, Utilization: utilization(f.Header)}
		}
	}
	if f.Window == nil && claim == "five_hour" {
		f.Window = &upstream.Window{Status: "rejected", Reset: reset, Utilization: utilization(f.Header)}
	}
}

// spentWindow is a window that upstream says is rejected.
type spentWindow struct {
	name  string // as in the header (5h, 7d, 7d_opus) or the claim (five_hour)
	reset time.Time
}

// spentWindows reads the windows' own status headers, sorted by name.
func spentWindows(header http.Header) (spent []spentWindow) {
	for name, values := range header {
		window, ok := strings.CutPrefix(name, unified)
		if !ok || len(values) == 0 || values[0] != "rejected" {
			continue
		}
		window, ok = strings.CutSuffix(window, "-Status")
		if !ok || window == "Overage" {
			continue
		}
		spent = append(spent, spentWindow{strings.ToLower(window), parseTime(header.Get(unified + window + "-Reset"))})
	}
	slices.SortFunc(spent, func(a, b spentWindow) int { return strings.Compare(a.name, b.name) })
	return spent
}

// familyOf is the model family that a window's or claim's name ends with, ""
// for a window of all models.
func familyOf(window string) string {
	for _, family := range modelname.Families {
		if strings.HasSuffix(window, "_"+family) || strings.HasSuffix(window, "-"+family) {
			return family
		}
	}
	return ""
}

// fastLimit tells whether fast mode's own limit is spent, and until when.
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

// ReadWindow reads the five-hour window from an answer's headers; nil where
// they say nothing of it.
func ReadWindow(header http.Header) *upstream.Window {
	status := header.Get(unified + "5h-Status")
	if status == "" {
		return nil
	}
	overage := header.Get(unified + "Overage-Status")
	return &upstream.Window{
		Status:      status,
		Reset:       parseTime(header.Get(unified + "5h-Reset")),
		Utilization: utilization(header),
		Overage:     overage == "allowed" || overage == "allowed_warning",
	}
}

func utilization(header http.Header) float64 {
	u, err := strconv.ParseFloat(header.Get(unified+"5h-Utilization"), 64)
	if err != nil || u < 0 {
		return -1
	}
	return u
}

// parseTime reads unix seconds or RFC 3339, the two forms in use; zero for
// anything else.
func parseTime(s string) time.Time {
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil && seconds > 0 {
		return time.Unix(seconds, 0)
	}
	t, _ := time.Parse(time.RFC3339, s)
	return t
}

// retryAfter reads retry-after, seconds or a date; 0 = absent or unreadable.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		return time.Duration(min(max(seconds, 0), 366*24*3600) * float64(time.Second))
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
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
	return ReadFailure(statusOfType(kind), http.Header{}, slices.Clone(data), false, time.Time{})
}
