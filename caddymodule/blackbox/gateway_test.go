// Package blackbox tests the gateway from outside: a real Caddy with the
// directive between real clients and a simulated upstream.
package blackbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	_ "github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// All secrets of the tests begin with one of these, and all accounts have names
// with the third, so that a leak of any is found by one search.
const (
	upstreamSecret = "sk-upstream-"
	gatewaySecret  = "sk-gateway-"
	accountName    = "acct-"
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
	down  bool

	caddyfile string
}

// serve starts a gateway with the words of block in its directive, before the
// site's other directives, and a simulated upstream behind it; SIM in either
// stands for the upstream's URL. The gateway ends with the test, which fails if
// a secret is in Caddy's log.
func serve(t *testing.T, config simulator.Config, block string, site ...string) *gateway {
	t.Helper()
	sim, err := simulator.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	dir := t.TempDir()
	g := &gateway{
		t:     t,
		url:   "http://" + freeAddress(t),
		sim:   sim,
		store: filepath.Join(dir, "store"),
		log:   filepath.Join(dir, "caddy.log"),
		http:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}},
	}
	if !strings.Contains(block, "store ") {
		block = "store embedded " + g.store + "\n" + block
	}
	text := fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	grace_period 5s
	log {
		output file %s
		level DEBUG
	}
}
%s {
	sub2api {
		%s
	}
	%s
}`, g.log, g.url, block, strings.Join(site, "\n"))
	g.caddyfile = strings.ReplaceAll(text, "SIM", sim.URL)
	g.load()
	t.Cleanup(g.stop)
	return g
}

func (g *gateway) load() {
	g.t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(g.caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		g.t.Fatalf("%v, in:\n%s", err, g.caddyfile)
	}
	if err := caddy.Load(adapted, true); err != nil {
		g.t.Fatal(err)
	}
}

// reload has Caddy take over the config with some of its words replaced.
func (g *gateway) reload(old, new string) {
	g.t.Helper()
	if !strings.Contains(g.caddyfile, old) {
		g.t.Fatalf("%q is not in:\n%s", old, g.caddyfile)
	}
	g.caddyfile = strings.ReplaceAll(g.caddyfile, old, new)
	g.load()
	g.http.CloseIdleConnections() // they are the old server's, which ends
}

// restart ends Caddy and starts it again, over the same store.
func (g *gateway) restart() {
	g.t.Helper()
	g.stop()
	g.down = false
	g.load()
}

func freeAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// stop ends Caddy and looks for secrets in what it logged.
func (g *gateway) stop() {
	if g.down {
		return
	}
	g.down = true
	g.http.CloseIdleConnections()
	if err := caddy.Stop(); err != nil {
		g.t.Errorf("stopping Caddy: %v", err)
	}
	// Caddy does not wait until the store is closed; who opens it next does.
	if _, err := os.Stat(g.store); err == nil {
		ledger, err := sqliteledger.Open(context.Background(), g.store, sqliteledger.Options{LockWait: 10 * time.Second})
		if err == nil {
			err = ledger.Close()
		}
		if err != nil {
			g.t.Errorf("opening the store that Caddy has left: %v", err)
		}
	}
	logged, err := os.ReadFile(g.log)
	if err != nil {
		g.t.Error(err)
	}
	for line := range bytes.Lines(logged) {
		if bytes.Contains(line, []byte(upstreamSecret)) || bytes.Contains(line, []byte(gatewaySecret)) {
			g.t.Errorf("a secret is in the log: %s", line)
		}
	}
}

// records stops Caddy and returns the ledger's records, oldest first.
func (g *gateway) records() []billing.Record {
	g.t.Helper()
	g.stop()
	ledger, err := sqliteledger.Open(context.Background(), g.store, sqliteledger.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	defer ledger.Close()
	var out []billing.Record
	err = ledger.Records(context.Background(), billing.RecordFilter{}, func(r *billing.Record) bool {
		out = append([]billing.Record{*r}, out...)
		return true
	})
	if err != nil {
		g.t.Fatal(err)
	}
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
