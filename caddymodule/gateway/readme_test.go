package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// readmeTable returns the rows of the first table below a heading of the README,
// without the head.
func readmeTable(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+heading+"\n")
	for line := range strings.SplitSeq(rest, "\n") {
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("the README has no table below %q", heading)
	}
	return rows[2:]
}

// readmeCooldowns are the cooldowns' defaults.
var readmeCooldowns = scheduler.Cooldowns{RateLimit: 5 * time.Minute, Overload: time.Minute, ErrorRetry: 10 * time.Minute}

// readmeNow is before a month's end, at a full second.
var readmeNow = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func TestTheREADMEsStates(t *testing.T) {
	soon := readmeNow.Add(time.Hour)
	// How an account comes into each state, and what ends it, but for a reset.
	ways := map[string]struct{ begin, end func(*scheduler.AccountState) }{
		scheduler.StateActive: {},
		scheduler.StateRateLimited: {
			begin: func(st *scheduler.AccountState) { st.Limits = []scheduler.Limit{{Claim: "5h", Until: soon}} },
			end:   func(st *scheduler.AccountState) { st.Limits[0].Until = readmeNow },
		},
		scheduler.StateOverloaded: {
			begin: func(st *scheduler.AccountState) { st.Demotions = []scheduler.Demotion{{Until: soon}} },
			end: func(st *scheduler.AccountState) {
				st.Apply(scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: "m", Sent: readmeNow}, readmeNow, readmeCooldowns)
			},
		},
		scheduler.StateError: {
			begin: func(st *scheduler.AccountState) { st.Fail("401", false, readmeNow.Add(-time.Second), readmeCooldowns) },
			end: func(st *scheduler.AccountState) {
				st.Apply(scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: "m", Sent: readmeNow}, readmeNow, readmeCooldowns)
			},
		},
		scheduler.StateDisabled: {
			begin: func(st *scheduler.AccountState) { st.Pause = &scheduler.Pause{At: readmeNow} },
			end:   func(st *scheduler.AccountState) { st.Pause = nil },
		},
	}
	var described []string
	for _, row := range readmeTable(t, "### States") {
		state := strings.Trim(row[0], "`")
		described = append(described, state)
		way, known := ways[state]
		if !known {
			t.Errorf("the state %q is none of the code's", state)
			continue
		}
		var accountState scheduler.AccountState
		want := func(want, when string) {
			t.Helper()
			if word, _, _ := accountState.Summary(readmeNow); word != want {
				t.Errorf("%s: %s %s, want %s", state, word, when, want)
			}
		}
		for _, end := range []func(*scheduler.AccountState){way.end, (*scheduler.AccountState).Reset} {
			if way.begin == nil {
				continue
			}
			accountState = scheduler.AccountState{}
			way.begin(&accountState)
			want(state, "at first")
			end(&accountState)
			if row[3] == "`accounts resume`" && accountState.Pause != nil {
				want(state, "after a reset")
				accountState.Pause = nil
			} else if row[3] != "`accounts reset`" && row[3] != "`accounts resume`" {
				t.Errorf("%s: to end it now: %q", state, row[3])
			}
			want(scheduler.StateActive, "after its end")
		}
	}
	if diff := cmp.Diff([]string{scheduler.StateActive, scheduler.StateRateLimited, scheduler.StateOverloaded, scheduler.StateError, scheduler.StateDisabled}, described); diff != "" {
		t.Errorf("states of the code and of the README:\n%s", diff)
	}
}

// The request that fails in TestWhatTheREADMESaysOfUpstreamsAnswers.
var readmeAsked = anthropic.Asked{Model: "claude-opus-5-5", Fast: true}

