package blackbox_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// readmeCaddyfile returns the first Caddyfile below a heading of the README,
// which must be formatted as `caddy fmt` does.
func readmeCaddyfile(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(text), "\n"+heading+"\n")
	_, block, ok := strings.Cut(below, "\n```caddyfile\n")
	block, _, closed := strings.Cut(block, "```\n")
	if !ok || !closed {
		t.Fatalf("no Caddyfile below %q", heading)
	}
	if formatted := string(caddyfile.Format([]byte(block))); formatted != block {
		t.Errorf("below %q, formatted:\n%s", heading, formatted)
	}
	return block
}

// serveReadme runs a Caddyfile of the README in front of a simulated upstream.
// Its key is alice's.
func serveReadme(t *testing.T, text string) *gateway {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("ANTHROPIC_API_KEY", "sk-upstream-main")
	t.Setenv("SUB2API_KEY", aliceKey)
	g := over(t, simulator.Config{})
	g.store = filepath.Join(dir, "caddy", "sub2api")
	g.site.Store = g.store
	for _, replaced := range [][2]string{
		{"{\n", "{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n"},
		{"\tlog {\n", "\tlog {\n\t\toutput file " + g.log + "\n"},
		{"\n:8080 {", "\n" + g.url[strings.LastIndexByte(g.url, ':'):] + " {"},
		{"api_key {env.ANTHROPIC_API_KEY}", "api_key {env.ANTHROPIC_API_KEY}\nbase_url " + g.sim.URL},
	} {
		if !strings.Contains(text, replaced[0]) {
			t.Fatalf("no %q in:\n%s", replaced[0], text)
		}
		text = strings.Replace(text, replaced[0], replaced[1], 1)
	}
	g.caddyfile = text
	g.load()
	return g
}

func TestCaddyfileOfTheReadme(t *testing.T) {
	g := serveReadme(t, readmeCaddyfile(t, "## A Caddyfile that works"))
	if a := g.say("claude-sonnet-5-5", true); a.status != 200 || !strings.Contains(string(a.body), "message_stop") {
		t.Errorf("%d %s", a.status, a.body)
	}
	wantUnserved(t, g.do(call{path: "/v1/messages/batches"}), "anthropic")
	for _, path := range []string{"/", "/v1", "/api/hello", "/index.html"} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			if a := g.do(call{method: method, path: path, key: "-"}); a.status != 404 {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
}

func TestBrowserRecipeOfTheReadme(t *testing.T) {
	const allow = "Access-Control-Allow-"
	recipe := readmeCaddyfile(t, "### Browsers")
	g := serveReadme(t, "{\n\tlog {\n\t}\n}\n:8080 {\nbind 127.0.0.1\n"+recipe+"}\n")
	send := func(c call) (int, http.Header) {
		response, err := g.http.Do(g.request(t.Context(), c))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if got := response.Header.Get(allow + "Origin"); got != "https://app.example.com" {
			t.Errorf("%s %s: allowed origin %q", c.method, c.path, got)
		}
		if got := response.Header.Get("Access-Control-Expose-Headers"); !strings.Contains(got, "request-id") {
			t.Errorf("%s %s: exposed headers %q", c.method, c.path, got)
		}
		return response.StatusCode, response.Header
	}
	origin := func(more http.Header) http.Header {
		header := http.Header{"Origin": {"https://app.example.com"}}
		for name, values := range more {
			header[name] = values
		}
		return header
	}

	const asked = "anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key,x-stainless-os"
	for _, path := range []string{"/v1/messages?beta=true", "/v1/models", "/v1/nothing"} {
		status, header := send(call{method: "OPTIONS", path: path, key: "-", header: origin(http.Header{
			"Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {asked},
		})})
		if status != 204 || header.Get(allow+"Headers") != asked || header.Get(allow+"Methods") != "GET, POST" || header.Get("Access-Control-Max-Age") == "" {
			t.Errorf("%s: the preflight was answered with %d %v", path, status, header)
		}
	}
	body := asking("claude-sonnet-5-5", false)
	for _, test := range []struct {
		call call
		want int
	}{
		{call{body: body}, 200},
		{call{body: asking("claude-sonnet-5-5", true)}, 200},
		{call{body: body, key: "sk-nobody"}, 401}, // pages may read errors too
		{call{path: "/v1/nothing"}, 404},
		{call{method: "GET", path: "/v1/models"}, 200},
		{call{method: "OPTIONS", key: "-"}, 405}, // no preflight
		{call{method: "GET", path: "/"}, 404},
	} {
		test.call.header = origin(nil)
		status, header := send(test.call)
		if status != test.want || header.Get(allow+"Headers") != "" {
			t.Errorf("%+v: %d %v", test.call, status, header)
		}
	}
	if got := g.last().Header; got.Get("Origin") != "" || got.Get("X-Api-Key") != "sk-upstream-main" {
		t.Errorf("upstream got %v", got)
	}
}
