// Package blackbox tests the gateway from outside: a real Caddy with the
// directive between real clients and a simulated upstream.
package blackbox_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/sub2api/caddy-sub2api/billing"
	_ "github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// All secrets of the tests begin with one of these, and all accounts have names
// with the third, so that a leak of any is found by one search.
const (
	upstreamSecret = gatewaytest.UpstreamSecret
	gatewaySecret  = gatewaytest.GatewaySecret
	accountName    = gatewaytest.AccountName
)

// aliceKey is the gateway key of the tests' usual user.
const aliceKey = gatewaySecret + "alice"

// alice is the tests' usual user, in the tests' usual group.
const alice = `
	group default
	user alice {
		balance 100
		concurrency 0
		key ` + aliceKey + ` default
	}
`

// mainAccount is the pool of a test that needs no more.
const mainAccount = `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
	}
`

// gateway is a running Caddy with the directive. There is one at a time:
// Caddy's config is the process's.
type gateway struct {
	t     *testing.T
	url   string
	sim   *simulator.Server
	store string
	log   string
	http  *http.Client

	site      *gatewaytest.Site
	caddyfile string
}

// over is a gateway in front of a simulated upstream that has no config yet.
func over(t *testing.T, upstream simulator.Config) *gateway {
	t.Helper()
	s := gatewaytest.NewSite(t, upstream)
	return &gateway{t: t, url: s.URL, sim: s.Upstream, store: s.Store, log: s.LogFile, http: s.Client, site: s}
}

// serve starts a gateway with the words of block in its directive, before the
// site's other directives, and a simulated upstream behind it; SIM in either
// stands for the upstream's URL. The gateway ends with the test, which fails if
// a secret is in Caddy's log.
func serve(t *testing.T, config simulator.Config, block string, site ...string) *gateway {
	t.Helper()
	g := over(t, config)
	g.caddyfile = g.site.Caddyfile("DEBUG", block, strings.Join(site, "\n"))
	g.load()
	return g
}

func (g *gateway) load() { g.t.Helper(); g.site.Load(g.caddyfile) }

func (g *gateway) stop() { g.t.Helper(); g.site.Stop() }

// reload has Caddy take over the config with some of its words replaced.
func (g *gateway) reload(old, new string) {
	g.t.Helper()
	if !strings.Contains(g.caddyfile, old) {
		g.t.Fatalf("%q is not in:\n%s", old, g.caddyfile)
	}
	g.caddyfile = strings.ReplaceAll(g.caddyfile, old, new)
	g.load()
}

// restart ends Caddy and starts it again, over the same store.
func (g *gateway) restart() {
	g.t.Helper()
	g.stop()
	g.load()
}

// records stops Caddy and returns the ledger's records, oldest first.
func (g *gateway) records() []billing.Record {
	g.t.Helper()
	var out []billing.Record
	g.site.Books(func(ledger billing.Ledger) error {
		return ledger.Records(context.Background(), billing.RecordFilter{}, func(r *billing.Record) bool {
			out = append([]billing.Record{*r}, out...)
			return true
		})
	})
	return out
}

// balance is what alice has left, as the running gateway tells her.
func (g *gateway) balance() billing.USD {
	g.t.Helper()
	a := g.get("/v1/usage")
	var left struct{ Remaining json.Number }
	if err := json.Unmarshal(a.body, &left); a.status != http.StatusOK || err != nil {
		g.t.Fatalf("usage: %d %s (%v)", a.status, a.body, err)
	}
	amount, err := billing.ParseUSD(left.Remaining.String())
	if err != nil {
		g.t.Fatal(err)
	}
	return amount
}

// waitUpstream waits until the upstream has seen what it should have.
func (g *gateway) waitUpstream(what string, done func() bool) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := g.sim.Wait(ctx, done); err != nil {
		g.t.Fatalf("waiting until %s: %v", what, err)
	}
}

// last is the newest request that the upstream got.
func (g *gateway) last() simulator.Request {
	g.t.Helper()
	requests := g.sim.Requests()
	if len(requests) == 0 {
		g.t.Fatal("nothing went upstream")
	}
	return requests[len(requests)-1]
}