// answerOf makes failures of answers with these statuses.
func answerOf(kind, message string, header map[string]string, statuses ...int) (failures []*upstream.Failure) {
	h := http.Header{}
	for name, value := range header {
		h.Set(name, value)
	}
	body := fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q}}`, kind, message)
	for _, status := range statuses {
		failures = append(failures, anthropic.ReadFailure(status, h, []byte(body), readmeAsked, readmeNow))
	}
	return failures
}

// rejects are the headers of a window that is rejected for two days.
func rejects(window string) map[string]string {
	return map[string]string{
		"anthropic-ratelimit-unified-" + window + "-status": "rejected",
		"anthropic-ratelimit-unified-" + window + "-reset":  strconv.FormatInt(readmeNow.Add(48*time.Hour).Unix(), 10),
	}
}

// tooLate is the context of a request that upstream did not answer in time.
func tooLate() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(&timeout{what: "no response header", option: "header_timeout", silence: true})
	return ctx
}

// readmeAnswers are examples of each row of the README's table.
func readmeAnswers() map[string][]*upstream.Failure {
	spend := `{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}`
	fast := map[string]string{
		"anthropic-fast-input-tokens-remaining": "0",
		"anthropic-fast-input-tokens-reset":     readmeNow.Add(48 * time.Hour).Format(time.RFC3339),
	}
	return map[string][]*upstream.Failure{
		"401":      answerOf("authentication_error", "", nil, 401),
		"402, 403": answerOf("permission_error", "", nil, 402, 403),
		"400 about spent credit or the organisation": slices.Concat(
			answerOf("invalid_request_error", "Your credit balance is too low", nil, 400),
			answerOf("invalid_request_error", "This organization has been disabled.", nil, 400),
			answerOf("billing_error", "", nil, 400)),
		"429 that rejects a window of the account":      slices.Concat(answerOf("rate_limit_error", "", rejects("5h"), 429), answerOf("rate_limit_error", "", rejects("7d"), 429)),
		"429 that rejects a window of one model family": answerOf("rate_limit_error", "", rejects("7d_opus"), 429),
		"429 of fast mode's own limit":                  answerOf("rate_limit_error", "", fast, 429),
		"429 of a spend limit":                          {anthropic.ReadFailure(429, http.Header{}, []byte(spend), readmeAsked, readmeNow)},
		"429, any other":                                answerOf("rate_limit_error", "", nil, 429),
		"529, any other 5xx, 408, 409":                  answerOf("api_error", "", nil, 529, 500, 502, 503, 504, 599, 408, 409),
		"`overloaded_error` first in a stream":          {anthropic.ReadError([]byte(`{"type":"error","error":{"type":"overloaded_error"}}`))},
		"nothing in time, or a connection that breaks":  {unreachable(tooLate(), errors.New("canceled")), unreachable(context.Background(), errors.New("reset by peer"))},
		"404 of type `not_found_error`":                 answerOf("not_found_error", "", nil, 404),
		"no connection: refused, TLS, proxy":            {unreachable(context.Background(), &upstream.ConnectError{Err: errors.New("refused")})},
		"400, 413, 422, other 404s, other 4xx": slices.Concat(
			answerOf("invalid_request_error", "max_tokens is too large", nil, 400, 413, 422, 405, 418, 451),
			answerOf("", "<html>", nil, 404)),
	}
}

func TestWhatTheREADMESaysOfUpstreamsAnswers(t *testing.T) {
	answers := readmeAnswers()
	for _, row := range readmeTable(t, "### What upstream's answers do") {
		failures := answers[row[0]]
		delete(answers, row[0])
		if len(failures) == 0 {
			t.Errorf("the row %q has no example here", row[0])
		}
		for _, f := range failures {
			got := []string{row[0], "no", "untouched", "", ""}
			if f.Elsewhere() {
				got[1] = "yes"
			}
			if outcome := outcomeOf(f); outcome.Kind != 0 {
				copy(got[2:], effectOf(t, outcome))
			}
			if diff := cmp.Diff(row, got); diff != "" {
				t.Errorf("%v (-README +code):\n%s", f, diff)
			}
		}
	}
	for row := range answers {
		t.Errorf("the README's table has no row %q", row)
	}
}

// effectOf says what a failure does to an account, in the words of the README:
// what the account is, for what, and how long.
func effectOf(t *testing.T, o scheduler.Outcome) []string {
	t.Helper()
	o.Model, o.Fast, o.Endpoint = readmeAsked.Model, readmeAsked.Fast, scheduler.Messages
	var accountState scheduler.AccountState
	now := readmeNow
	o.Sent = now.Add(-time.Second)
	accountState.Apply(o, now, readmeCooldowns)
	verdict := accountState.Judge(now, o.Model, o.Fast, o.Endpoint)
	is, ends := "out", verdict.Until
	if verdict.Use != scheduler.Blocked {
		is, ends = "last", verdict.Last
	}
	first := ends.Sub(now)
	affects := func(model string, fast bool, endpoint scheduler.Endpoint) bool {
		v := accountState.Judge(readmeNow, model, fast, endpoint)
		return v.Use == scheduler.Blocked || !v.Last.IsZero()
	}
	what := scopeOf(affects)
	if is == "last" {
		for range 20 { // it repeats whenever it is tried again
			now = ends
			o.Sent = now
			now = now.Add(time.Millisecond)
			accountState.Apply(o, now, readmeCooldowns)
			ends = accountState.Judge(now, o.Model, o.Fast, o.Endpoint).Last
		}
	}
	if o.Kind == scheduler.Denied {
		is += ", and asked"
	}
	return []string{is, what, lengthOf(t, o, first, ends.Sub(now))}
}

// scopeOf names the requests that a failure of readmeAsked affects.
func scopeOf(affects func(string, bool, scheduler.Endpoint) bool) string {
	asked, other := readmeAsked.Model, "claude-haiku-4-5"
	switch {
	case affects(other, false, scheduler.CountTokens):
		return "everything"
	case affects(other, true, scheduler.Messages):
		return "fast mode"
	case affects("claude-opus-4-1", false, scheduler.CountTokens):
		return "the family"
	case affects(asked, true, scheduler.CountTokens):
		return "the model on all endpoints"
	case affects(asked, false, scheduler.Messages):
		return "the model"
	case affects(asked, true, scheduler.Messages):
		return "the model at this speed"
	}
	return "nothing"
}

// lengthOf says how long, at first and at most.
func lengthOf(t *testing.T, o scheduler.Outcome, first, most time.Duration) string {
	t.Helper()
	if o.Kind == scheduler.Limited {
		far := scheduler.AccountState{}
		for i := range o.Windows {
			o.Windows[i].Reset = readmeNow.AddDate(1, 0, 0)
		}
		far.Apply(o, readmeNow, readmeCooldowns)
		longest := far.Judge(readmeNow, o.Model, o.Fast, o.Endpoint).Until.Sub(readmeNow)
		return fmt.Sprintf("until the reset that it names, at most %d days", longest/(24*time.Hour))
	}
	switch {
	case most == time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC).Sub(readmeNow):
		return "to the end of the month, UTC"
	case first == most:
		return fmt.Sprintf("%d min", most/time.Minute)
	case first != 5*time.Second:
		return fmt.Sprintf("%v at first", first)
	case most == readmeCooldowns.RateLimit:
		return "up to `rate_limit_cooldown`"
	case most == readmeCooldowns.Overload:
		return "up to `overload_cooldown`"
	}
	return fmt.Sprintf("up to %d min", most/time.Minute)
}
