package blackbox_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestSameAccountAgain(t *testing.T) {
	const retry = `
	retry {
		attempts 3
		delay 1ms
		max_switches 0
	}`
	for _, test := range []struct {
		name, credential string
		status, failures int
		attempts, want   int // what the record says; the client's status
	}{
		{"403 of a setup token", "setup_token sk-upstream-main", 403, 3, 4, 200},
		{"403 of a setup token that stays", "setup_token sk-upstream-main", 403, 4, 4, 502},
		{"403 of an API key", "api_key sk-upstream-main", 403, 1, 1, 502},
		{"a status outside error_codes", "api_key sk-upstream-main\n\t\terror_codes 401 429", 500, 3, 4, 200},
		{"a status in error_codes", "api_key sk-upstream-main\n\t\terror_codes 500", 500, 1, 1, 502},
		{"a request that upstream refused", "api_key sk-upstream-main\n\t\terror_codes 500", 400, 1, 1, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, fmt.Sprintf("account acct-main {\n\t\t%s\n\t\tbase_url SIM\n\t}\n", test.credential)+alice+retry)
			for range test.failures {
				g.sim.Queue("", simulator.Reply{Status: test.status})
			}
			began := time.Now()
			if a := g.say("claude-sonnet-5-5", true); a.status != test.want {
				t.Errorf("%d %s, want %d", a.status, a.body, test.want)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			g.wantOneRecord(func(r *billing.Record) {
				if r.Attempts != test.attempts || r.Status != test.want {
					t.Errorf("record %+v", r)
				}
			})
		})
	}
}

func TestFailoverOn400(t *testing.T) {
	accounts := mainAccount + `
	account acct-spare {
		api_key sk-upstream-spare
		base_url SIM
		priority 60
	}`
	for _, test := range []struct {
		option, message string
		want            int
	}{
		{"on", "Unexpected value(s) for the `anthropic-beta` header", 200},
		{"on", "messages.1: `tool_use` ids were found without `tool_result` blocks", 200},
		{"on", "max_tokens: must be positive", 400},
		{"off", "Unexpected value(s) for the `anthropic-beta` header", 400},
	} {
		t.Run(test.option+" "+test.message, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accounts+alice+"retry {\n\t\tfailover_on_400 "+test.option+"\n\t}")
			g.sim.Set("sk-upstream-main", simulator.Always(simulator.Reply{Status: 400, Message: test.message}))
			if a := g.say("claude-sonnet-5-5", false); a.status != test.want {
				t.Errorf("%d %s, want %d", a.status, a.body, test.want)
			}
		})
	}
}

// The mark comes after the last try at an account, and one that comes last already
// is asked once.
func TestHowOftenOneAccountIsAskedForA403(t *testing.T) {
	const retry = `
	retry {
		attempts 3
		delay 1ms
	}`
	account := func(credential string) string {
		return "account acct-main {\n" + credential + "\nbase_url SIM\npriority 1\n}\naccount acct-spare {\napi_key sk-upstream-spare\nbase_url SIM\n}\n"
	}
	final := http.Header{"X-Should-Retry": {"false"}}
	for _, credential := range []string{"setup_token sk-upstream-main", "oauth {\naccess_token sk-upstream-main\n}", "api_key sk-upstream-main"} {
		kind, _, _ := strings.Cut(credential, " ")
		for _, test := range []struct {
			name  string
			reply simulator.Reply
			asked int // of a bearer account, by the first request
		}{
			{"403", simulator.Reply{Status: 403}, 4},
			{"403 page", simulator.Reply{Status: 403, Body: []byte("<html>blocked</html>")}, 4},
			{"403 that says to try again", simulator.Reply{Status: 403, Header: http.Header{"X-Should-Retry": {"true"}}}, 4},
			{"403 that is final", simulator.Reply{Status: 403, Header: final}, 1},
			{"401", simulator.Reply{Status: 401}, 1},
			{"402", simulator.Reply{Status: 402}, 1},
			{"429", simulator.Reply{Status: 429}, 1},
			{"500", simulator.Reply{Status: 500}, 1},
			{"404", simulator.Reply{Status: 404}, 1},
		} {
			t.Run(kind+", "+test.name, func(t *testing.T) {
				g := serve(t, simulator.Config{}, account(credential)+alice+retry)
				// The gateway's own question is answered well, a second later: the mark
				// stays until then.
				g.sim.Set("sk-upstream-main", func(r *simulator.Request) simulator.Reply {
					if isQuestion(r) {
						return simulator.Reply{HeaderDelay: time.Second}
					}
					return test.reply
				})
				first := test.asked
				if kind == "api_key" {
					first = 1
				}
				ask := func(session string, most int) {
					t.Helper()
					before := g.askedBy("sk-upstream-main")
					if a := g.do(inSession(session, asking("claude-sonnet-5-5", false))); a.status != 200 {
						t.Errorf("%d %s", a.status, a.body)
					}
					if n := g.askedBy("sk-upstream-main") - before; n != most {
						t.Errorf("%s: the account was asked %d times, want %d", session, n, most)
					}
				}
				ask("first", first)
				ask("second", 0)
				// The spare one is out of the way, so that the account is asked that comes
				// last already.
				g.sim.Queue("sk-upstream-spare", simulator.Reply{Status: 529})
				g.do(inSession("third", asking("claude-sonnet-5-5", false)))
				if n := g.askedBy("sk-upstream-main"); n != first+1 {
					t.Errorf("the account, which came last already, was asked %d times, want once", n-first)
				}
			})
		}
	}
}
