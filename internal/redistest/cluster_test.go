package redistest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestClusterReplacesADeadMaster(t *testing.T) {
	c := StartCluster(t, 3, 1)
	cluster := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:       c.Addrs(),
		ReadTimeout: time.Second,
		// A master that takes no connections makes the client ask for no other.
		ClusterStateReloadInterval: 200 * time.Millisecond,
	})
	defer cluster.Close()
	set(t, cluster, "k", "v")

	dead := c.MasterOf("k")
	dead.Kill()
	took := eventually(t, func(ctx context.Context) error { return cluster.Set(ctx, "k", "w", 0).Err() })
	t.Logf("a write worked again after %v", took)
	c.Wait()
	heir := c.MasterOf("k")
	if heir == dead {
		t.Fatal("the dead one is still the master")
	}

	dead.Restart()
	c.Wait()
	if now := c.MasterOf("k"); now != heir {
		t.Error("who came back is master again")
	}
	if got := value(t, cluster, "k"); got != "w" {
		t.Errorf("got %q", got)
	}
}

func TestCleanReachesAllMasters(t *testing.T) {
	c := StartCluster(t, 3, 0)
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	defer cluster.Close()
	masters := map[*Server]bool{}
	for i := range 100 {
		key := fmt.Sprintf("gone:%d", i)
		masters[c.MasterOf(key)] = true
		set(t, cluster, key, "v")
	}
	set(t, cluster, "stays", "v")
	if len(masters) != 3 {
		t.Fatalf("%d masters have the keys", len(masters))
	}
	Clean(t, cluster, "gone:")
	if left := cluster.DBSize(t.Context()).Val(); left != 1 {
		t.Errorf("%d keys are left", left)
	}
}
