package blackbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// An upstream that refuses everybody, whatever the account, gets few requests: the
// first one asks three accounts, and those after it one each, whose answer is the
// client's.
func TestAnUpstreamThatRefusesEverybody(t *testing.T) {
	type refuser struct {
		name   string
		reply  simulator.Reply
		stream bool
		first  int // accounts that the first request asks
		status int
		kind   string
		after  string // the client's retry-after
	}
	silence := fault(simulator.Hang, simulator.BeforeHeader)
	for _, r := range []refuser{
		{"429", simulator.Reply{Status: 429}, false, 3, 429, "rate_limit_error", ""},
		{"429 with retry-after", simulator.Reply{Status: 429, RetryAfter: 7 * time.Second}, false, 3, 429, "rate_limit_error", "7"},
		{"429 for long, streamed", simulator.Reply{Status: 429, RetryAfter: 100 * time.Second}, true, 3, 429, "rate_limit_error", "100"},
		{"529", simulator.Reply{Status: 529}, true, 3, 529, "overloaded_error", ""},
		{"529 with retry-after", simulator.Reply{Status: 529, RetryAfter: 11 * time.Second}, true, 3, 529, "overloaded_error", "11"},
		{"500", simulator.Reply{Status: 500}, false, 3, 502, "api_error", ""},
		{"502 page", simulator.Reply{Status: 502, Body: []byte(simulator.BadGatewayHTML)}, true, 3, 502, "api_error", ""},
		{"overloaded in the stream", firstEvent("overloaded_error"), true, 3, 529, "overloaded_error", ""},
		{"another answer", simulator.Reply{Body: []byte("<html>")}, true, 3, 502, "api_error", ""},
		{"silence, streamed", silence, true, 2, 504, "timeout_error", ""},
		{"silence", silence, false, 1, 504, "timeout_error", ""},
		{"silence after the header", fault(simulator.Hang, 0), true, 2, 504, "timeout_error", ""},
	} {
		for _, n := range []int{1, 2, 3, 20} {
			rounds := 2
			if r.status == 504 { // each takes its time
				if rounds = 1; n == 2 || n == 3 {
					continue
				}
			}
			t.Run(fmt.Sprintf("%s, %d accounts", r.name, n), func(t *testing.T) {
				var accounts []string
				for i := range n {
					accounts = append(accounts, fmt.Sprintf("%02d", i))
				}
				g := serve(t, simulator.Config{}, accountsInOrder(accounts, "")+alice+bob+`
				relay {
					header_timeout 100ms
					answer_timeout 100ms
					first_event_timeout 100ms
				}`)
				// A session that has an account, from when all was well.
				const model = "claude-sonnet-5-5"
				if a := g.do(inSession("bound", asking(model, r.stream))); a.status != 200 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				g.sim.Set("", simulator.Always(r.reply))
				refused := func(c call, most int) {
					t.Helper()
					from := len(g.sim.Requests())
					c.body = asking(model, r.stream)
					a := g.do(c)
					wantError(t, a, r.status, r.kind)
					if got := a.header.Get("Retry-After"); got != r.after {
						t.Errorf("retry-after %q, want %q", got, r.after)
					}
					if asked := g.askedSince(from); len(asked) == 0 || len(asked) > most {
						t.Errorf("asked %q, at most %d may be", asked, most)
					}
				}
				first := min(n, r.first)
				refused(inNewSession(model), first)
				if asked := g.asked(); len(asked) != 1+first {
					t.Errorf("asked %q for the first request, want %d", asked[1:], first)
				}
				for range rounds {
					refused(inNewSession(model), 1)
					refused(bobsCall(model), 1)
				}
				for range rounds {
					refused(inSession("bound", ""), min(n, 2))
				}
				if questions := len(g.sim.Requests()) - len(g.asked()); questions != 0 {
					t.Errorf("%d questions of the gateway's own", questions)
				}

				// When it is well again, the next request finds that out.
				g.sim.Set("", nil)
				a := g.do(bobsCall(model))
				if a.status != 200 || gjson.GetBytes(a.body, "type").Str != "message" {
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
	}
}

// Accounts that fail in different ways are asked on, up to max_switches.
func TestDifferentAnswersAreAskedFurther(t *testing.T) {
	var accounts []string
	for i := range 20 {
		accounts = append(accounts, fmt.Sprintf("%02d", i))
	}
	failing := []simulator.Reply{{Status: 429}, {Status: 529}, {Status: 500}, {Status: 503}, fault(simulator.Cut, 0)}
	for name, test := range map[string]struct {
		words    string
		kinds, n int // how many ways of failing there are, and accounts asked
	}{
		"one way":                 {"", 1, 3},
		"two ways, in turns":      {"", 2, 5},
		"three ways, in turns":    {"", 3, 7},
		"five ways, in turns":     {"", 5, 11}, // max_switches is 10
		"two ways, one switch":    {"retry {\nmax_switches 1\n}", 2, 2},
		"five ways, few switches": {"retry {\nmax_switches 4\n}", 5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder(accounts, "")+alice+test.words)
			for i, account := range accounts {
				g.sim.Set(upstreamSecret+account, simulator.Always(failing[i%test.kinds]))
			}
			if a := g.say("claude-sonnet-5-5", true); a.status == 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
			if asked := g.asked(); len(asked) != test.n {
				t.Errorf("asked %q, want %d accounts", asked, test.n)
			}
		})
	}
}
