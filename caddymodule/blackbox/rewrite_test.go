package blackbox_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// TestClientsSeeTheirOwnModelName renames on the way there and back.
func TestClientsSeeTheirOwnModelName(t *testing.T) {
	g := serve(t, simulator.Config{}, `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			claude-sonnet-5-5 glm-5
		}
	}`+alice)
	streamed := strings.NewReplacer(
		`"model":"claude-sonnet-5-5"`, `"model" : "glm-5"`,
		`"model":null`, `"model":"glm-5"`,
		"The story so far.", `Ask glm-5: {\"model\":\"glm-5\"}`,
	).Replace(string(transcript(t, "iterations")))
	whole := `{"id":"msg_1","model":"glm-5","content":[{"type":"text","text":"I am glm-5, \"model\":\"glm-5\""}],"usage":{"input_tokens":3,"output_tokens":4,"iterations":[{"type":"message","model":"glm-5","input_tokens":3,"output_tokens":4},{"type":"compaction","model":"claude-haiku-4-5","input_tokens":1,"output_tokens":1}]}}`
	back := strings.NewReplacer(`"model" : "glm-5"`, `"model" : "claude-sonnet-5-5"`, `"model":"glm-5",`, `"model":"claude-sonnet-5-5",`, `"model":"glm-5"}]`, `"model":"claude-sonnet-5-5"}]`)
	for _, test := range []struct {
		stream bool
		sent   string
		pieces []int
	}{
		{true, streamed, nil},
		{true, streamed, []int{1}},
		{true, streamed, []int{11, 64, 3}},
		{true, strings.ReplaceAll(streamed, "\n", "\r\n"), []int{5}},
		{false, whole, nil},
		{false, whole, []int{9}},
	} {
		g.sim.Queue("sk-upstream-main", simulator.Reply{Body: []byte(test.sent), Pieces: test.pieces})
		a := g.say("claude-sonnet-5-5", test.stream)
		if diff := cmp.Diff(back.Replace(test.sent), string(a.body)); diff != "" {
			t.Errorf("stream %t in %v: %s", test.stream, test.pieces, diff)
		}
		if got := g.last().Model; got != "glm-5" {
			t.Errorf("asked for %q", got)
		}
	}
	for _, r := range g.records() {
		// claude-sonnet-5-5's price for what glm-5 said.
		if r.Model != "claude-sonnet-5-5" || r.ModelSent != "glm-5" || r.Unpriced || r.Stream && r.Cost.String() != "0.068287600" {
			t.Errorf("record %+v", r)
		}
	}
}

// TestTheMarkOfALongContext is what clients write after a model's name: no part of
// it for the account's models and the price, and left alone on its way.
func TestTheMarkOfALongContext(t *testing.T) {
	g := serve(t, simulator.Config{}, `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			claude-opus-5-5
			claude-haiku-5-5 glm-5
		}
	}`+alice)
	costs := map[billing.USD]bool{}
	for _, test := range []struct{ asked, sent string }{
		{"claude-opus-5-5", "claude-opus-5-5"},
		{"claude-opus-5-5[1m]", "claude-opus-5-5[1m]"},
		{"claude-opus-5-5[1M]", "claude-opus-5-5[1M]"},
		{"claude-haiku-5-5[1M]", "glm-5"},
	} {
		if a := g.say(test.asked, false); a.status != 200 || gjson.GetBytes(a.body, "model").Str != test.asked {
			t.Errorf("%s: %d %s", test.asked, a.status, a.body)
		}
		if got := g.last().Model; got != test.sent {
			t.Errorf("%s: sent %q, want %q", test.asked, got, test.sent)
		}
	}
	if a := g.say("claude-opus-5[1m]", false); a.status != 400 {
		t.Errorf("a model that no account has: %d %s", a.status, a.body)
	}
	for _, r := range g.records() {
		if r.Unpriced || r.Cost == 0 {
			t.Errorf("record %+v", r)
		}
		if strings.HasPrefix(r.Model, "claude-opus") {
			costs[r.Cost] = true
		}
	}
	if n := len(costs); n != 1 {
		t.Errorf("one model has %d prices: %v", n, costs)
	}
}

