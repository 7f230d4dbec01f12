package blackbox_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// mapping is how one answer of upstream reaches the client, when it is the last
// account's.
type mapping struct {
	name  string
	reply simulator.Reply
	// status and kind are what the client gets; kind "" means upstream's own
	// body, as it is.
	status int
	kind   string
	// final: x-should-retry: false.
	final bool
	// retryAfter is the client's, in seconds; 0 = none.
	retryAfter int
	// stays: not tried on another account.
	stays bool
	// after is what becomes of the account; "" = it comes last, and where there is
	// no other it is asked again.
	after string
	// question is what the gateway's own question is answered; nil = reply.
	question *simulator.Reply
}

// What a failure does to an account, but for putting it last.
const (
	accountOut     = "out"      // by its own word
	accountInError = "in error" // by its answer to the gateway's own question
)

// judged is an answer about the request, with words of its own.
func judged(status int, body string, header http.Header) simulator.Reply {
	return simulator.Reply{Status: status, Body: []byte(body), Header: header}
}

const oddError = `{ "type":"error", "error":{"type":"invalid_request_error","message":"messages.0: caf\u00e9 \"x\" is  too long"},"request_id":"req_of_upstream"}` + "\n"

// bothMappings hold for streamed and other requests alike.
var bothMappings = []mapping{
	{name: "400", reply: judged(400, oddError, nil), status: 400, stays: true},
	{name: "400-retry", reply: judged(400, oddError, http.Header{"Retry-After": {"7"}, "X-Should-Retry": {"true"}}), status: 400, retryAfter: 7, stays: true},
	{name: "400-late", reply: judged(400, oddError, http.Header{"Retry-After": {"7200"}}), status: 400, retryAfter: 7200, final: true, stays: true},
	{name: "404", reply: judged(404, oddError, nil), status: 404, stays: true},
	{name: "413", reply: judged(413, "<html>too large</html>", nil), status: 413, stays: true},
	{name: "422", reply: judged(422, oddError, http.Header{"X-Should-Retry": {"false"}}), status: 422, final: true, stays: true},

	{name: "400-credit", reply: simulator.Reply{Status: 400, Message: simulator.CreditBalanceTooLow}, status: 502, kind: "api_error", final: true, after: accountInError},
	{name: "400-hold", reply: simulator.Reply{Status: 400, ErrorCode: "organization_on_hold"}, status: 502, kind: "api_error", final: true, after: accountInError},
	{name: "401", reply: simulator.Reply{Status: 401}, status: 502, kind: "api_error", final: true, after: accountInError},
	{name: "402", reply: simulator.Reply{Status: 402}, status: 502, kind: "api_error", final: true, after: accountInError},
	{name: "403", reply: simulator.Reply{Status: 403}, status: 502, kind: "api_error", final: true, after: accountInError},
	{name: "408", reply: simulator.Reply{Status: 408}, status: 502, kind: "api_error"},
	{name: "409", reply: simulator.Reply{Status: 409}, status: 502, kind: "api_error"},
	{name: "429", reply: simulator.Reply{Status: 429}, status: 429, kind: "rate_limit_error"},
	{name: "429-burst", reply: simulator.Reply{Status: 429, RetryAfter: 3 * time.Second}, status: 429, kind: "rate_limit_error", retryAfter: 3},
	{name: "429-long", reply: simulator.Reply{Status: 429, RetryAfter: 2 * time.Hour}, status: 429, kind: "rate_limit_error", retryAfter: 7200, final: true},
	{name: "429-spend", reply: simulator.Reply{Status: 429, ErrorCode: "enforced_spend_limit_reached"}, status: 429, kind: "rate_limit_error", after: accountOut},
	{name: "500", reply: simulator.Reply{Status: 500}, status: 502, kind: "api_error"},
	{name: "502-html", reply: simulator.Reply{Status: 502, Body: []byte(simulator.BadGatewayHTML)}, status: 502, kind: "api_error"},
	{name: "503", reply: simulator.Reply{Status: 503}, status: 502, kind: "api_error"},
	{name: "504", reply: simulator.Reply{Status: 504}, status: 504, kind: "timeout_error"},
	{name: "529", reply: simulator.Reply{Status: 529}, status: 529, kind: "overloaded_error"},
	{name: "529-gzip", reply: simulator.Reply{Status: 529, Gzip: true}, status: 529, kind: "overloaded_error"},
	{name: "418", reply: judged(418, oddError, nil), status: 502, kind: "api_error", stays: true},
	{name: "302", reply: simulator.Reply{Status: 302, Header: http.Header{"Location": {"https://elsewhere.example/"}}}, status: 502, kind: "api_error", stays: true},

	{name: "reset", reply: fault(simulator.Reset, simulator.BeforeHeader), status: 502, kind: "api_error"},
	{name: "cut", reply: fault(simulator.Cut, simulator.BeforeHeader), status: 502, kind: "api_error"},
}

