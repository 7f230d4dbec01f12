// Package nodes tests gateways that share a store in Redis: processes of their
// own between real clients and a simulated upstream, and a redis-server that is
// killed, frozen and replaced. What the upstream saw, what clients got and what
// the ledger has must agree, whatever happens to whom.
package nodes_test

import (
	"flag"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

func TestMain(m *testing.M) {
	// All wait for their lanes at once; where the command says otherwise, that counts.
	if err := flag.Set("test.parallel", "100"); err != nil {
		panic(err)
	}
	gatewaytest.Main(m, caddycmd.Main)
}
