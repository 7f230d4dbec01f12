package blackbox_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// refusal is what a refused client must see.
type refusal struct {
	status int
	kind   string
	// final: x-should-retry: false.
	final bool
	// message is part of the error's message.
	message string
}

func (want refusal) check(t *testing.T, a answer) {
	t.Helper()
	wantError(t, a, want.status, want.kind)
	if got := a.header.Get("X-Should-Retry"); want.final && got != "false" {
		t.Errorf("x-should-retry %q, want false", got)
	}
	if message := gjson.GetBytes(a.body, "error.message").Str; !strings.Contains(message, want.message) {
		t.Errorf("message %q does not say %q", message, want.message)
	}
}

// wantRetryAfter checks retry-after, in seconds, and that one over a minute
// does not go alone: SDKs sleep however long it is.
func wantRetryAfter(t *testing.T, a answer, low, high int) {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || seconds < low || seconds > high {
		t.Errorf("retry-after %q, want %d to %d", a.header.Get("Retry-After"), low, high)
	}
	if got, long := a.header.Get("X-Should-Retry"), seconds > 60; (got == "false") != long {
		t.Errorf("retry-after %d goes with x-should-retry %q", seconds, got)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	g := serve(t, simulator.Config{}, `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			claude-*
		}
	}
	account acct-off {
		api_key sk-upstream-off
		base_url SIM
		disabled
	}
	group default {
		accounts acct-main
	}
	group off {
		accounts acct-off
	}
	user alice {
		balance 100
		key sk-gateway-alice default
	}
	user idle {
		key sk-gateway-idle off
	}
	user poor {
		key sk-gateway-poor default
	}
	request {
		max_body 1KiB
	}`)
	fine := asking("claude-sonnet-5-5", false)
	unauthorized := refusal{401, "authentication_error", true, ""}
	invalid := func(message string) refusal { return refusal{400, "invalid_request_error", false, message} }
	unserved := func(message string) refusal { return refusal{400, "invalid_request_error", true, message} }
	for _, test := range []struct {
		name string
		call call
		want refusal
	}{
		{"no key", call{key: "-", body: fine}, unauthorized},
		{"unknown key", call{key: "sk-nobody", body: fine}, unauthorized},
		{"key in the query alone", call{key: "-", path: "/v1/messages?key=" + aliceKey, body: fine}, unauthorized},
		{"bad x-api-key beside a good bearer", call{key: "sk-nobody", header: http.Header{"Authorization": {"Bearer " + aliceKey}}, body: fine}, unauthorized},
		{"basic auth", call{key: "-", header: http.Header{"Authorization": {"Basic " + aliceKey}}, body: fine}, unauthorized},
		{"no key for models", call{method: "GET", path: "/v1/models", key: "-"}, unauthorized},
		{"no key for usage", call{method: "GET", path: "/v1/usage", key: "-"}, unauthorized},
		{"no key for count_tokens", call{path: "/v1/messages/count_tokens", key: "-", body: fine}, unauthorized},
		{"model that no account serves", call{body: asking("gpt-5", false)}, unserved("gpt-5")},
		{"the same, streamed", call{body: asking("gpt-5", true)}, unserved("gpt-5")},
		{"the same, counted", call{path: "/v1/messages/count_tokens", body: asking("gpt-5", false)}, unserved("gpt-5")},
		{"group without an account in use", call{key: "sk-gateway-idle", body: fine}, unserved("claude-sonnet-5-5")},
		{"forced platform without accounts", call{path: "/antigravity/v1/messages", body: fine}, unserved("antigravity")},
		{"no balance", call{key: "sk-gateway-poor", body: fine}, refusal{429, "billing_error", true, "spend limit reached"}},
		{"empty body", call{}, invalid("empty")},
		{"not JSON", call{body: `{"model":`}, invalid("JSON")},
		{"JSON and more", call{body: fine + "}"}, invalid("JSON")},
		{"not an object", call{body: `["model"]`}, invalid("object")},
		{"no model", call{body: `{"messages":[]}`}, invalid("model")},
		{"model is null", call{body: `{"model":null}`}, invalid("model")},
		{"model is a number", call{body: `{"model":5}`}, invalid("model")},
		{"stream is a string", call{body: `{"model":"claude-sonnet-5-5","stream":"yes"}`}, invalid("stream")},
		{"stream is a number", call{body: `{"model":"claude-sonnet-5-5","stream":1}`}, invalid("stream")},
		{"count_tokens of no JSON", call{path: "/v1/messages/count_tokens", body: "hello"}, invalid("JSON")},
		{"body too large", call{body: fine + strings.Repeat(" ", 1024)}, refusal{413, "request_too_large", true, "1024"}},
		{"compressed body", call{body: fine, header: http.Header{"Content-Encoding": {"gzip"}}}, refusal{415, "invalid_request_error", true, "Content-Encoding"}},
		{"unknown model", call{method: "GET", path: "/v1/models/gpt-5"}, refusal{404, "not_found_error", true, "gpt-5"}},
		{"the same, forced platform", call{method: "GET", path: "/antigravity/v1/models/gpt-5"}, refusal{404, "not_found_error", true, "gpt-5"}},
		{"page of models too large", call{method: "GET", path: "/v1/models?limit=1001"}, refusal{400, "invalid_request_error", true, "1000"}},
		{"wrong method", call{method: "PUT"}, refusal{405, "invalid_request_error", true, "POST"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := *g
			g.t = t
			test.want.check(t, g.do(test.call))
		})
	}
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d refused requests went upstream", n)
	}
	if records := g.records(); len(records) != 0 {
		t.Errorf("refused requests have records: %+v", records)
	}
}

