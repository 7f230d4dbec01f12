// Package faults tests that the gateway stands whatever an upstream does: a
// real Caddy with the directive between real clients and a simulated upstream
// that refuses, breaks off, falls silent and says nonsense. What the client
// got, what became of the account and what was recorded must always agree, and
// nothing may be left behind.
package faults_test

import (
	"bytes"
	"context"
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
	down      bool
	*follower // of the log; nil = it is not read
}

// simulatorConfig is an upstream that remembers little.
var simulatorConfig = simulator.Config{Keep: 10}

// logName is the file that Caddy logs to.
const logName = "caddy.log"

// quiet keeps Caddy's log to what goes wrong inside the gateway.
const quiet = "ERROR"

// serve starts a gateway with the words of block in its directive, and a
// simulated upstream behind it, whose URL SIM stands for. It ends with the test,
// which fails if a secret is in Caddy's log.
func serve(t testing.TB, config simulator.Config, level, block string) *gateway {
	t.Helper()
	sim, err := simulator.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	dir := t.TempDir()
	g := &gateway{
		t: t, parent: t, url: "http://" + freeAddress(t), sim: sim,
		store: filepath.Join(dir, "store"), log: filepath.Join(dir, logName),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}, Timeout: time.Minute},
	}
	t.Cleanup(g.stop)
	g.load(level, block)
	return g
}

// load gives Caddy a config, the first one or another one.
func (g *gateway) load(level, block string) {
	g.t.Helper()
	text := fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	grace_period 5s
	log {
		output file %s
		level %s
	}
}
%s {
	sub2api {
		store embedded %s
		%s
	}
}`, g.log, level, g.url, g.store, strings.NewReplacer("TLS-SIM", strings.Replace(g.sim.URL, "http:", "https:", 1), "SIM", g.sim.URL).Replace(block))
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		g.t.Fatalf("%v, in:\n%s", err, text)
	}
	if err := caddy.Load(adapted, true); err != nil {
		g.t.Fatal(err)
	}
}

func freeAddress(t testing.TB) string {
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
	if err != nil && !os.IsNotExist(err) {
		g.t.Error(err)
	}
	for line := range bytes.Lines(logged) {
		if bytes.Contains(line, []byte(upstreamSecret)) || bytes.Contains(line, []byte(gatewaySecret)) {
			g.t.Errorf("a secret is in the log: %s", line)
		}
		if bytes.Contains(line, []byte("panic")) || bytes.Contains(line, []byte("failed inside the gateway")) {
			g.t.Errorf("the log has a fault of the gateway's own: %s", line)
		}
	}
}

// records stops Caddy and returns the ledger's records by request-id. What they
// charge is what the users' balances lack.
func (g *gateway) records() map[string]billing.Record {
	g.t.Helper()
	g.stop()
	ledger, err := sqliteledger.Open(context.Background(), g.store, sqliteledger.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	defer ledger.Close()
	out := map[string]billing.Record{}
	charged := map[string]billing.USD{}
	err = ledger.Records(context.Background(), billing.RecordFilter{}, func(r *billing.Record) bool {
		if _, twice := out[r.ID]; twice {
			g.t.Errorf("two records of %s", r.ID)
		}
		out[r.ID] = *r
		charged[r.User] = charged[r.User].Plus(r.Charged)
		return true
	})
	if err != nil {
		g.t.Fatal(err)
	}
	opening, _ := billing.ParseUSD("1000")
	for user, sum := range charged {
		left, err := ledger.Balance(context.Background(), user)
		if err != nil {
			g.t.Fatal(err)
		}
		if sum.Plus(left.Amount) != opening {
			g.t.Errorf("%s was charged %s and has %s left of %s", user, sum, left.Amount, opening)
		}
	}
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
