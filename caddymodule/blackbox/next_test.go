package blackbox_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestOtherPathsGoToTheNextHandlerUntouched(t *testing.T) {
	type seen struct{ Method, URI, Key, Auth, Body string }
	var got seen
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.RequestURI, r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"), string(body)}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer behind.Close()
	g := serve(t, simulator.Config{}, mainAccount+alice, "reverse_proxy "+behind.URL)
	for _, want := range []seen{
		{"GET", "/", "", "", ""},
		{"HEAD", "/", "", "", ""},
		{"HEAD", "/api/hello", "", "", ""},
		{"POST", "/v1/messages/", "k", "Bearer b", `{"model":"x"}`},
		{"POST", "/v1/messages/batches?limit=1", "k", "", "not JSON"},
		{"GET", "/v1/models/", "k", "", ""},
		{"GET", "/v1/models/a/b", "k", "", ""},
		{"POST", "/V1/messages", "k", "", "{}"},
		{"POST", "//v1/messages", "k", "", "{}"},
		{"POST", "/antigravityv1/messages", "k", "", "{}"},
		{"POST", "/antigravity/antigravity/v1/messages", "k", "", "{}"},
		{"POST", "/antigravity", "k", "", "{}"},
		{"DELETE", "/v1", "", "", ""},
	} {
		got = seen{}
		c := call{method: want.Method, path: want.URI, key: want.Key, body: want.Body}
		if want.Key == "" {
			c.key = "-"
		}
		if want.Auth != "" {
			c.header = http.Header{"Authorization": {want.Auth}}
		}
		if a := g.do(c); a.status != http.StatusTeapot || a.header.Get("Request-Id") != "" {
			t.Errorf("%s %s: %d, request-id %q", want.Method, want.URI, a.status, a.header.Get("Request-Id"))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s: %s", want.Method, want.URI, diff)
		}
	}
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}
