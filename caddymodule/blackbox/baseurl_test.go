package blackbox_test

import (
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestRequestsGoToTheBaseURLWithOneVersion(t *testing.T) {
	for end, want := range map[string]string{
		"":         "/v1/messages",
		"/":        "/v1/messages",
		"/v1":      "/v1/messages",
		"/v1/":     "/v1/messages",
		"/api/v1/": "/api/v1/messages",
		"/api-v1":  "/api-v1/v1/messages",
	} {
		t.Run(end, func(t *testing.T) {
			account := strings.Replace(mainAccount, "SIM", "SIM"+end, 1)
			g := serve(t, simulator.Config{}, account+alice)
			for _, path := range []string{"", "/count_tokens"} {
				g.do(call{path: "/v1/messages" + path, body: asking("claude-sonnet-5-5", false)})
				if got := g.last().Path; got != want+path {
					t.Errorf("upstream was asked for %s, want %s", got, want+path)
				}
			}
		})
	}
}
