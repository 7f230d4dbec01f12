package crashes_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// holdTime is how long what a killed gateway had set aside in Redis stays so.
const holdTime = time.Minute

// sharedStore is a store in Redis, in a Caddyfile's words.
func sharedStore(server *redistest.Server, spool string) string {
	return fmt.Sprintf("redis %s {\ntimeout 500ms\non_outage serve\nspool %s\n}", server.URL, spool)
}

func TestRedisKills(t *testing.T) {
	// Always: a write that the log has not taken when a client hears of it would be
	// lost, and Redis may put it off while the disk is busy.
	server := redistest.Start(t, redistest.AppendOnly(redistest.Always))
	t.Parallel()
	c := newClients(t)
	spool := filepath.Join(t.TempDir(), "spool")
	text := caddyfile(sharedStore(server, spool), c.sim.URL, "hold estimate")
	for _, name := range []string{"A", "B"} {
		c.gateways = append(c.gateways, gatewaytest.Start(t, name, text))
	}
	for _, g := range c.gateways {
		g.Wait()
	}
	c.begin()
	for i := range killCount(t, 6) {
		time.Sleep(killAfter())
		g := c.gateways[rand.IntN(2)]
		switch i % 3 {
		case 0:
			crash(t, g)
			g.Restart()
		case 1:
			server.Kill()
			time.Sleep(2 * killAfter())
			server.Restart()
		case 2: // the gateway begins without Redis, and finds a spool
			server.Kill()
			time.Sleep(killAfter())
			crash(t, g)
			g.Restart()
			time.Sleep(killAfter())
			server.Restart()
		}
	}
	killed := time.Now()
	for _, g := range c.gateways {
		g.Wait()
	}
	c.wantServed("after the last kill", 20*time.Second)
	c.end()

	c.wantSharedBooks(server, spool, time.Until(killed.Add(holdTime+5*time.Second)))
}

// wantSharedBooks ends the gateways, which bring Redis what waits in the spool, and
// looks at what is in Redis.
func (c *clients) wantSharedBooks(server *redistest.Server, spool string, holdTime time.Duration) {
	c.t.Helper()
	options, err := redis.ParseURL(server.URL)
	if err != nil {
		c.t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	for _, g := range c.gateways {
		g.Stop()
	}
	if left := waiting(c.t, spool); len(left) > 0 {
		c.t.Errorf("something waits in the spool after the gateways have ended: %v", left)
	}
	link := redislink.New(client, redislink.Options{Timeout: 5 * time.Second})
	defer link.Close()
	ledger := redisledger.New(link, redisledger.Options{Spool: c.t.TempDir()})
	defer ledger.Close()
	c.wantBooks(ledger, holdTime)
}

// waiting are the files of a spool, which nobody has open, that have something in them
// which Redis may not have: where it has all, a file says so.
func waiting(t *testing.T, spool string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(spool, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		_, takenErr := os.Stat(filepath.Join(filepath.Dir(path), "taken"))
		isTaken := takenErr == nil && strings.HasPrefix(entry.Name(), "journal-")
		if err == nil && info.Size() > 0 && !isTaken && !strings.HasPrefix(entry.Name(), "lock") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
