package blackbox_test

import (
	"fmt"
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