func TestSpentBalanceHasTheHeadersThatClaudeCodeReads(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+`
	group default
	user poor {
		balance 0.000001
		key sk-gateway-alice default
	}`)
	if a := g.say("claude-sonnet-5-5", false); a.status != 200 { // costs more than there is
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, stream := range []bool{false, true} {
		a := g.say("claude-sonnet-5-5", stream)
		refusal{429, "billing_error", true, "spend limit reached"}.check(t, a)
		const unified = "Anthropic-Ratelimit-Unified-"
		if got := a.header.Get(unified + "Status"); got != "rejected" {
			t.Errorf("status %q", got)
		}
		if got := a.header.Get(unified + "Overage-Utilization"); got != "1" {
			t.Errorf("overage utilization %q", got)
		}
		for _, name := range []string{"Representative-Claim", "Overage-Status"} { // they hide the message
			if got := a.header.Get(unified + name); got != "" {
				t.Errorf("%s is %q", name, got)
			}
		}
	}
}

func TestMethodsThatAPathDoesNotTake(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	for path, allowed := range map[string]string{
		"/v1/messages":                          "POST",
		"/v1/messages?beta=true":                "POST",
		"/v1/messages/count_tokens":             "POST",
		"/v1/models":                            "GET",
		"/v1/models/claude-sonnet-5-5":          "GET",
		"/v1/usage":                             "GET",
		"/antigravity/v1/messages":              "POST",
		"/antigravity/v1/messages/count_tokens": "POST",
		"/antigravity/v1/models":                "GET",
		"/antigravity/v1/usage":                 "GET",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			if method == allowed {
				continue
			}
			a := g.do(call{method: method, path: path, key: "-"})
			wantError(t, a, http.StatusMethodNotAllowed, "invalid_request_error")
			if got := a.header.Get("Allow"); got != allowed {
				t.Errorf("%s %s: Allow %q, want %q", method, path, got, allowed)
			}
		}
	}
}

func TestKeyIsReadFromEveryHeader(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	for _, header := range []http.Header{
		{"X-Api-Key": {aliceKey}},
		{"Authorization": {"Bearer " + aliceKey}},
		{"Authorization": {"bearer  " + aliceKey + " "}},
		{"Authorization": {"BEARER " + aliceKey}},
		{"X-Goog-Api-Key": {aliceKey}},
		{"Authorization": {"Basic x"}, "X-Goog-Api-Key": {aliceKey}},
		{"X-Api-Key": {aliceKey}, "Authorization": {"Bearer sk-nobody"}},
	} {
		a := g.do(call{key: "-", header: header, body: asking("claude-sonnet-5-5", false)})
		if a.status != 200 {
			t.Errorf("%v: %d %s", header, a.status, a.body)
		}
		sent := g.last().Header
		if got := sent.Get("X-Api-Key"); got != "sk-upstream-main" || sent.Get("Authorization") != "" || sent.Get("X-Goog-Api-Key") != "" {
			t.Errorf("%v: upstream got the credentials %v", header, sent)
		}
	}
}

// hold fills a slot with a request that upstream does not answer, until the
// returned function is called.
func (g *gateway) hold(model string) (release func()) {
	g.t.Helper()
	before := len(g.sim.Requests())
	g.sim.Queue("", simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: simulator.BeforeHeader}})
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		g.leaving(ctx, asking(model, false))
	}()
	g.waitUpstream("a slot is held", func() bool { return len(g.sim.Requests()) > before })
	return func() { cancel(); <-gone }
}

