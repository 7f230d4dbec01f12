package blackbox_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// The accounts of the tests of what goes upstream, by kind of credential.
const (
	apiKeyAccount = `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
	}`
	setupTokenAccount = `
	account acct-main {
		setup_token sk-upstream-main
		base_url SIM
	}`
	oauthAccount = `
	account acct-main {
		oauth {
			access_token sk-upstream-main
		}
		base_url SIM
	}`
	renamingAccount = `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM/proxy/
		models {
			claude-sonnet-5-5 glm-5
			claude-haiku-*
		}
		header X-Extra extra
		header User-Agent mine/1.0
	}`
)

// claudeSystem is what inject_system adds, with and without a cache mark.
const (
	claudeSystem     = `"system":[{"type":"text","text":"You are Claude Code, Anthropic's official CLI for Claude.","cache_control":{"type":"ephemeral"}}],`
	allBearer        = "claude-code-20250219,oauth-2025-04-20,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14"
	firstTurnHeaders = `Accept: application/json
Anthropic-Dangerous-Direct-Browser-Access: true
Anthropic-Version: 2023-06-01
Content-Type: application/json
User-Agent: claude-cli/2.1.330 (external, sdk-cli)
X-App: cli
X-Claude-Code-Session-Id: 7b0f1a52-9f0e-4a63-8c1d-3f5a7f0c2b11
X-Stainless-Arch: x64
X-Stainless-Lang: js
X-Stainless-Os: Linux
X-Stainless-Package-Version: 0.128.0
X-Stainless-Retry-Count: 0
X-Stainless-Runtime: node
X-Stainless-Runtime-Version: v26.12.1
X-Stainless-Timeout: 600
`
	firstTurnBeta     = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27"
	toolResultHeaders = `Accept: application/json
Accept-Language: *
Anthropic-Version: 2026-10-21
Content-Type: application/json
Sec-Fetch-Mode: cors
User-Agent: Anthropic/JS 1.12.0
X-Stainless-Retry-Count: 1
`
	bareHeaders = "Anthropic-Version: 2023-06-01\nContent-Type: application/json\nUser-Agent: \n"
	apiKey      = "X-Api-Key: sk-upstream-main\n"
	bearer      = "Authorization: Bearer sk-upstream-main\n"
)

func TestWhatGoesUpstream(t *testing.T) {
	same := func(body string) string { return body }
	withSystem := func(body string) string { return "{" + claudeSystem + body[1:] }
	for _, test := range []struct {
		name    string
		config  string
		request string
		target  string // path and query
		header  string // of every header, a line
		body    func(string) string
	}{
		{"api key", apiKeyAccount, "first-turn", "/v1/messages?beta=true", firstTurnHeaders + "Anthropic-Beta: " + firstTurnBeta + "\n" + apiKey, same},
		{"api key, odd JSON", apiKeyAccount, "tool-result", "/v1/messages", toolResultHeaders + apiKey, same},
		{"api key, few headers", apiKeyAccount, "bare", "/v1/messages", bareHeaders + apiKey, same},
		{"api key, odd query", apiKeyAccount, "bare-tools", "/v1/messages?x=%20y&x=2", bareHeaders + apiKey, same},
		{"api key, thinking", apiKeyAccount, "thinking", "/v1/messages", "Anthropic-Version: 2023-06-01\nContent-Type: application/json\nUser-Agent: claude-cli/2.1.330 (external, sdk-cli)\n" + apiKey, same},

		{"setup token", setupTokenAccount, "first-turn", "/v1/messages?beta=true",
			firstTurnHeaders + "Anthropic-Beta: claude-code-20250219,oauth-2025-04-20,interleaved-thinking-2025-05-14,context-management-2025-06-27\n" + bearer, same},
		{"oauth", oauthAccount, "first-turn", "/v1/messages?beta=true",
			firstTurnHeaders + "Anthropic-Beta: claude-code-20250219,oauth-2025-04-20,interleaved-thinking-2025-05-14,context-management-2025-06-27\n" + bearer, same},
		{"oauth, later version", oauthAccount, "tool-result", "/v1/messages?beta=true", toolResultHeaders + "Anthropic-Beta: oauth-2025-04-20\n" + bearer, withSystem},
		{"oauth, haiku", oauthAccount, "bare", "/v1/messages?beta=true", bareHeaders + "Anthropic-Beta: oauth-2025-04-20,interleaved-thinking-2025-05-14\n" + bearer, withSystem},
		{"oauth, no beta", oauthAccount, "bare-tools", "/v1/messages?beta=true", bareHeaders + "Anthropic-Beta: " + allBearer + "\n" + bearer, withSystem},

		{"renamed", renamingAccount, "first-turn", "/proxy/v1/messages?beta=true",
			strings.Replace(firstTurnHeaders, "claude-cli/2.1.330 (external, sdk-cli)", "mine/1.0", 1) + "X-Extra: extra\nAnthropic-Beta: " + firstTurnBeta + "\n" + apiKey,
			func(body string) string {
				return strings.Replace(body, `"model":"claude-sonnet-5-5"`, `"model":"glm-5"`, 1)
			}},
		{"served, not renamed", renamingAccount, "bare", "/proxy/v1/messages", strings.Replace(bareHeaders, "User-Agent: ", "User-Agent: mine/1.0", 1) + "X-Extra: extra\n" + apiKey, same},

		{"inject_system off", oauthAccount + "\nrequest {\ninject_system off\n}", "bare", "/v1/messages?beta=true", bareHeaders + "Anthropic-Beta: oauth-2025-04-20,interleaved-thinking-2025-05-14\n" + bearer, same},
		{"inject_system all", apiKeyAccount + "\nrequest {\ninject_system all\n}", "bare", "/v1/messages", bareHeaders + apiKey, withSystem},
		{"inject_system all, there is one", apiKeyAccount + "\nrequest {\ninject_system all\n}", "first-turn", "/v1/messages?beta=true", firstTurnHeaders + "Anthropic-Beta: " + firstTurnBeta + "\n" + apiKey, same},
		{"inject_beta, tools", apiKeyAccount + "\nrequest {\ninject_beta on\n}", "bare-tools", "/v1/messages?x=%20y&x=2",
			bareHeaders + "Anthropic-Beta: claude-code-20250219,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14\n" + apiKey, same},
		{"inject_beta, nothing to need it", apiKeyAccount + "\nrequest {\ninject_beta on\n}", "bare", "/v1/messages", bareHeaders + apiKey, same},
		{"inject_beta, one sent", apiKeyAccount + "\nrequest {\ninject_beta on\n}", "first-turn", "/v1/messages?beta=true", firstTurnHeaders + "Anthropic-Beta: " + firstTurnBeta + "\n" + apiKey, same},
		{"allow_header", apiKeyAccount + "\nrequest {\nallow_header X-My-* X-Forwarded-For\n}", "first-turn", "/v1/messages?beta=true",
			firstTurnHeaders + "Anthropic-Beta: " + firstTurnBeta + "\nX-My-Trace: 42\nX-Forwarded-For: 203.0.113.9\n" + apiKey, same},
		{"strip", apiKeyAccount + "\nrequest {\nthinking_blocks strip\n}", "thinking", "/v1/messages", "Anthropic-Version: 2023-06-01\nContent-Type: application/json\nUser-Agent: claude-cli/2.1.330 (external, sdk-cli)\n" + apiKey, strip},
		{"strip nothing", apiKeyAccount + "\nrequest {\nthinking_blocks strip\n}", "tool-result", "/v1/messages", toolResultHeaders + apiKey, same},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, test.config+alice)
			if strings.Contains(test.config, "SIM/") {
				g.sim.Set("", simulator.Always(simulator.Reply{Status: 200, Body: []byte(`{"type":"message","usage":{}}`)}))
			}
			request := fixture(t, test.request)
			g.do(request)
			sent := g.last()
			target := sent.Path
			if sent.RawQuery != "" {
				target += "?" + sent.RawQuery
			}
			if target != test.target {
				t.Errorf("sent to %s, want %s", target, test.target)
			}
			if sent.Host != strings.TrimPrefix(g.sim.URL, "http://") {
				t.Errorf("host %s", sent.Host)
			}
			sent.Header.Del("Content-Length") // looked at below
			if diff := cmp.Diff(headerOf(test.header), sent.Header); diff != "" {
				t.Errorf("headers: %s", diff)
			}
			want := test.body(request.body)
			if diff := cmp.Diff(want, string(sent.Body)); diff != "" {
				t.Errorf("body: %s", diff)
			}
			if int(sent.ContentLength) != len(want) {
				t.Errorf("content-length %d of %d bytes", sent.ContentLength, len(want))
			}
		})
	}
}

