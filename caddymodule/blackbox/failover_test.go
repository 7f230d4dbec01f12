package blackbox_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// three is a pool that is tried in the order of the names.
func three(more string) string {
	return accountsInOrder([]string{"a", "b", "c"}, "") + alice + more
}

func TestFailoverEndsWithTheLastError(t *testing.T) {
	for _, test := range []struct {
		name   string
		config string
		fails  map[string]int // status by account
		status int
		kind   string
		asked  []string
	}{
		{"all fail", "", map[string]int{"a": 529, "b": 429, "c": 504}, 504, "timeout_error", []string{"a", "b", "c"}},
		{"all fail, the last is an account's", "", map[string]int{"a": 500, "b": 500, "c": 401}, 502, "api_error", []string{"a", "b", "c"}},
		{"the second judges the request", "", map[string]int{"a": 529, "b": 422}, 422, "invalid_request_error", []string{"a", "b"}},
		{"one switch", "retry {\nmax_switches 1\n}\n", map[string]int{"a": 529, "b": 503}, 502, "api_error", []string{"a", "b"}},
		{"no switch", "retry {\nmax_switches 0\n}\n", map[string]int{"a": 529}, 529, "overloaded_error", []string{"a"}},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stream %t", test.name, stream), func(t *testing.T) {
				g := serve(t, simulator.Config{}, three(test.config))
				for account, status := range test.fails {
					reply := simulator.Reply{Status: status}
					if status == 422 {
						reply.Body = []byte(oddError)
					}
					g.sim.Set(upstreamSecret+account, simulator.Always(reply))
				}
				a := g.say("claude-sonnet-5-5", stream)
				if test.status == 422 {
					if a.status != 422 || string(a.body) != oddError {
						t.Errorf("%d %s", a.status, a.body)
					}
				} else {
					wantError(t, a, test.status, test.kind)
				}
				if diff := cmp.Diff(test.asked, g.asked()); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
				g.wantOneRecord(func(r *billing.Record) {
					if r.Status != test.status || r.Attempts != len(test.asked) || r.Charged != 0 || r.Billing != billing.PaidByNobody {
						t.Errorf("record %+v", r)
					}
				})
			})
		}
	}
}

// TestSessionsAreTold looks at the session that the record names, which decides
// the account.
func TestSessionsAreTold(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	const inHeader, inJSON, inText = "11111111-aaaa-4000-8000-000000000001", "22222222-bbbb-4000-8000-000000000002", "33333333-cccc-4000-8000-000000000003"
	header := http.Header{"X-Claude-Code-Session-Id": {inHeader}}
	body := func(user, messages string) string {
		if user != "" {
			user = `"metadata":{"user_id":` + user + `},`
		}
		return `{"model":"claude-sonnet-5-5","max_tokens":8,` + user + `"system":"S","messages":[` + messages + `]}`
	}
	const (
		first  = `{"role":"user","content":"hi"}`
		later  = first + `,{"role":"assistant","content":"Hi!"},{"role":"user","content":"more"}`
		other  = `{"role":"user","content":"hello"}`
		asJSON = `"{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"` + inJSON + `\"}"`
		asText = `"user_ab_account__session_` + inText + `"`
	)
	calls := []call{
		{header: header, body: body(asJSON, first)},
		{body: body(asJSON, first)},
		{body: body(asText, first)},
		{body: body(`"opaque"`, first)},
		{body: body("", first)},
		{body: body("", later)},
		{body: body("", other)},
	}
	for _, c := range calls {
		if a := g.do(c); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	records := g.records()
	if len(records) != len(calls) {
		t.Fatalf("%d records", len(records))
	}
	got := make([]string, len(records))
	for i, r := range records {
		got[i] = r.Session
	}
	if diff := cmp.Diff([]string{inHeader, inJSON, inText}, got[:3]); diff != "" {
		t.Errorf("named sessions: %s", diff)
	}
	if got[3] != got[4] || got[4] != got[5] || got[5] == got[6] || len(got[3]) != 32 || len(got[6]) != 32 {
		t.Errorf("sessions by content: %q", got[3:])
	}
}

func TestSimpleModeChargesNobody(t *testing.T) {
	g := serve(t, simulator.Config{}, "mode simple\n"+mainAccount+`
	group default
	user alice {
		balance 0
		key sk-gateway-alice default
	}`)
	if a := g.say("claude-sonnet-5-5", true); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.get("/v1/usage"); string(a.body) != `{"isValid":true,"planName":"unlimited","remaining":-1,"unit":"USD"}` {
		t.Errorf("usage: %s", a.body)
	}
	g.wantOneRecord(func(r *billing.Record) {
		if r.Charged != 0 || r.Cost == 0 || r.Billing != billing.PaidByNobody {
			t.Errorf("record %+v", r)
		}
	})
}

func TestRatesAndUnlimitedUsers(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+`
	group half {
		rate_multiplier 0.5
	}
	group free {
		rate_multiplier 0
	}
	user alice {
		balance 1
		key sk-gateway-alice half
		key sk-gateway-free free
		key sk-gateway-none
	}
	user rich {
		balance unlimited
		key sk-gateway-rich half
	}
	billing {
		rate_multiplier 3
	}`)
	g.sim.Set("", simulator.Always(spoken)) // 1000 in, 100 out: 0.003
	keys := []string{"sk-gateway-alice", "sk-gateway-free", "sk-gateway-none", "sk-gateway-rich"}
	for _, key := range keys {
		if a := g.do(call{key: key, body: asking("claude-sonnet-5-5", false)}); a.status != 200 {
			t.Errorf("%s: %d %s", key, a.status, a.body)
		}
	}
	if left := g.balance().String(); left != "0.989500000" { // 1 − 0.0015 − 0.009
		t.Errorf("%s are left", left)
	}
	want := []string{"0.001500000 balance", "0.000000000 balance", "0.009000000 balance", "0.001500000 none"}
	var got []string
	for _, r := range g.records() {
		if r.Cost.String() != "0.003000000" {
			t.Errorf("cost %s", r.Cost)
		}
		got = append(got, r.Charged.String()+" "+r.Billing)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
