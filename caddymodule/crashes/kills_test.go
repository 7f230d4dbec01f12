package crashes_test

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

func TestKills(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	c.kills(killCount(t, 10),
		"hold max",
		"hold estimate",
		"hold off\nretention 30d",
		"hold estimate\ntimezone Asia/Shanghai",
	)
}

func TestKillsWithPowerDurability(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	c.solvent = true
	c.kills(3, "durability power\nhold max")
}

// kills kills a gateway again and again, and starts it on the same store, with one
// of the terms after the other.
func (c *clients) kills(count int, terms ...string) {
	t := c.t
	store := filepath.Join(t.TempDir(), "store")
	configured := func(i int) string { return caddyfile("embedded "+store, c.sim.URL, terms[i%len(terms)]) }
	g := gatewaytest.Start(t, "A", configured(0))
	c.gateways = []*gatewaytest.Gateway{g}
	c.begin()
	for i := range count {
		if i%5 != 4 { // every fifth may not be done with what the one before has left
			g.Wait()
		}
		time.Sleep(killAfter())
		crash(t, g)
		g.Configure(configured(i + 1))
		g.Restart()
	}
	g.Wait()
	c.wantServed("after the last kill", 20*time.Second)
	c.end()
	g.Stop()
	c.wantEmbeddedBooks(store)
}

// killAfter is how long something lives.
func killAfter() time.Duration { return 20*time.Millisecond + rand.N(380*time.Millisecond) }

// crash kills a gateway, which must not have ended by itself.
func crash(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	if !g.Runs() {
		t.Errorf("gateway %s has ended by itself", g.Name)
	}
	g.Kill()
}
