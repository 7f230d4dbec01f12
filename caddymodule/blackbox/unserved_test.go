package blackbox_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

var (
	anthropicClient = http.Header{"Anthropic-Version": {"2023-06-01"}}
	googleClient    = http.Header{"X-Goog-Api-Key": {aliceKey}}
	bothClients     = http.Header{"Anthropic-Version": {"2023-06-01"}, "X-Goog-Api-Key": {aliceKey}}
)

// wantUnserved checks the 404 of a path, in the envelope of "anthropic",
// "openai" or "gemini".
func wantUnserved(t *testing.T, a answer, dialect string) (message string) {
	t.Helper()
	for name, want := range map[string]string{"Content-Type": "application/json", "X-Should-Retry": "false", "Retry-After": ""} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
	id := a.header.Get("Request-Id")
	if a.status != http.StatusNotFound || !strings.HasPrefix(id, "req_") || !gjson.ValidBytes(a.body) {
		t.Errorf("%d %s, request-id %q", a.status, a.body, id)
		return ""
	}
	message = gjson.GetBytes(a.body, "error.message").Str
	quoted := gjson.GetBytes(a.body, "error.message").Raw
	want := map[string]string{
		"anthropic": `{"type":"error","error":{"type":"not_found_error","message":` + quoted + `},"request_id":"` + id + `"}`,
		"openai":    `{"error":{"message":` + quoted + `,"type":"invalid_request_error","param":null,"code":"unknown_url"}}`,
		"gemini":    `{"error":{"code":404,"message":` + quoted + `,"status":"NOT_FOUND"}}`,
	}[dialect]
	if string(a.body) != want {
		t.Errorf("%s\nwant the form of %s:\n%s", a.body, dialect, want)
	}
	if !strings.Contains(message, "POST /v1/messages,") || !strings.Contains(message, "GET /v1/models/{id}") {
		t.Errorf("the message does not say what is served: %s", message)
	}
	return message
}

func TestPathsThatAreNotServed(t *testing.T) {
	g, seen := serveWithNext(t, mainAccount+alice)
	for _, test := range []struct {
		path    string
		header  http.Header
		dialect string
	}{
		{"/v1/messages/batches", nil, "anthropic"},
		{"/v1/messages/batches/msgbatch_1/results?limit=1", nil, "anthropic"},
		{"/v1/messages/count_tokens/x", nil, "anthropic"},
		{"/v1/messages/../messages", nil, "anthropic"},
		{"/v1/messages%3Fbeta=true", nil, "anthropic"},
		{"/v1/messages%20", nil, "anthropic"},
		{"/v1/Messages", anthropicClient, "anthropic"},
		{"/v1/complete", nil, "anthropic"},
		{"/v1/files", anthropicClient, "anthropic"},
		{"/v1/models/a/b", anthropicClient, "anthropic"},

		{"/v1/completions", nil, "openai"},
		{"/v1/chat/completions", nil, "openai"},
		{"//v1//chat/completions/", nil, "openai"},
		{"/v1/responses/resp_1?stream=true", nil, "openai"},
		{"/v1/embeddings", http.Header{"Authorization": {"Bearer " + aliceKey}}, "openai"},
		{"/v1/files", nil, "openai"},
		{"/v1/models/a/b", nil, "openai"},
		{"/v1/../v1/messages", nil, "openai"},
		{"/v1/.", nil, "openai"},
		{"/v1/usage/today", nil, "openai"},

		{"/v1beta/models", nil, "gemini"},
		{"/v1beta/models/gemini-3-pro:generateContent", nil, "gemini"},
		{"/v1beta/openai/chat/completions", nil, "gemini"},
		{"/v1beta//models/", anthropicClient, "gemini"},
		{"/v1alpha/models/gemini-3-pro:streamGenerateContent?alt=sse", nil, "gemini"},
		{"/upload/v1beta/files", nil, "gemini"},
		{"/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", nil, "gemini"},
		{"/v1/models/a/b:generateContent", nil, "gemini"},
		{"/v1/files", googleClient, "gemini"},
		{"/v1/messages/batches", bothClients, "gemini"},

		{"/antigravity/v1/messages/batches", nil, "anthropic"},
		{"/antigravity/v1/chat/completions", nil, "anthropic"},
		{"/antigravity/v1", nil, "anthropic"},
		{"/antigravity/x", nil, "anthropic"},
		{"/antigravity/antigravity/v1/messages", nil, "anthropic"},
		{"/antigravity/v1beta", nil, "gemini"},
		{"/antigravity/v1beta/models/gemini-3-pro:generateContent", nil, "gemini"},
		{"//antigravity//v1/models/x/y:countTokens", nil, "gemini"},
		{"/antigravity/x", googleClient, "gemini"},
	} {
		path, _, _ := strings.Cut(test.path, "?")
		for _, method := range []string{"POST", "GET", "OPTIONS", "DELETE"} {
			for _, key := range []string{"-", "sk-nobody", aliceKey} {
				t.Run(method+" "+test.path, func(t *testing.T) {
					g := *g
					g.t = t
					a := g.do(call{method: method, path: test.path, key: key, header: test.header, body: "no JSON"})
					if message := wantUnserved(t, a, test.dialect); !strings.HasPrefix(message, path+" is not served here. ") {
						t.Errorf("message %q", message)
					}
				})
			}
		}
		if a := g.do(call{method: "HEAD", path: test.path, key: "-", header: test.header}); a.status != 404 || a.header.Get("X-Should-Retry") != "false" || len(a.body) != 0 {
			t.Errorf("HEAD %s: %d %v %q", test.path, a.status, a.header, a.body)
		}
		if got := seen(); got != (handedOn{}) {
			t.Errorf("%s: the next handler got %+v", test.path, got)
		}
	}
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}

