package redistest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestSentinelsReplaceADeadMaster(t *testing.T) {
	s := StartSentinel(t)
	c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.MasterName, SentinelAddrs: s.Addrs(), ReadTimeout: time.Second})
	defer c.Close()
	set(t, c, "k", "v")

	dead := s.Master()
	dead.Kill()
	took := eventually(t, func(ctx context.Context) error { return c.Set(ctx, "k", "w", 0).Err() })
	t.Logf("a write worked again after %v", took)
	s.Wait()
	heir := s.Master()
	if heir == dead {
		t.Fatal("the dead one is still the master")
	}

	dead.Restart()
	s.Wait()
	if now := s.Master(); now != heir {
		t.Error("who came back is master again")
	}
	if got := value(t, client(t, dead), "k"); got != "w" {
		t.Errorf("who came back has %q", got)
	}
}

// TestPlannedFailover: what the master was held from sending is lost, and nothing
// else.
func TestPlannedFailover(t *testing.T) {
	Require(t)
	sentinel := StartSentinel(t)
	cluster := StartCluster(t, 3, 1)
	for name, store := range map[string]struct {
		client   redis.UniversalClient
		master   func() *Server
		failOver func()
	}{
		"Sentinel": {
			redis.NewFailoverClient(&redis.FailoverOptions{MasterName: sentinel.MasterName, SentinelAddrs: sentinel.Addrs()}),
			sentinel.Master, sentinel.FailOver,
		},
		"Cluster": {
			redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), MaxRedirects: 8}),
			func() *Server { return cluster.MasterOf("k") }, func() { cluster.FailOver("k", true) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer store.client.Close()
			set(t, store.client, "k", "1")
			time.Sleep(200 * time.Millisecond) // the replica has it
			old := store.master()
			old.HoldReplicas()
			set(t, store.client, "k", "2")
			store.failOver()
			if store.master() == old {
				t.Fatal("there was no failover")
			}
			old.ReleaseReplicas()
			eventually(t, func(ctx context.Context) error {
				if got := store.client.Get(ctx, "k").Val(); got != "1" {
					return fmt.Errorf("got %q", got)
				}
				return nil
			})
			store.failOver() // back, and nothing is held
			if store.master() != old || value(t, store.client, "k") != "1" {
				t.Errorf("after the second failover the master is %s, the value %q", store.master().Addr, value(t, store.client, "k"))
			}
		})
	}
}
