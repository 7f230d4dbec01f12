package gatewaytest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // to serve with

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// The secrets and names of the tests with a Site begin so, that a leak of any is found by
// one search.
const (
	UpstreamSecret = "sk-upstream-"
	GatewaySecret  = "sk-gateway-"
	AccountName    = "acct-"
)

// Site is a gateway inside the process of the test: a Caddy with the directive, in front
// of a simulated upstream. There is one at a time, for Caddy's config is the process's.
type Site struct {
	URL      string // http://127.0.0.1:port
	Upstream *simulator.Server
	Store    string // the directory of the embedded store
	LogFile  string // Caddy's
	Client   *http.Client

	// SeesFaults: Stop looks for faults of the gateway's own in what Caddy logged.
	SeesFaults bool

	t    testing.TB
	down bool
}

// NewSite starts the upstream. Load is what starts the gateway, which ends with the test.
func NewSite(t testing.TB, upstream simulator.Config) *Site {
	t.Helper()
	sim, err := simulator.Start(upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	dir := t.TempDir()
	s := &Site{
		URL: "http://" + FreeAddress(t), Upstream: sim, Store: filepath.Join(dir, "store"), LogFile: filepath.Join(dir, "caddy.log"),
		Client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}},
		t:      t, down: true,
	}
	t.Cleanup(s.Stop)
	return s
}

// Caddyfile has the words of block in the directive, and what follows after it in the
// site. SIM stands for the upstream's URL, TLS-SIM for that by https. The store is the
// Site's, where the block names none.
func (s *Site) Caddyfile(level, block, after string) string {
	if !strings.Contains(block, "store ") {
		block = "store embedded " + s.Store + "\n" + block
	}
	secure := strings.Replace(s.Upstream.URL, "http:", "https:", 1)
	return strings.NewReplacer("TLS-SIM", secure, "SIM", s.Upstream.URL).Replace(fmt.Sprintf(`{
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
		%s
	}
	%s
}`, s.LogFile, level, s.URL, block, after))
}

// Load gives Caddy a config, the first one or another one.
func (s *Site) Load(caddyfile string) {
	s.t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		s.t.Fatalf("%v, in:\n%s", err, caddyfile)
	}
	if err := caddy.Load(adapted, true); err != nil {
		s.t.Fatal(err)
	}
	s.down = false
	s.Client.CloseIdleConnections() // they are the old server's, which ends
}

// Stop ends Caddy, if it runs, and looks for secrets in what it logged.
func (s *Site) Stop() {
	if s.down {
		return
	}
	s.down = true
	s.Client.CloseIdleConnections()
	if err := caddy.Stop(); err != nil {
		s.t.Errorf("stopping Caddy: %v", err)
	}
	// Caddy does not wait until the store is closed.
	closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	gateway.WaitClosed(closing)
	logged, err := os.ReadFile(s.LogFile)
	if err != nil && !os.IsNotExist(err) {
		s.t.Error(err)
	}
	for line := range bytes.Lines(logged) {
		if bytes.Contains(line, []byte(UpstreamSecret)) || bytes.Contains(line, []byte(GatewaySecret)) {
			s.t.Errorf("a secret is in the log: %s", line)
		}
		for _, fault := range faults {
			if s.SeesFaults && bytes.Contains(line, []byte(fault)) {
				s.t.Errorf("the log has a fault of the gateway's own: %s", line)
			}
		}
	}
}

// Books stops Caddy and calls f with the ledger that it has left.
func (s *Site) Books(f func(billing.Ledger) error) {
	s.t.Helper()
	s.Stop()
	ledger, err := sqliteledger.Open(context.Background(), s.Store, sqliteledger.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer ledger.Close()
	if err := f(ledger); err != nil {
		s.t.Fatal(err)
	}
}