// A POST to a model and a colon calls a method of Gemini's; a GET asks for a
// model, and names of models may hold colons.
func TestAColonAfterAModel(t *testing.T) {
	g := serve(t, simulator.Config{}, `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			qwen3:8b
		}
	}`+alice)
	for _, path := range []string{"/v1/models/qwen3:8b", "/v1/models/qwen3%3A8b", "/antigravity/v1/models/qwen3:8b/"} {
		want := 200
		if strings.HasPrefix(path, "/antigravity") {
			want = 404 // no such account
		}
		if a := g.get(path); a.status != want || !strings.Contains(string(a.body), "qwen3:8b") {
			t.Errorf("GET %s: %d %s", path, a.status, a.body)
		}
		wantUnserved(t, g.do(call{path: path}), "gemini")
		if a := g.do(call{method: "DELETE", path: path}); a.status != 405 || a.header.Get("Allow") != "GET" {
			t.Errorf("DELETE %s: %d %v", path, a.status, a.header)
		}
	}
}

func TestABaseURLWithAVersionTooMany(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	for path, dialect := range map[string]string{
		"/v1/v1/messages":                       "anthropic",
		"/v1//v1/messages?beta=true":            "anthropic",
		"/v1/v1/models":                         "openai",
		"/v1/v1/chat/completions":               "openai",
		"/v1/v1":                                "openai",
		"/v1/v1beta/models":                     "gemini",
		"/v1/v1/models/gemini:generateContent":  "gemini",
		"/antigravity/v1/v1/messages":           "anthropic",
		"/antigravity/v1/v1beta/models/x:count": "gemini",
	} {
		message := wantUnserved(t, g.do(call{path: path, body: "{}"}), dialect)
		if !strings.Contains(message, "base URL that the client was given has a /v1 too many") {
			t.Errorf("%s: message %q", path, message)
		}
	}
}

func TestSlashesTooMany(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+`
	account acct-ag {
		platform antigravity
		api_key sk-upstream-ag
		base_url SIM
	}`+alice)
	body := asking("claude-sonnet-5-5", false)
	for path, want := range map[string]struct{ method, upstream string }{
		"//v1/messages":                    {"POST", "/v1/messages?"},
		"/v1/messages/":                    {"POST", "/v1/messages?"},
		"///v1//messages//?beta=true":      {"POST", "/v1/messages?beta=true"},
		"/%2Fv1/messages":                  {"POST", "/v1/messages?"},
		"/v1/messages//count_tokens/":      {"POST", "/v1/messages/count_tokens?"},
		"//antigravity//v1///messages/":    {"POST", "/v1/messages?"},
		"/antigravity//v1/models/":         {"GET", ""},
		"/v1//models/":                     {"GET", ""},
		"/v1/models//claude-sonnet-5-5//":  {"GET", ""},
		"/v1/usage/":                       {"GET", ""},
		"//antigravity/v1/usage//?x=//y//": {"GET", ""},
	} {
		before := len(g.sim.Requests())
		c := call{method: want.method, path: path}
		if want.method == "POST" {
			c.body = body
		}
		if a := g.do(c); a.status != 200 {
			t.Errorf("%s %s: %d %s", want.method, path, a.status, a.body)
		}
		sent := ""
		for _, r := range g.sim.Requests()[before:] {
			sent += r.Path + "?" + r.RawQuery
		}
		if sent != want.upstream {
			t.Errorf("%s: upstream got %q, want %q", path, sent, want.upstream)
		}
		wrong := map[string]string{"POST": "GET", "GET": "POST"}[want.method]
		for _, method := range []string{wrong, "OPTIONS", "HEAD"} {
			if a := g.do(call{method: method, path: path, key: "-"}); a.status != 405 || a.header.Get("Allow") != want.method {
				t.Errorf("%s %s: %d, Allow %q", method, path, a.status, a.header.Get("Allow"))
			}
		}
	}
}

// The message holds as much of a path as is of use, in printable ASCII.
func TestLongAndOddPathsInMessages(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	for _, path := range []string{
		"/v1/" + strings.Repeat("x", 8000),
		"/v1/" + strings.Repeat("%C3%A9", 2000),
		"/v1/" + strings.Repeat("/", 4000) + "x",
		"/v1/%00%0A%1b[2J%22%5C%ff%E2%80%AE",
		"/v1beta/%0d%0aX-Header:%20y",
	} {
		dialect := "openai"
		if strings.HasPrefix(path, "/v1beta") {
			dialect = "gemini"
		}
		message := wantUnserved(t, g.do(call{path: path}), dialect)
		if len(message) > 400 || !strings.HasPrefix(message, path[:20]) {
			t.Errorf("%.40s: message of %d bytes: %s", path, len(message), message)
		}
		for _, c := range message {
			if (c < ' ' || c > '~') && c != '…' {
				t.Errorf("%.40s: the message holds %q: %s", path, c, message)
			}
		}
	}
}