func TestFullLines(t *testing.T) {
	for name, limits := range map[string]string{
		"user's slots": `
	group default
	user alice {
		balance 100
		concurrency 1
		key sk-gateway-alice default
	}
	scheduling {
		user_extra_waiting 0
		user_wait_timeout 300ms
	}` + mainAccount,
		"accounts' slots": alice + `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		concurrency 1
	}
	scheduling {
		fallback_max_waiting 1
		fallback_wait_timeout 300ms
		sticky_max_waiting 0
	}`,
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, limits)
			release := g.hold("claude-sonnet-5-5")
			defer release()
			late := make(chan answer)
			began := time.Now()
			for range 2 { // one waits in vain, the other finds the line full
				go func() { late <- g.say("claude-sonnet-5-5", false) }()
			}
			full, timedOut := <-late, <-late
			if waited := time.Since(began); waited < 300*time.Millisecond || waited > 3*time.Second {
				t.Errorf("the line was left after %v", waited)
			}
			for _, a := range []answer{full, timedOut} {
				refusal{429, "rate_limit_error", false, ""}.check(t, a)
				wantRetryAfter(t, a, 1, 60)
			}
			if n := len(g.sim.Requests()); n != 1 {
				t.Errorf("%d requests went upstream", n)
			}
		})
	}
}

// TestAllAccountsOut fails the only account for its first request, and for the
// gateway's own question if it is asked one.
func TestAllAccountsOut(t *testing.T) {
	window := func(name, claim string) *simulator.Limits {
		return &simulator.Limits{Claim: claim, Windows: []simulator.Window{
			{Name: name, Status: "rejected", Reset: time.Now().Add(2 * time.Hour), Utilization: 1}}}
	}
	for name, test := range map[string]struct {
		reply     simulator.Reply
		question  bool // the gateway asks the account itself
		out       bool
		low, high int // seconds of retry-after
	}{
		"overloaded":          {reply: simulator.Reply{Status: 529}},
		"a burst":             {reply: simulator.Reply{Status: 429, RetryAfter: 5 * time.Second}},
		"a long burst":        {reply: simulator.Reply{Status: 429, RetryAfter: 2 * time.Hour}},
		"another's window":    {reply: simulator.Reply{Status: 429, Limits: window("7d_opus", "seven_day_opus")}},
		"overage spent":       {reply: simulator.Reply{Status: 429, Limits: &simulator.Limits{Status: "rejected", Claim: "overage", Reset: time.Now().Add(2 * time.Hour)}}},
		"unauthorized":        {reply: simulator.Reply{Status: 401}, question: true, out: true, low: 590, high: 600},
		"payment required":    {reply: simulator.Reply{Status: 402}, question: true, out: true, low: 590, high: 600},
		"window spent":        {reply: simulator.Reply{Status: 429, Limits: window("5h", "five_hour")}, out: true, low: 7000, high: 7200},
		"its family's window": {reply: simulator.Reply{Status: 429, Limits: window("7d_sonnet", "seven_day_sonnet")}, out: true, low: 7000, high: 7200},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, mainAccount+alice)
			asked := 1
			g.sim.Queue("sk-upstream-main", test.reply)
			if test.question {
				g.sim.Queue("sk-upstream-main", test.reply)
			}
			g.say("claude-sonnet-5-5", false)
			if test.question {
				g.waitLogged(`"state":"error"`)
			}
			for _, stream := range []bool{false, true} {
				a := g.say("claude-sonnet-5-5", stream)
				if !test.out {
					if asked++; a.status != 200 {
						t.Errorf("%d %s", a.status, a.body)
					}
					continue
				}
				refusal{503, "overloaded_error", true, ""}.check(t, a)
				wantRetryAfter(t, a, test.low, test.high)
			}
			if n := len(g.asked()); n != asked {
				t.Errorf("%d requests of clients went upstream, want %d", n, asked)
			}
			if n := g.questionsTo("sk-upstream-main"); (n == 1) != test.question || n > 1 {
				t.Errorf("the gateway asked %d questions of its own", n)
			}
		})
	}
}

func TestBrokenDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := serve(t, simulator.Config{}, fmt.Sprintf("store embedded %s/store\n", file)+mainAccount+alice)
	for _, c := range []call{
		{body: asking("claude-sonnet-5-5", false)},
		{body: asking("claude-sonnet-5-5", true)},
		{method: "GET", path: "/v1/usage"},
	} {
		a := g.do(c)
		refusal{500, "api_error", false, ""}.check(t, a)
		if strings.Contains(string(a.body), file) {
			t.Errorf("the client sees a path: %s", a.body)
		}
	}
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream that could not be recorded", n)
	}
}