func headerOf(lines string) http.Header {
	out := http.Header{}
	for line := range strings.Lines(lines) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if value != "" { // an empty User-Agent isn't sent
			out.Set(name, value)
		}
	}
	return out
}

// strip is thinking.http without its thinking.
func strip(body string) string {
	for _, part := range []string{
		`{"type":"thinking","thinking":"Say {\"hi\"}.","signature":"c2ln"},{"type":"redacted_thinking","data":"ZGF0YQ=="},`,
		` , {"thinking":"no type","signature":"c2ln"}`,
	} {
		body = strings.Replace(body, part, "", 1)
	}
	return body
}

func TestInjectedSystemGoesByGroup(t *testing.T) {
	// The session's prefix must be the same whichever account of the group
	// serves it: the api_key account gets the block as well.
	g := serve(t, simulator.Config{}, `
	account acct-key {
		api_key sk-upstream-key
		base_url SIM
		priority 1
	}
	account acct-token {
		setup_token sk-upstream-token
		base_url SIM
	}
	group default
	group keys {
		accounts acct-key
	}
	user alice {
		balance 100
		key sk-gateway-alice default
		key sk-gateway-keys keys
	}`)
	request := fixture(t, "bare")
	g.do(request)
	if got := g.last(); got.Credential != "sk-upstream-key" || !strings.HasPrefix(string(got.Body), "{"+claudeSystem) {
		t.Errorf("%s got %s", got.Credential, got.Body)
	}
	request.key = "sk-gateway-keys"
	g.do(request)
	if got := g.last(); string(got.Body) != request.body {
		t.Errorf("a group without tokens: %s", got.Body)
	}
	request.key = ""
	for _, system := range []string{`null`, `""`, `[]`} { // present is present
		request.body = `{"system":` + system + `,"model":"claude-haiku-4-5","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`
		g.do(request)
		if got := g.last(); string(got.Body) != request.body {
			t.Errorf("system %s: %s", system, got.Body)
		}
	}
	four := strings.Repeat(`{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},`, 4)
	request.body = `{"model":"claude-haiku-4-5","max_tokens":1,"messages":[{"role":"user","content":[` + strings.TrimSuffix(four, ",") + `]}]}`
	g.do(request)
	unmarked := strings.Replace(claudeSystem, `,"cache_control":{"type":"ephemeral"}`, "", 1)
	if got := g.last(); string(got.Body) != "{"+unmarked+request.body[1:] {
		t.Errorf("with four marks: %s", got.Body)
	}
}
