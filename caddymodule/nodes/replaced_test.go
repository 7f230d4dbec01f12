package nodes_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// recovery is how long after the death of a master the next one must serve.
const recovery = 5 * time.Second

// replicated is a store whose master can be replaced.
type replicated struct {
	plan
	master func() *redistest.Server
	wait   func() // until another master is agreed on
}

// stores are the kinds of them.
var stores = map[string]func(*testing.T) replicated{
	"Cluster": func(t *testing.T) replicated {
		cluster := redistest.StartCluster(t, 3, 3)
		p := plan{client: redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), MaxRedirects: 8})}
		for _, addr := range cluster.Addrs() {
			p.urls = append(p.urls, "redis://"+addr)
		}
		return replicated{p, func() *redistest.Server { return cluster.MasterOf("{" + namespace + "}:") }, cluster.Wait}
	},
	"Sentinel": func(t *testing.T) replicated {
		sentinel := redistest.StartSentinel(t)
		p := plan{client: redis.NewFailoverClient(&redis.FailoverOptions{MasterName: sentinel.MasterName, SentinelAddrs: sentinel.Addrs()})}
		for _, addr := range sentinel.Addrs() {
			p.urls = append(p.urls, "redis://"+addr)
		}
		p.words = "sentinel " + sentinel.MasterName + "\n"
		return replicated{p, sentinel.Master, func() {}}
	},
}

func TestServingWhileAMasterIsReplaced(t *testing.T) {
	redistest.Require(t)
	t.Parallel()
	for name, start := range stores {
		t.Run(name, func(t *testing.T) {
			inLane(t)
			store := start(t)
			store.accounts = accounts("a", 4, 3, sonnet)
			f := launch(t, store.plan)
			load := f.begin(24, f.nodes...)
			gatewaytest.Within(t, 10*time.Second, "all slots are in use", func() bool { return f.inFlight("a", 4) == 12 })
			store.master().Kill()
			killed := time.Now()
			store.wait()
			time.Sleep(time.Until(killed.Add(recovery + settled)))
			f.measure(lasting(50*time.Millisecond, 150*time.Millisecond))
			measured := time.Now()
			time.Sleep(2 * time.Second)
			load.end(t)
			f.wantMost("after a master was replaced", "a", 4, 3)
			f.wantFree(places("a", 4)...)
			// What the dead master had just kept may not have reached the next one.
			f.wantLedger(measured)
		})
	}
}

func TestRefusingWhileAMasterIsReplaced(t *testing.T) {
	redistest.Require(t)
	t.Parallel()
	for name, start := range stores {
		t.Run(name, func(t *testing.T) {
			inLane(t)
			store := start(t)
			store.accounts = accounts("a", 4, 3, sonnet)
			store.words += "on_outage refuse"
			f := launch(t, store.plan)
			load := f.begin(12, f.nodes...)
			time.Sleep(time.Second)
			load.end(t)
			store.master().Kill()
			f.wantRecovery(time.Now(), recovery)
			time.Sleep(settled)
			f.measure(lasting(50*time.Millisecond, 150*time.Millisecond))
			measured := time.Now()
			load = f.begin(24, f.nodes...)
			time.Sleep(2 * time.Second)
			load.end(t)
			f.wantMost("after a master was replaced", "a", 4, 3)
			f.wantFree(places("a", 4)...)
			f.wantLedger(measured)
		})
	}
}
