package blackbox_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// handedOn is a request as the handler behind the gateway sees it.
type handedOn struct{ Method, URI, Key, Auth, Body string }

// serveWithNext is serve with a handler behind the gateway, which answers 418.
// seen returns the request that it got since it was asked last.
func serveWithNext(t *testing.T, block string) (g *gateway, seen func() handedOn) {
	t.Helper()
	requests := make(chan handedOn, 1)
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- handedOn{r.Method, r.RequestURI, r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"), string(body)}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(behind.Close)
	g = serve(t, simulator.Config{}, block, "reverse_proxy "+behind.URL)
	return g, func() handedOn {
		select {
		case r := <-requests:
			return r
		default:
			return handedOn{}
		}
	}
}

// wantHandedOn sends a request that the next handler must get as it is.
func (g *gateway) wantHandedOn(want handedOn, seen func() handedOn) {
	g.t.Helper()
	c := call{method: want.Method, path: want.URI, key: want.Key, body: want.Body}
	if want.Key == "" {
		c.key = "-"
	}
	if want.Auth != "" {
		c.header = http.Header{"Authorization": {want.Auth}}
	}
	if a := g.do(c); a.status != http.StatusTeapot || a.header.Get("Request-Id") != "" {
		g.t.Errorf("%s %s: %d, request-id %q", want.Method, want.URI, a.status, a.header.Get("Request-Id"))
	}
	if diff := cmp.Diff(want, seen()); diff != "" {
		g.t.Errorf("%s %s: %s", want.Method, want.URI, diff)
	}
}

func TestOtherPathsGoToTheNextHandlerUntouched(t *testing.T) {
	g, seen := serveWithNext(t, mainAccount+alice)
	for _, want := range []handedOn{
		{"GET", "/", "", "", ""},
		{"HEAD", "/", "", "", ""},
		{"HEAD", "/api/hello", "", "", ""},
		{"POST", "/V1/messages", "k", "Bearer b", "{}"},
		{"POST", "/v2/messages", "k", "", "not JSON"},
		{"POST", "/v1messages", "k", "", "{}"},
		{"POST", "/api/v1/messages", "k", "", "{}"},
		{"POST", "/x/../v1/messages?a=%20b", "k", "", "{}"},
		{"POST", "/./v1/messages", "k", "", "{}"},
		{"POST", "/antigravityv1/messages", "k", "", "{}"},
		{"GET", "//x//y/", "k", "", ""},
		{"GET", "/x%2Fy/%C3%A9", "k", "", ""},
		// The prefixes themselves are no path of an API.
		{"POST", "/antigravity", "k", "", "{}"},
		{"GET", "/antigravity/", "k", "", ""},
		{"DELETE", "/v1", "", "", ""},
		{"GET", "/v1//", "", "", ""},
		{"GET", "/v1beta", "", "", ""},
		{"GET", "/upload", "", "", ""},
		{"GET", "/uploads/a.png", "", "", ""},
		{"GET", "/ws", "", "", ""},
		{"GET", "/ws/chat", "", "", ""},
		{"GET", "/v1beta2/models", "", "", ""},
	} {
		g.wantHandedOn(want, seen)
	}
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}

func TestUnservedPathsMayGoToTheNextHandler(t *testing.T) {
	g, seen := serveWithNext(t, mainAccount+alice+"request {\nunserved next\n}")
	for _, want := range []handedOn{
		{"POST", "/v1/messages/batches?limit=1", "k", "Bearer b", "not JSON"},
		{"GET", "/v1/models/a/b", "k", "", ""},
		{"POST", "/v1//chat/completions/", "k", "", `{"model":"x"}`},
		{"POST", "/v1/v1/messages", "k", "", "{}"},
		{"POST", "/v1beta/models/gemini-3-pro:generateContent", "k", "", "{}"},
		{"POST", "/v1/models/gemini-3-pro:generateContent", "k", "", "{}"},
		{"POST", "/antigravity/antigravity/v1/messages", "k", "", "{}"},
		{"POST", "/upload/v1beta/files", "k", "", "{}"},
		{"GET", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", "k", "", ""},
	} {
		g.wantHandedOn(want, seen)
	}
	if a := g.do(call{path: "//v1/messages/", body: asking("claude-sonnet-5-5", false)}); a.status != 200 || seen() != (handedOn{}) {
		t.Errorf("a path that is served: %d %s", a.status, a.body)
	}
}
