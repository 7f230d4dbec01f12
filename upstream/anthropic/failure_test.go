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
	type summary struct {
		Kind          upstream.FailureKind
		RetryAfter    time.Duration
		Reset         time.Time
		Family        string
		Fast          bool
		WindowRejects time.Time
	}
	plain := func(kind upstream.FailureKind) summary { return summary{Kind: kind} }
	for _, test := range []struct {
		name   string
		status int
		header map[string]string
		body   string
		fast   bool
		want   summary
	}{
		{"400", 400, nil, `{"error":{"message":"bad"}}`, false, plain(upstream.Refused)},
		{"400 for credit", 400, nil, `{"error":{"message":"Your credit balance is too low to access the Anthropic API."}}`, false, plain(upstream.CreditGone)},
		{"400 on hold", 400, nil, `{"error":{"details":{"error_code":"organization_on_hold"}}}`, false, plain(upstream.CreditGone)},
		{"401", 401, nil, ``, false, plain(upstream.Unauthorized)},
		{"402", 402, nil, ``, false, plain(upstream.CreditGone)},
		{"403", 403, nil, ``, false, plain(upstream.Forbidden)},
		{"404", 404, nil, ``, false, plain(upstream.Refused)},
		{"408", 408, nil, ``, false, plain(upstream.Conflict)},
		{"409", 409, nil, ``, false, plain(upstream.Conflict)},
		{"413", 413, nil, `<html>`, false, plain(upstream.Refused)},
		{"500", 500, nil, ``, false, plain(upstream.ServerFault)},
		{"502", 502, nil, `<html>`, false, plain(upstream.ServerFault)},
		{"529", 529, map[string]string{"retry-after": "7"}, ``, false, summary{Kind: upstream.Overloaded, RetryAfter: 7 * time.Second}},
		{"302", 302, nil, ``, false, plain(upstream.Refused)},

		{"429 bare", 429, nil, ``, false, plain(upstream.Burst)},
		{"429 retry-after", 429, map[string]string{"retry-after": "120"}, ``, false, summary{Kind: upstream.Burst, RetryAfter: 2 * time.Minute}},
		{"429 retry-after as a date", 429, map[string]string{"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, ``, false, summary{Kind: upstream.Burst, RetryAfter: 30 * time.Second}},
		{"429 reset in seconds", 429, map[string]string{"anthropic-ratelimit-unified-reset": "1800000000"}, ``, false, summary{Kind: upstream.RateLimited, Reset: at(1800000000)}},
		{"429 reset in RFC 3339", 429, map[string]string{"anthropic-ratelimit-unified-reset": "2026-11-24T00:00:00Z"}, ``, false,
			summary{Kind: upstream.RateLimited, Reset: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)}},
		{"429 five hours", 429, map[string]string{"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-representative-claim": "five_hour", "anthropic-ratelimit-unified-reset": "1800000000"}, ``, false,
			summary{Kind: upstream.RateLimited, Reset: at(1800000000), WindowRejects: at(1800000000)}},
		{"429 several windows: the latest", 429, map[string]string{"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": "1800000000",
			"anthropic-ratelimit-unified-5h-status": "rejected", "anthropic-ratelimit-unified-5h-reset": "1800000000", "anthropic-ratelimit-unified-7d-status": "rejected", "anthropic-ratelimit-unified-7d-reset": "1800500000"}, ``, false,
			summary{Kind: upstream.RateLimited, Reset: at(1800500000), WindowRejects: at(1800000000)}},
		{"429 one family", 429, map[string]string{"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-representative-claim": "seven_day_opus", "anthropic-ratelimit-unified-reset": "1800000000"}, ``, false,
			summary{Kind: upstream.RateLimited, Reset: at(1800000000), Family: "opus"}},
		{"429 a family and the whole", 429, map[string]string{"anthropic-ratelimit-unified-7d_opus-status": "rejected", "anthropic-ratelimit-unified-7d_opus-reset": "1800000000",
			"anthropic-ratelimit-unified-5h-status": "rejected", "anthropic-ratelimit-unified-5h-reset": "1800000001"}, ``, false,
			summary{Kind: upstream.RateLimited, Reset: at(1800000001), WindowRejects: at(1800000001)}},
		{"429 short", 429, map[string]string{"anthropic-ratelimit-unified-reset": "1800000000", "retry-after": "9"}, ``, false, summary{Kind: upstream.Burst, RetryAfter: 9 * time.Second}},
		{"429 while allowed", 429, map[string]string{"anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-reset": "1800000000", "retry-after": "30"}, ``, false, summary{Kind: upstream.Burst, RetryAfter: 30 * time.Second}},
		{"429 ramp", 429, map[string]string{"anthropic-ratelimit-unified-reset": "1800000000", "retry-after": "30"}, `{"error":{"details":{"error_code":"ramp_limit_exceeded"}}}`, false, summary{Kind: upstream.Burst, RetryAfter: 30 * time.Second}},
		{"429 spend", 429, nil, `{"error":{"details":{"error_code":"enforced_spend_limit_reached"}}}`, false, plain(upstream.SpendLimit)},
		{"429 contract", 429, nil, `{"error":{"details":{"error_code":"contract_spend_limit_reached"}}}`, false, plain(upstream.SpendLimit)},
		{"429 of fast mode", 429, map[string]string{"anthropic-fast-output-tokens-remaining": "0", "anthropic-fast-output-tokens-reset": "2026-11-24T00:00:00Z", "retry-after": "60"}, ``, true,
			summary{Kind: upstream.RateLimited, RetryAfter: time.Minute, Reset: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), Fast: true}},
		{"429 of fast mode, asked for slowly", 429, map[string]string{"anthropic-fast-output-tokens-remaining": "0", "retry-after": "60"}, ``, false, summary{Kind: upstream.Burst, RetryAfter: time.Minute}},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := http.Header{}
			for name, value := range test.header {
				header.Set(name, value)
			}
			f := ReadFailure(test.status, header, []byte(test.body), test.fast, now)
			got := summary{Kind: f.Kind, RetryAfter: f.RetryAfter, Reset: f.Reset, Family: f.Family, Fast: f.Fast}
			if f.Window != nil {
				if f.Window.Status != "rejected" {
					t.Errorf("window status %q", f.Window.Status)
				}
				got.WindowRejects = f.Window.Reset
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

func TestReadWindow(t *testing.T) {
	if w := ReadWindow(http.Header{}); w != nil {
		t.Errorf("without headers: %+v", w)
	}
	header := http.Header{}
	header.Set("anthropic-ratelimit-unified-5h-status", "rejected")
	header.Set("anthropic-ratelimit-unified-5h-reset", "1800000000")
	header.Set("anthropic-ratelimit-unified-5h-utilization", "1.02")
	header.Set("anthropic-ratelimit-unified-overage-status", "allowed")
	want := &upstream.Window{Status: "rejected", Reset: time.Unix(1800000000, 0), Utilization: 1.02, Overage: true}
	if diff := cmp.Diff(want, ReadWindow(header)); diff != "" {
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
