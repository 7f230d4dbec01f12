package redistest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const slotCount = 16384

// Cluster is a Redis Cluster whose nodes are taken for dead after a second of
// silence. It keeps nothing but its own layout on disk.
type Cluster struct {
	t       testing.TB
	servers []*Server // masters first, as they were at the start
}

// StartCluster starts a Cluster and returns once it works. A Cluster that must
// replace a dead master needs at least three.
func StartCluster(t testing.TB, masters, replicasPerMaster int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range masters * (1 + replicasPerMaster) {
		c.servers = append(c.servers, Start(t, Config(
			"cluster-enabled yes",
			"cluster-node-timeout 1000",
			"cluster-announce-ip 127.0.0.1",
			// Any replica may take over, however old its data: there is no other.
			"cluster-replica-validity-factor 0",
			"repl-diskless-sync-delay 0",
			// Who was never pinged by its master has no part in CLUSTER SLOTS.
			"repl-ping-replica-period 1",
		)))
	}
	if err := c.join(masters); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	return c
}

// join shares the slots among the first servers, and gives them the others as
// replicas.
func (c *Cluster) join(masters int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	host, port, err := net.SplitHostPort(c.servers[0].Addr)
	if err != nil {
		return err
	}
	for i, s := range c.servers {
		// Epochs that differ from the start need not be sorted out by the nodes.
		if err := s.client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return fmt.Errorf("give the Cluster's node %s an epoch: %w", s.Addr, err)
		}
		if i < masters {
			from, to := slotCount*i/masters, slotCount*(i+1)/masters-1
			if err := s.client.ClusterAddSlotsRange(ctx, from, to).Err(); err != nil {
				return fmt.Errorf("give slots to the Cluster's node %s: %w", s.Addr, err)
			}
		}
		if i > 0 {
			if err := s.client.ClusterMeet(ctx, host, port).Err(); err != nil {
				return fmt.Errorf("join %s to the Cluster's node %s: %w", s.Addr, c.servers[0].Addr, err)
			}
		}
	}
	for i, replica := range c.servers[masters:] {
		master := c.servers[i%masters]
		id, err := master.client.ClusterMyID(ctx).Result()
		if err != nil {
			return fmt.Errorf("ask the Cluster's node %s for its name: %w", master.Addr, err)
		}
		// It refuses until it has heard of its master.
		err = wait("the Cluster's nodes to meet", func(ctx context.Context) error {
			return replica.client.ClusterReplicate(ctx, id).Err()
		})
		if err != nil {
			return fmt.Errorf("make %s a replica of %s: %w", replica.Addr, master.Addr, err)
		}
	}
	return nil
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.servers))
	for i, s := range c.servers {
		addrs[i] = s.Addr
	}
	return addrs
}

// MasterOf returns the server that the key is written to, as the first node that
// answers sees it: after a failure that may be the dead one, until Wait returns.
func (c *Cluster) MasterOf(key string) *Server {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range c.servers {
		if !s.answers() {
			continue
		}
		slot, err := s.client.ClusterKeySlot(ctx, key).Result()
		if err != nil {
			c.t.Fatalf("ask the Cluster's node %s for the slot of %q: %v", s.Addr, key, err)
		}
		ranges, err := slots(ctx, s)
		if err != nil {
			c.t.Fatalf("ask the Cluster's node %s for its slots: %v", s.Addr, err)
		}
		for _, r := range ranges {
			if int64(r.Start) <= slot && slot <= int64(r.End) {
				return c.server(r.Nodes[0].Addr)
			}
		}
	}
	c.t.Fatalf("no node of the Cluster knows a master of %q", key)
	return nil
}

func (c *Cluster) server(addr string) *Server {
	c.t.Helper()
	i := slices.IndexFunc(c.servers, func(s *Server) bool { return s.Addr == addr })
	if i < 0 {
		c.t.Fatalf("the Cluster has a node %s that is not of this test", addr)
	}
	return c.servers[i]
}