func fault(kind simulator.FaultKind, after int) simulator.Reply {
	return simulator.Reply{Fault: simulator.Fault{Kind: kind, After: after}}
}

func firstEvent(errorType string) simulator.Reply {
	return simulator.Reply{Fault: simulator.Fault{Kind: simulator.ErrorEvent, After: 1, ErrorType: errorType, Message: "no"}}
}

// streamMappings are failures of a 200 stream before its content.
var streamMappings = []mapping{
	{name: "ev-overloaded", reply: firstEvent("overloaded_error"), status: 529, kind: "overloaded_error"},
	{name: "ev-rate", reply: firstEvent("rate_limit_error"), status: 429, kind: "rate_limit_error"},
	{name: "ev-auth", reply: firstEvent("authentication_error"), status: 502, kind: "api_error", final: true, after: accountInError, question: &simulator.Reply{Status: 401}},
	{name: "ev-permission", reply: firstEvent("permission_error"), status: 502, kind: "api_error", final: true, after: accountInError, question: &simulator.Reply{Status: 403}},
	{name: "ev-billing", reply: firstEvent("billing_error"), status: 502, kind: "api_error", final: true, after: accountInError, question: &simulator.Reply{Body: []byte(`{"type":"error","error":{"type":"billing_error","message":"no"}}`)}},
	{name: "ev-timeout", reply: firstEvent("timeout_error"), status: 504, kind: "timeout_error"},
	{name: "ev-api", reply: firstEvent("api_error"), status: 502, kind: "api_error"},
	{name: "ev-new", reply: firstEvent("some_new_error"), status: 502, kind: "api_error"},
	{name: "st-silence", reply: fault(simulator.Hang, simulator.BeforeHeader), status: 504, kind: "timeout_error"},
	{name: "st-cut", reply: fault(simulator.Cut, 1), status: 502, kind: "api_error"},
	{name: "st-reset", reply: fault(simulator.Reset, 0), status: 502, kind: "api_error"},
	{name: "st-end", reply: fault(simulator.Truncate, 1), status: 502, kind: "api_error"},
	{name: "st-pings", reply: simulator.Reply{Pause: 20 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Pings, After: 1}}, status: 504, kind: "timeout_error"},
	{name: "st-hang", reply: fault(simulator.Hang, 1), status: 504, kind: "timeout_error"},
	{name: "st-deflate", reply: simulator.Reply{Header: http.Header{"Content-Encoding": {"deflate"}}}, status: 502, kind: "api_error"},
}

// wholeMappings are failures of a 200 that is not a stream.
var wholeMappings = []mapping{
	{name: "wh-cut", reply: simulator.Reply{Fault: simulator.Fault{Kind: simulator.Cut, Bytes: 20}}, status: 502, kind: "api_error"},
	{name: "wh-end", reply: simulator.Reply{Fault: simulator.Fault{Kind: simulator.Truncate, Bytes: 20}}, status: 502, kind: "api_error"},
	{name: "wh-silence", reply: fault(simulator.Hang, simulator.BeforeHeader), status: 504, kind: "timeout_error", final: true, stays: true},
	{name: "wh-hang", reply: simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 20}}, status: 504, kind: "timeout_error", final: true, stays: true},
	{name: "wh-overloaded", reply: judged(200, `{"type":"error","error":{"type":"overloaded_error","message":"no"}}`, nil), status: 529, kind: "overloaded_error"},
	{name: "wh-html", reply: judged(200, "<html>hello</html>", nil), status: 502, kind: "api_error"},
}

