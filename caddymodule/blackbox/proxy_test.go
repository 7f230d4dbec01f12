package blackbox_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/proxytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// The proxy's credentials look like other secrets of the upstream's, so that
// they are looked for in the log and in what clients see.
const (
	proxyUser     = upstreamSecret + "proxy-user"
	proxyPassword = upstreamSecret + "proxy-password"
)

func startProxy(t *testing.T, scheme string) *proxytest.Proxy {
	t.Helper()
	start := func() (*proxytest.Proxy, error) { return proxytest.StartHTTP(nil, proxyUser, proxyPassword, nil) }
	if scheme != "http" {
		start = func() (*proxytest.Proxy, error) { return proxytest.StartSOCKS(proxyUser, proxyPassword, nil) }
	}
	p, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// behindProxy is a pool of an account behind a proxy, which is tried first, and
// one without.
func behindProxy(scheme, address string) string {
	return `
	account acct-proxied {
		api_key sk-upstream-proxied
		base_url SIM
		priority 1
		proxy ` + scheme + `://{env.SUB2API_TEST_PROXY_USER}:{env.SUB2API_TEST_PROXY_PASSWORD}@` + address + `
	}
	account acct-spare {
		api_key sk-upstream-spare
		base_url SIM
	}` + alice
}

func TestAProxyThatDiesFailsOver(t *testing.T) {
	t.Setenv("SUB2API_TEST_PROXY_USER", proxyUser)
	t.Setenv("SUB2API_TEST_PROXY_PASSWORD", proxyPassword)
	for _, scheme := range []string{"http", "socks5", "socks5h"} {
		for _, stream := range []bool{false, true} {
			t.Run(scheme+map[bool]string{false: "", true: " stream"}[stream], func(t *testing.T) {
				p := startProxy(t, scheme)
				g := serve(t, simulator.Config{}, behindProxy(scheme, p.Address))
				ask := func(session, model, want string) {
					t.Helper()
					a := g.do(call{
						header: http.Header{"X-Claude-Code-Session-Id": {session}},
						body:   asking(model, stream),
					})
					if a.status != http.StatusOK || a.err != nil || strings.Contains(string(a.body), "event: error") {
						t.Fatalf("%d %s (%v)", a.status, a.body, a.err)
					}
					if stream && strings.Count(string(a.body), "event: message_stop") != 1 {
						t.Errorf("the stream is not whole: %s", a.body)
					}
					if strings.Contains(string(a.body), p.Address) {
						t.Errorf("the client sees the proxy's address: %s", a.body)
					}
					if got := g.last().Credential; got != upstreamSecret+want {
						t.Errorf("%s answered, want %s", got, want)
					}
				}
				ask("first", "claude-sonnet-5-5", "proxied")
				if len(p.Asked()) != 1 {
					t.Fatalf("the proxy was asked for %q", p.Asked())
				}

				// It dies while a request is on its way through it.
				g.sim.Queue(upstreamSecret+"proxied", simulator.Reply{HeaderDelay: time.Minute})
				died := make(chan struct{})
				go func() {
					defer close(died)
					g.waitUpstream("the request is there", func() bool { return len(g.sim.Requests()) == 2 })
					p.Close()
				}()
				ask("second", "claude-sonnet-5-5", "spare")
				<-died

				// It comes last for the model, be it for the connection that ended or for
				// the new one that could not be had. After one more, if the first, the
				// account comes last for every model, and for its own sessions too.
				ask("third", "claude-sonnet-5-5", "spare")
				ask("fourth", "claude-opus-5-5", "spare")
				ask("first", "claude-haiku-5-5", "spare")
				var attempts []int
				for _, r := range g.records() {
					attempts = append(attempts, r.Attempts)
				}
				fourth := 1
				if len(attempts) == 5 {
					fourth = min(attempts[3], 2)
				}
				if diff := cmp.Diff([]int{1, 2, 1, fourth, 1}, attempts); diff != "" {
					t.Errorf("attempts: %s", diff)
				}
			})
		}
	}
}

// A proxy that does not let the account in is the account's fault, and no
// answer of upstream's: the client sees nothing of it.
func TestAProxyThatRefusesFailsOver(t *testing.T) {
	t.Setenv("SUB2API_TEST_PROXY_USER", proxyUser)
	t.Setenv("SUB2API_TEST_PROXY_PASSWORD", upstreamSecret+"wrong")
	for _, scheme := range []string{"http", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			p := startProxy(t, scheme)
			g := serve(t, simulator.Config{}, behindProxy(scheme, p.Address))
			if a := g.say("claude-sonnet-5-5", true); a.status != http.StatusOK || strings.Count(string(a.body), "event: message_stop") != 1 {
				t.Errorf("%d %s", a.status, a.body)
			}
			if records := g.records(); len(records) != 1 || records[0].Attempts != 2 || records[0].Account != "acct-spare" {
				t.Errorf("records %+v", records)
			}
		})
	}
}
