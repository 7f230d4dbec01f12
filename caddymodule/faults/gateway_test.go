// Package faults tests that the gateway stands whatever an upstream does: a
// real Caddy with the directive between real clients and a simulated upstream
// that refuses, breaks off, falls silent and says nonsense. What the client
// got, what became of the account and what was recorded must always agree, and
// nothing may be left behind.
package faults_test

import (
	"context"
	"fmt"
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

// worker names the tests' users. Each has one user slot: a request that kept it
// would hold up the user's next one.
func worker(i int) string { return fmt.Sprintf("w%d", i) }

func keyOf(user string) string { return gatewaySecret + user }

// users are n of them in one group, each with 1000 dollars and some slots (0 =
// no limit).
func users(n, slots int) string {
	var out strings.Builder
	out.WriteString("group default\n")
	for i := range n {
		fmt.Fprintf(&out, "user %s {\nbalance 1000\nconcurrency %d\nkey %s default\n}\n", worker(i), slots, keyOf(worker(i)))
	}
	return out.String()
}

// gateway is a running Caddy with the directive. There is one at a time:
// Caddy's config is the process's.
type gateway struct {
	t         testing.TB
	parent    testing.TB // of t, where t is one of several that share the gateway
	url       string
	sim       *simulator.Server
	store     string
	log       string
	http      *http.Client
	*follower // of the log; nil = it is not read

	site *gatewaytest.Site
}

// simulatorConfig is an upstream that remembers little.
var simulatorConfig = simulator.Config{Keep: 10}

// quiet keeps Caddy's log to what goes wrong inside the gateway.
const quiet = "ERROR"

// serve starts a gateway with the words of block in its directive, and a
// simulated upstream behind it, whose URL SIM stands for. It ends with the test,
// which fails if a secret is in Caddy's log.
func serve(t testing.TB, config simulator.Config, level, block string) *gateway {
	t.Helper()
	s := gatewaytest.NewSite(t, config)
	s.Client.Timeout, s.SeesFaults = time.Minute, true
	g := &gateway{t: t, parent: t, url: s.URL, sim: s.Upstream, store: s.Store, log: s.LogFile, http: s.Client, site: s}
	g.load(level, block)
	return g
}

// load gives Caddy a config, the first one or another one.
func (g *gateway) load(level, block string) {
	g.t.Helper()
	g.site.Load(g.site.Caddyfile(level, block, ""))
}

// records stops Caddy and returns the ledger's records by request-id. What they
// charge is what the users' balances lack.
func (g *gateway) records() map[string]billing.Record {
	g.t.Helper()
	out := map[string]billing.Record{}
	charged := map[string]billing.USD{}
	g.site.Books(func(ledger billing.Ledger) error {
		err := ledger.Records(context.Background(), billing.RecordFilter{}, func(r *billing.Record) bool {
			if _, twice := out[r.ID]; twice {
				g.t.Errorf("two records of %s", r.ID)
			}
			out[r.ID] = *r
			charged[r.User] = charged[r.User].Plus(r.Charged)
			return true
		})
		if err != nil {
			return err
		}
		opening, _ := billing.ParseUSD("1000")
		for user, sum := range charged {
			left, err := ledger.Balance(context.Background(), user)
			if err != nil {
				return err
			}
			if sum.Plus(left.Amount) != opening {
				g.t.Errorf("%s was charged %s and has %s left of %s", user, sum, left.Amount, opening)
			}
		}
		return nil
	})
	return out
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
