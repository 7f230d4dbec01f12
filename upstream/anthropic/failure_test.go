package anthropic

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestReadFailure(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	const later, latest = 1800000000, 1800500000 // in 2027
	opus, fast := Asked{Model: "claude-opus-5"}, Asked{Model: "claude-opus-5", Fast: true}
	type header = map[string]string
	unified := func(pairs ...string) header {
		h := header{}
		for i := 0; i < len(pairs); i += 2 {
			h["anthropic-ratelimit-unified-"+pairs[i]] = pairs[i+1]
		}
		return h
	}
	and := func(h header, name, value string) header { h[name] = value; return h }
	type summary struct {
		Kind       upstream.FailureKind
		RetryAfter time.Duration
		RetryNow   bool
		Reset      time.Time
		// Rejected are the names of the rejected claims, and when they end.
		Rejected map[string]time.Time
	}
	plain := func(kind upstream.FailureKind) summary { return summary{Kind: kind} }
	after := func(kind upstream.FailureKind, d time.Duration) summary { return summary{Kind: kind, RetryAfter: d} }
	limited := func(reset int64, rejected map[string]time.Time) summary {
		return summary{Kind: upstream.Limited, Reset: at(reset), Rejected: rejected}
	}
	for _, test := range []struct {
		name   string
		status int
		header header
		body   string
		asked  Asked
		want   summary
	}{
		{"400", 400, nil, `{"error":{"message":"bad"}}`, opus, plain(upstream.Refused)},
		{"400 for credit", 400, nil, `{"error":{"message":"Your credit balance is too low to access the Anthropic API."}}`, opus, plain(upstream.Denied)},
		{"400 by its type", 400, nil, `{"error":{"type":"billing_error"}}`, opus, plain(upstream.Denied)},
		{"400 on hold", 400, nil, `{"error":{"details":{"error_code":"organization_on_hold"}}}`, opus, plain(upstream.Denied)},
		{"400 of a linked organization", 400, nil, `{"error":{"details":{"error_code":"linked_organization_suspended"}}}`, opus, plain(upstream.Denied)},
		{"400 disabled", 400, nil, `{"error":{"message":"This organization has been disabled."}}`, opus, plain(upstream.Denied)},
		{"400 that speaks of a balance", 400, nil, `{"error":{"message":"tools.0.name: credit balance"}}`, opus, plain(upstream.Refused)},
		{"401", 401, nil, ``, opus, plain(upstream.Unauthorized)},
		{"402", 402, nil, ``, opus, plain(upstream.Denied)},
		{"403", 403, nil, ``, opus, plain(upstream.Denied)},
		{"404 page", 404, nil, `<html>`, opus, plain(upstream.Refused)},
		{"404 of a model", 404, nil, `{"error":{"type":"not_found_error","message":"model: x"}}`, opus, plain(upstream.Absent)},
		{"404 of another type", 404, nil, `{"error":{"type":"invalid_request_error"}}`, opus, plain(upstream.Refused)},
		{"408", 408, nil, ``, opus, plain(upstream.Failed)},
		{"409", 409, nil, ``, opus, plain(upstream.Failed)},
		{"413", 413, nil, `<html>`, opus, plain(upstream.Refused)},
		{"418", 418, nil, ``, opus, plain(upstream.Refused)},
		{"500", 500, nil, ``, opus, plain(upstream.Failed)},
		{"502", 502, nil, `<html>`, opus, plain(upstream.Failed)},
		{"529", 529, header{"retry-after": "7"}, ``, opus, after(upstream.Failed, 7*time.Second)},
		{"302", 302, nil, ``, opus, plain(upstream.Refused)},

		{"429 bare", 429, nil, ``, opus, plain(upstream.Throttled)},
		{"429 retry-after", 429, header{"retry-after": "120"}, ``, opus, after(upstream.Throttled, 2*time.Minute)},
		{"429 retry-after: 0", 429, header{"retry-after": "0"}, ``, opus, summary{Kind: upstream.Throttled, RetryNow: true}},
		{"429 retry-after: -3", 429, header{"retry-after": "-3"}, ``, opus, summary{Kind: upstream.Throttled, RetryNow: true}},
		{"429 retry-after: soon", 429, header{"retry-after": "soon"}, ``, opus, plain(upstream.Throttled)},
		{"429 retry-after: NaN", 429, header{"retry-after": "NaN"}, ``, opus, plain(upstream.Throttled)},
		{"429 retry-after as a date", 429, header{"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, ``, opus, after(upstream.Throttled, 30*time.Second)},
		{"429 retry-after in the past", 429, header{"retry-after": "Mon, 23 Nov 2026 11:00:30 GMT"}, ``, opus, summary{Kind: upstream.Throttled, RetryNow: true}},
		{"429 reset in seconds", 429, unified("reset", "1800000000"), ``, opus, limited(later, map[string]time.Time{"unified": at(later)})},
		{"429 reset in parts of seconds", 429, unified("reset", "1800000000.25"), ``, opus, limited(later, map[string]time.Time{"unified": at(later)})},
		{"429 reset in RFC 3339", 429, unified("status", "rejected", "reset", "2027-01-15T08:00:00Z"), ``, opus, limited(later, map[string]time.Time{"unified": at(later)})},
		{"429 reset in the past", 429, unified("status", "rejected", "reset", "1700000000"), ``, opus, plain(upstream.Throttled)},
		{"429 reset not said", 429, unified("status", "rejected", "representative-claim", "five_hour"), ``, opus, summary{Kind: upstream.Limited, Rejected: map[string]time.Time{"5h": {}}}},
		{"429 five hours", 429, unified("status", "rejected", "representative-claim", "five_hour", "reset", "1800000000"), ``, opus, limited(later, map[string]time.Time{"5h": at(later)})},
		{"429 five hours, in a moment", 429, and(unified("5h-status", "rejected", "5h-reset", "1800000000"), "retry-after", "9"), ``, opus,
			summary{Kind: upstream.Limited, RetryAfter: 9 * time.Second, Reset: at(later), Rejected: map[string]time.Time{"5h": at(later)}}},
		{"429 several windows", 429, unified("status", "rejected", "reset", "1800000000", "5h-status", "rejected", "5h-reset", "1800000000", "7d-status", "rejected", "7d-reset", "1800500000"), ``, opus,
			limited(latest, map[string]time.Time{"5h": at(later), "7d": at(latest)})},
		{"429 a window without its reset", 429, unified("reset", "1800000000", "7d-status", "rejected"), ``, opus, limited(later, map[string]time.Time{"7d": at(later)})},
		{"429 one family", 429, unified("status", "rejected", "representative-claim", "seven_day_opus", "reset", "1800000000"), ``, opus, limited(later, map[string]time.Time{"7d_opus": at(later)})},
		{"429 a family and the whole", 429, unified("7d_opus-status", "rejected", "7d_opus-reset", "1800500000", "5h-status", "rejected", "5h-reset", "1800000000"), ``, opus,
			limited(latest, map[string]time.Time{"5h": at(later), "7d_opus": at(latest)})},
		{"429 another family and the whole", 429, unified("7d_sonnet-status", "rejected", "7d_sonnet-reset", "1800500000", "5h-status", "rejected", "5h-reset", "1800000000"), ``, opus,
			limited(later, map[string]time.Time{"5h": at(later), "7d_sonnet": at(latest)})},
		{"429 with overage at hand", 429, unified("5h-status", "rejected", "5h-reset", "1800000000", "overage-status", "allowed"), ``, opus, limited(later, map[string]time.Time{"5h": at(later)})},
		{"429 of overage alone", 429, unified("status", "rejected", "representative-claim", "overage", "reset", "1800000000", "overage-status", "rejected", "5h-status", "allowed"), ``, opus, plain(upstream.Throttled)},
		{"429 while allowed", 429, and(unified("status", "allowed", "reset", "1800000000"), "retry-after", "30"), ``, opus, after(upstream.Throttled, 30*time.Second)},
		{"429 of a claim that is allowed", 429, unified("representative-claim", "five_hour", "reset", "1800000000", "5h-status", "allowed"), ``, opus, plain(upstream.Throttled)},
		{"429 ramp", 429, and(unified("reset", "1800000000"), "retry-after", "30"), `{"error":{"details":{"error_code":"ramp_limit_exceeded"}}}`, opus, after(upstream.Throttled, 30*time.Second)},
		{"429 spend", 429, nil, `{"error":{"details":{"error_code":"enforced_spend_limit_reached"}}}`, opus, plain(upstream.SpendLimit)},
		{"429 contract", 429, nil, `{"error":{"details":{"error_code":"contract_spend_limit_reached"}}}`, opus, plain(upstream.SpendLimit)},
		{"429 of fast mode", 429, header{"anthropic-fast-output-tokens-remaining": "0", "anthropic-fast-output-tokens-reset": "2027-01-15T08:00:00Z", "retry-after": "60"}, ``, fast,
			summary{Kind: upstream.Limited, RetryAfter: time.Minute, Reset: at(later), Rejected: map[string]time.Time{"fast": at(later)}}},
		{"429 of fast mode, asked for slowly", 429, header{"anthropic-fast-output-tokens-remaining": "0", "retry-after": "60"}, ``, opus, after(upstream.Throttled, time.Minute)},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := http.Header{}
			for name, value := range test.header {
				header.Set(name, value)
			}
			f := ReadFailure(test.status, header, []byte(test.body), test.asked, now)
			got := summary{Kind: f.Kind, RetryAfter: f.RetryAfter, RetryNow: f.RetryNow, Reset: f.Reset}
			for _, w := range f.Windows {
				if w.Status == "rejected" && f.Kind == upstream.Limited {
					if got.Rejected == nil {
						got.Rejected = map[string]time.Time{}
					}
					got.Rejected[w.Name] = w.Reset
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if f.Elsewhere() != (f.Kind != upstream.Refused) {
				t.Errorf("Elsewhere is %v", f.Elsewhere())
			}
		})
	}
}

func TestReadWindows(t *testing.T) {
	if w := ReadWindows(http.Header{}); w != nil {
		t.Errorf("without headers: %+v", w)
	}
	header := http.Header{}
	for name, value := range map[string]string{
		"status": "allowed", "representative-claim": "five_hour", "reset": "1800000000",
		"5h-status": "rejected", "5h-reset": "1800000000", "5h-utilization": "1.02",
		"7d-status": "allowed_warning", "7d-reset": "1800500000", "7d-utilization": "NaN",
		"7d_opus-status": "allowed", "7d_opus-utilization": "-1",
		"overage-status": "allowed", "overage-utilization": "0.1",
	} {
		header.Set("anthropic-ratelimit-unified-"+name, value)
	}
	want := []upstream.Window{
		{Name: "5h", Status: "rejected", Reset: time.Unix(1800000000, 0), Utilization: 1.02, Overage: true},
		{Name: "7d", Status: "allowed_warning", Reset: time.Unix(1800500000, 0), Utilization: -1},
		{Name: "7d_opus", Family: "opus", Status: "allowed", Utilization: -1},
		{Name: "unified", Status: "allowed", Utilization: -1},
	}
	if diff := cmp.Diff(want, ReadWindows(header)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAboutThinking(t *testing.T) {
	for _, test := range []struct {
		status  int
		message string
		want    bool
	}{
		{400, "messages.1.content.0: Invalid `signature` in `thinking` block", true},
		{400, "Invalid `signature` in `thinking` block. The block is bound to a different conversation", true},
		{400, "messages.3.content.1: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified", true},
		{400, "capability_rejected: thinking_signature", true},
		{400, "thinking.type: disabled is not supported by this model", false},
		{400, "max_tokens must be greater than thinking.budget_tokens", false},
		{500, "Invalid `signature` in `thinking` block", false},
	} {
		if got := AboutThinking(&upstream.Failure{Status: test.status, Message: test.message}); got != test.want {
			t.Errorf("%d %s: %v", test.status, test.message, got)
		}
	}
}