// TestFailuresOfUpstream sends every failure to a client whose only account has
// it, and to one with another account to fall back on.
func TestFailuresOfUpstream(t *testing.T) {
	type row struct {
		mapping
		stream bool
	}
	var rows []row
	add := func(stream bool, tables ...[]mapping) {
		for _, table := range tables {
			for _, m := range table {
				rows = append(rows, row{m, stream})
			}
		}
	}
	add(false, bothMappings, wholeMappings)
	add(true, bothMappings, streamMappings)
	// Each row has accounts and models of its own, in one config.
	var accounts strings.Builder
	name := func(r row) string { return fmt.Sprintf("%s-%t", r.name, r.stream) }
	for _, r := range rows {
		for _, use := range []string{"solo", "pair"} {
			fmt.Fprintf(&accounts, "account acct-%[1]s-%[2]s {\napi_key sk-upstream-%[1]s-%[2]s\nbase_url SIM\npriority 1\nmodels {\n%[1]s-%[2]s\n}\n}\n", use, name(r))
		}
	}
	g := serve(t, simulator.Config{}, accounts.String()+`
	account acct-good {
		api_key sk-upstream-good
		base_url SIM
		models {
			pair-*
		}
	}
	relay {
		header_timeout 250ms
		answer_timeout 250ms
		first_event_timeout 250ms
		idle_timeout 200ms
	}`+alice)
	for _, r := range rows {
		t.Run(name(r), func(t *testing.T) {
			g := *g
			g.t = t
			for _, use := range []string{"solo", "pair"} {
				g.sim.Set("sk-upstream-"+use+"-"+name(r), r.script)
			}
			a := g.say("solo-"+name(r), r.stream)
			r.check(t, a)
			failed := "sk-upstream-solo-" + name(r)
			if asked := g.askedBy(failed); asked != 1 {
				t.Errorf("the account was asked %d times", asked)
			}
			g.wantStateAfter(r.mapping, failed, func() answer { return g.say("solo-"+name(r), r.stream) })

			good := g.sim.Account("sk-upstream-good").Messages
			a = g.say("pair-"+name(r), r.stream)
			moved := g.sim.Account("sk-upstream-good").Messages - good
			switch {
			case r.stays && (moved != 0 || a.status != r.status):
				t.Errorf("%d, after %d more accounts", a.status, moved)
			case !r.stays && (moved != 1 || a.status != http.StatusOK):
				t.Errorf("%d, after %d more accounts: %s", a.status, moved, a.body)
			case !r.stays && r.stream:
				if got := strings.Count(string(a.body), "event: message_start"); got != 1 {
					t.Errorf("%d answers in one: %s", got, a.body)
				}
			}
		})
	}
}

// script is the failure, and for the gateway's own question, which is not streamed,
// what is like it.
func (m mapping) script(r *simulator.Request) simulator.Reply {
	if m.question != nil && isQuestion(r) {
		return *m.question
	}
	return m.reply
}

// wantStateAfter asks again, after an account has failed once.
func (g *gateway) wantStateAfter(m mapping, credential string, ask func() answer) {
	g.t.Helper()
	switch m.after {
	case accountOut:
		refusal{503, "overloaded_error", true, ""}.check(g.t, ask())
		if asked := g.askedBy(credential); asked != 1 {
			g.t.Errorf("an account that is out was asked %d times", asked)
		}
	case accountInError:
		g.waitInError(credential, ask)
	default:
		m.check(g.t, ask())
		if asked := g.askedBy(credential); asked != 2 {
			g.t.Errorf("an account that only comes last was asked %d times, not again", asked)
		}
		if n := g.questionsTo(credential); n != 0 {
			g.t.Errorf("the gateway asked %d questions of its own", n)
		}
	}
}

func (m mapping) check(t *testing.T, a answer) {
	t.Helper()
	if m.kind != "" {
		wantError(t, a, m.status, m.kind)
	} else if a.status != m.status || string(a.body) != string(m.reply.Body) {
		t.Errorf("%d %q, want %d %q", a.status, a.body, m.status, m.reply.Body)
	}
	if a.header.Get("Request-Id") == "" {
		t.Error("no request-id")
	}
	want := ""
	if m.final {
		want = "false"
	} else if m.kind == "" {
		want = m.reply.Header.Get("X-Should-Retry")
	}
	if got := a.header.Get("X-Should-Retry"); got != want {
		t.Errorf("x-should-retry %q, want %q", got, want)
	}
	after := ""
	if m.retryAfter > 0 {
		after = fmt.Sprint(m.retryAfter)
	}
	if got := a.header.Get("Retry-After"); got != after {
		t.Errorf("retry-after %q, want %q", got, after)
	}
}

func TestUnreachableUpstream(t *testing.T) {
	gone, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	g := serve(t, simulator.Config{}, alice+`
	account acct-gone {
		api_key sk-upstream-gone
		base_url `+gone.URL+`
	}`)
	for _, stream := range []bool{false, true} {
		wantError(t, g.say("claude-sonnet-5-5", stream), http.StatusBadGateway, "api_error")
	}
	a := g.do(call{path: "/v1/messages/count_tokens", body: asking("claude-sonnet-5-5", false)})
	wantError(t, a, http.StatusBadGateway, "api_error")
	if strings.Contains(string(a.body), strings.TrimPrefix(gone.URL, "http://")) {
		t.Errorf("the client sees the upstream's address: %s", a.body)
	}
}
