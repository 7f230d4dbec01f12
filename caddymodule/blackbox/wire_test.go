package blackbox_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// mayReachClients are the response headers that a client may see; the rest of
// upstream's must stay behind.
var mayReachClients = []string{
	"Content-Type", "Content-Length", "Cache-Control", "X-Accel-Buffering", "Request-Id", "Retry-After", "X-Should-Retry", "Allow",
	"Anthropic-Thinking-Prefix-Mismatch",
	"Server", "Date", "Via", // Caddy's own
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

// call is a request to the gateway.
type call struct {
	method string // default: POST
	path   string // with the query; default: /v1/messages
	key    string // default: aliceKey; "-" = none
	header http.Header
	body   string
}

func (g *gateway) request(ctx context.Context, c call) *http.Request {
	g.t.Helper()
	if c.method == "" {
		c.method = http.MethodPost
	}
	if c.path == "" {
		c.path = "/v1/messages"
	}
	request, err := http.NewRequestWithContext(ctx, c.method, g.url+c.path, strings.NewReader(c.body))
	if err != nil {
		g.t.Fatal(err)
	}
	if c.body == "" {
		request.Body = http.NoBody
	}
	request.Header.Set("User-Agent", "") // net/http would send its own
	for name, values := range c.header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	switch c.key {
	case "":
		request.Header.Set("X-Api-Key", aliceKey)
	case "-":
	default:
		request.Header.Set("X-Api-Key", c.key)
	}
	return request
}

// open sends a request and returns when the header has come.
func (g *gateway) open(ctx context.Context, c call) *http.Response {
	g.t.Helper()
	response, err := g.http.Do(g.request(ctx, c))
	if err != nil { // Errorf: this may be another goroutine than the test's
		g.t.Errorf("%s %s: %v", c.method, c.path, err)
		return &http.Response{Header: http.Header{}, Body: http.NoBody}
	}
	g.noLeak(response.Header, nil)
	return response
}

// do sends a request and reads the whole answer. It must not tell anything of
// the upstream.
func (g *gateway) do(c call) answer {
	g.t.Helper()
	response := g.open(context.Background(), c)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	g.noLeak(response.Header, body)
	return answer{response.StatusCode, response.Header, body, err}
}

func (g *gateway) get(path string) answer {
	g.t.Helper()
	return g.do(call{method: http.MethodGet, path: path})
}

// say asks for an answer of a model, streamed or not.
func (g *gateway) say(model string, stream bool) answer {
	g.t.Helper()
	return g.do(call{body: asking(model, stream)})
}

func asking(model string, stream bool) string {
	streamed := ""
	if stream {
		streamed = `"stream":true,`
	}
	return `{"model":"` + model + `","max_tokens":64,` + streamed + `"messages":[{"role":"user","content":"Say hello."}]}`
}

// noLeak looks for traces of accounts and of the upstream.
func (g *gateway) noLeak(header http.Header, body []byte) {
	g.t.Helper()
	for name, values := range header {
		billing := strings.HasPrefix(name, "Anthropic-Ratelimit-Unified-") && header.Get("X-Should-Retry") == "false"
		if !slices.Contains(mayReachClients, name) && !billing || strings.HasPrefix(header.Get(name), "req_011Sim") {
			g.t.Errorf("the client sees the header %s: %s", name, values)
		}
		body = append(body[:len(body):len(body)], strings.Join(values, ",")...)
	}
	for _, trace := range []string{upstreamSecret, gatewaySecret, accountName, strings.TrimPrefix(g.sim.URL, "http://")} {
		if bytes.Contains(body, []byte(trace)) {
			g.t.Errorf("the client sees %q in %s", trace, body)
		}
	}
}

// wantError checks an answer that is an error of the gateway's own: envelope,
// content type and ids.
func wantError(t *testing.T, a answer, status int, kind string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content-type %q", got)
	}
	wantEnvelope(t, a.body, kind, a.header.Get("Request-Id"))
}

// wantEnvelope checks an error's JSON.
func wantEnvelope(t *testing.T, body []byte, kind, requestID string) {
	t.Helper()
	if !gjson.ValidBytes(body) {
		t.Errorf("the error is not JSON: %q", body)
		return
	}
	e := gjson.ParseBytes(body)
	if e.Get("type").Str != "error" || e.Get("error.type").Str != kind {
		t.Errorf("error %s, want type %s", body, kind)
	}
	if e.Get("error.message").Str == "" {
		t.Errorf("no message: %s", body)
	}
	if id := e.Get("request_id").Str; id == "" || id != requestID {
		t.Errorf("request_id %q, header %q", id, requestID)
	}
}

// event is one event of a stream, as a client reads it.
type event struct{ Name, Data string }

// readEvents reads a stream to its end the way the SDKs do: an event counts
// when its blank line has come. Comments come back as events named ":".
func readEvents(from io.Reader) (events []event) {
	var current event
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if current != (event{}) {
				events = append(events, current)
			}
			current = event{}
		case name == "":
			events = append(events, event{":", value})
		case name == "event":
			current.Name = value
		case name == "data":
			current.Data += value
		}
	}
	return events
}

// names are the events' names, repeats of one name counted once.
func names(events []event) (out []string) {
	for _, e := range events {
		if len(out) == 0 || out[len(out)-1] != e.Name {
			out = append(out, e.Name)
		}
	}
	return out
}