// FailOver has a replica take over from the master of a key, which is well, and
// returns once all agree. With force it doesn't wait for what the master has yet to
// send it.
func (c *Cluster) FailOver(key string, force bool) {
	c.t.Helper()
	old := c.MasterOf(key)
	words := []any{"CLUSTER", "FAILOVER"}
	if force {
		words = append(words, "FORCE")
	}
	var asked time.Time // each call begins it again
	err := wait("a replica to take over", func(ctx context.Context) error {
		ranges, err := slots(ctx, old)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(ranges, func(r redis.ClusterSlot) bool { return r.Nodes[0].Addr == old.Addr })
		if i < 0 { // it has
			return nil
		}
		if len(ranges[i].Nodes) < 2 {
			return fmt.Errorf("%s has no replica", old.Addr)
		}
		if time.Since(asked) > 2*time.Second {
			if err := c.server(ranges[i].Nodes[1].Addr).client.Do(ctx, words...).Err(); err != nil {
				return err
			}
			asked = time.Now()
		}
		return fmt.Errorf("%s is still the master", old.Addr)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.Wait()
}

// Wait returns once all nodes that were not killed, stopped or paused agree that
// the Cluster works, who of them has which slots, and have replicas in sync.
func (c *Cluster) Wait() {
	c.t.Helper()
	var running []*Server
	for _, s := range c.servers {
		if s.answers() {
			running = append(running, s)
		}
	}
	err := wait("the Cluster to work", func(ctx context.Context) error { return agree(ctx, running) })
	if err != nil {
		c.t.Fatal(err)
	}
}

// agree fails unless all servers see the same Cluster, which they alone serve.
func agree(ctx context.Context, servers []*Server) error {
	var agreed map[string]string
	for _, s := range servers {
		if err := works(ctx, s); err != nil {
			return fmt.Errorf("node %s: %w", s.Addr, err)
		}
		ranges, err := slots(ctx, s)
		if err != nil {
			return fmt.Errorf("node %s: %w", s.Addr, err)
		}
		view := layout(ranges)
		if agreed == nil {
			agreed = view
		}
		if !maps.Equal(agreed, view) {
			return fmt.Errorf("node %s sees %v, node %s %v", servers[0].Addr, agreed, s.Addr, view)
		}
	}
	for _, s := range servers {
		if _, ok := agreed[s.Addr]; !ok {
			return fmt.Errorf("node %s has no part in %v", s.Addr, agreed)
		}
	}
	if len(agreed) != len(servers) {
		return fmt.Errorf("%d nodes run, and the Cluster is %v", len(servers), agreed)
	}
	return nil
}

// works fails unless the node takes the Cluster for sound, and has its master's
// data if it is a replica.
func works(ctx context.Context, s *Server) error {
	info, err := s.client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	if state, count := field(info, "cluster_state"), field(info, "cluster_slots_ok"); state != "ok" || count != fmt.Sprint(slotCount) {
		return fmt.Errorf("cluster_state is %s, with %s slots", state, count)
	}
	replication, err := s.client.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	if field(replication, "role") == "master" {
		return nil
	}
	return inSync(replication)
}

// slots asks a node in the words that Redis before 7 knows too.
func slots(ctx context.Context, s *Server) ([]redis.ClusterSlot, error) {
	ranges := redis.NewClusterSlotsCmd(ctx, "CLUSTER", "SLOTS")
	if err := s.client.Process(ctx, ranges); err != nil {
		return nil, err
	}
	return ranges.Val(), nil
}

// layout says which slots each address has, as text, and whether it is their
// master.
func layout(ranges []redis.ClusterSlot) map[string]string {
	slices.SortFunc(ranges, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
	view := map[string]string{}
	for _, r := range ranges {
		for i, node := range r.Nodes {
			role := "master"
			if i > 0 {
				role = "replica"
			}
			view[node.Addr] += fmt.Sprintf("%s of %d-%d ", role, r.Start, r.End)
		}
	}
	return view
}