func TestThinkingThatUpstreamRefuses(t *testing.T) {
	turn := func(g *gateway) answer {
		request := fixture(g.t, "thinking")
		return g.do(request)
	}
	plain := `{"model":"claude-sonnet-5-5","system":"Be kind.","messages":[{"role":"user","content":"hi"}],"max_tokens":64}`
	body := func(r simulator.Request) string { return string(r.Body) }

	t.Run("retry", func(t *testing.T) {
		g := serve(t, simulator.Config{CheckThinking: true}, mainAccount+alice)
		for range 2 {
			if a := turn(g); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		sent := g.sim.Requests()
		if len(sent) != 3 { // the second turn is stripped at once
			t.Fatalf("%d requests went upstream", len(sent))
		}
		original := fixture(t, "thinking").body
		want := []string{original, strip(original), strip(original)}
		if diff := cmp.Diff(want, []string{body(sent[0]), body(sent[1]), body(sent[2])}); diff != "" {
			t.Error(diff)
		}
		records := g.records()
		if len(records) != 2 || records[0].Attempts != 2 || records[1].Attempts != 1 {
			t.Errorf("records %+v", records)
		}
	})
	t.Run("strip", func(t *testing.T) {
		g := serve(t, simulator.Config{CheckThinking: true}, mainAccount+alice+"request {\nthinking_blocks strip\n}\n")
		if a := turn(g); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		g.do(call{body: plain})
		sent := g.sim.Requests()
		if len(sent) != 2 || body(sent[0]) != strip(fixture(t, "thinking").body) || body(sent[1]) != plain {
			t.Errorf("%+v", sent)
		}
	})
	t.Run("keep", func(t *testing.T) {
		g := serve(t, simulator.Config{CheckThinking: true}, mainAccount+alice+"request {\nthinking_blocks keep\n}\n")
		a := turn(g)
		if a.status != 400 || !strings.Contains(gjson.GetBytes(a.body, "error.message").Str, simulator.InvalidSignature) {
			t.Errorf("%d %s", a.status, a.body)
		}
		if sent := g.sim.Requests(); len(sent) != 1 {
			t.Errorf("%d requests went upstream", len(sent))
		}
	})
	t.Run("refused again", func(t *testing.T) {
		g := serve(t, simulator.Config{}, mainAccount+alice)
		g.sim.Set("", simulator.Always(simulator.Reply{Status: 400, Message: "messages.1.content.0: " + simulator.InvalidSignature}))
		if a := turn(g); a.status != 400 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if sent := g.sim.Requests(); len(sent) != 2 {
			t.Errorf("%d requests went upstream", len(sent))
		}
	})
	t.Run("in the middle of a tool's turn", func(t *testing.T) {
		g := serve(t, simulator.Config{CheckThinking: true}, mainAccount+alice)
		body := `{"model":"claude-sonnet-5-5","max_tokens":2000,"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"look","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":"look"},{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"c2ln"},{"type":"tool_use","id":"toolu_1","name":"look","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"seen"}]}]}`
		a := g.do(call{body: body})
		if a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		want := strings.NewReplacer(`"thinking":{"type":"enabled","budget_tokens":1024},`, "", `{"type":"thinking","thinking":"x","signature":"c2ln"},`, "").Replace(body)
		if diff := cmp.Diff(want, string(g.last().Body)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestCountTokens is prepared like a message, and leaves no trace.
func TestCountTokens(t *testing.T) {
	g := serve(t, simulator.Config{}, `
	account acct-main {
		setup_token sk-upstream-main
		base_url SIM
		concurrency 1
	}
	account acct-ag {
		platform antigravity
		api_key sk-upstream-ag
		base_url SIM
	}
	group default {
		accounts acct-main
	}
	group ag {
		platform antigravity
	}
	user alice {
		balance 100
		concurrency 1
		key sk-gateway-alice default
		key sk-gateway-ag ag
	}`)
	release := g.hold("claude-sonnet-5-5") // both slots are taken
	request := fixture(t, "bare")
	request.path = "/v1/messages/count_tokens?beta=true"
	for range 5 {
		a := g.do(request)
		if a.status != 200 || gjson.GetBytes(a.body, "input_tokens").Int() == 0 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	sent := g.last()
	if sent.Path != "/v1/messages/count_tokens" || string(sent.Body) != "{"+claudeSystem+request.body[1:] || sent.Header.Get("Authorization") != "Bearer sk-upstream-main" {
		t.Errorf("%s %s", sent.Path, sent.Body)
	}
	request.key = "sk-gateway-ag"
	if a := g.do(request); a.status != 200 || string(bytes.TrimSpace(a.body)) != `{"input_tokens":100}` {
		t.Errorf("antigravity: %d %s", a.status, a.body)
	}
	request.key = ""
	// A failure of a count is the client's, and only puts the account last: it is
	// asked again where there is no other.
	for _, test := range []struct{ upstream, status int }{{404, 404}, {413, 413}, {429, 429}, {529, 529}, {500, 502}, {504, 504}, {401, 502}, {403, 502}} {
		before := len(g.asked())
		g.sim.Queue("sk-upstream-main", simulator.Reply{Status: test.upstream, Body: []byte(oddError)})
		if a := g.do(request); a.status != test.status {
			t.Errorf("upstream's %d came as %d", test.upstream, a.status)
		}
		if a := g.do(request); a.status != 200 {
			t.Errorf("%d of a count took the account out: %d", test.upstream, a.status)
		}
		if n := len(g.asked()) - before; n != 2 {
			t.Errorf("%d: the account was asked %d times", test.upstream, n)
		}
	}
	g.sim.Queue("sk-upstream-main", simulator.Reply{Status: 429, Limits: &simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{
		{Name: "5h", Status: "rejected", Reset: time.Now().Add(time.Hour), Utilization: 1}}}})
	if a := g.do(request); a.status != http.StatusTooManyRequests {
		t.Errorf("upstream's 429 came as %d", a.status)
	}
	before := len(g.asked())
	refusal{503, "overloaded_error", true, ""}.check(t, g.do(request))
	if len(g.asked()) != before {
		t.Errorf("an account whose window is spent was asked")
	}
	release()
	g.wantOneRecord(func(r *billing.Record) { // of the request that held the slot
		if r.Status != 499 {
			t.Errorf("record %+v", r)
		}
	})
}
