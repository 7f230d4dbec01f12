package nodes_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// TestServingWhileRedisRefusesThePassword: a Redis that refuses the password is
// down, and the log says why in its own words.
func TestServingWhileRedisRefusesThePassword(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	server := redistest.Start(t, redistest.Password("old-password"))
	p := over(t, server, accounts("a", 2, 0, sonnet))
	f := launch(t, p)
	for _, n := range f.nodes {
		if a := f.ask(n, question{}); !a.whole() {
			t.Fatalf("before: %v", a)
		}
	}
	ctx := context.Background()
	change := func(to string, kill bool) {
		t.Helper()
		if err := p.client.ConfigSet(ctx, "requirepass", to).Err(); err != nil {
			t.Fatal(err)
		}
		if kill {
			if err := p.client.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One connection, which stays logged in.
	options, err := redis.ParseURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	options.PoolSize = 1
	p.client.Close()
	p.client = redis.NewClient(options)
	t.Cleanup(func() { p.client.Close() })
	change("new-password", true)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		for i, n := range f.nodes {
			if a := f.ask(n, question{stream: i == 0}); !a.whole() {
				t.Fatalf("while the password is refused: %v", a)
			}
		}
	}
	for _, n := range f.nodes {
		if log := n.Log(); !strings.Contains(log, "WRONGPASS") || strings.Contains(log, "old-password") {
			t.Errorf("gateway %s does not say why, or says too much", n.Name)
		}
	}
	change("old-password", false)
	gatewaytest.Within(t, 10*time.Second, "all gateways use Redis again", func() bool {
		for _, n := range f.nodes {
			if !strings.Contains(n.Log(), "Redis is back") {
				return false
			}
		}
		return true
	})
	for _, n := range f.nodes {
		log := n.Log()
		if gone, back := strings.Count(log, "Redis is out of reach;"), strings.Count(log, "Redis is back"); gone != 1 || back != 1 {
			t.Errorf("gateway %s says %d times that Redis is out of reach, and %d times that it is back", n.Name, gone, back)
		}
	}
	for _, n := range f.nodes {
		if a := f.ask(n, question{}); !a.whole() {
			t.Errorf("after it: %v", a)
		}
	}
}
