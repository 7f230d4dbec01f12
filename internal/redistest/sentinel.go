package redistest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	sentinelCount  = 3
	sentinelQuorum = 2
)

// Sentinel is a master with one replica, under the eyes of three sentinels who
// take it for dead after half a second of silence if two of them agree.
type Sentinel struct {
	MasterName string // by which clients ask for the master

	t         testing.TB
	servers   []*Server // the master and its replica, as they were at the start
	sentinels []*Server
}

// StartSentinel starts all of them, and returns once the sentinels know each
// other and the replica. The options are for the master and the replica,
// without passwords, sockets and TLS.
func StartSentinel(t testing.TB, options ...Option) *Sentinel {
	t.Helper()
	s := &Sentinel{MasterName: "main", t: t}
	options = append([]Option{Config("repl-diskless-sync-delay 0")}, options...)
	master := Start(t, options...)
	host, port, err := net.SplitHostPort(master.Addr)
	if err != nil {
		t.Fatalf("sentinels can watch no server at %s: %v", master.Addr, err)
	}
	replica := Start(t, append(options, Config("replicaof "+host+" "+port))...)
	s.servers = []*Server{master, replica}
	// Sentinels ask the master for its replicas when they start, and rarely after.
	err = wait("the replica to be in sync", func(ctx context.Context) error {
		replication, err := replica.client.Info(ctx, "replication").Result()
		if err != nil {
			return err
		}
		return inSync(replication)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range sentinelCount {
		s.sentinels = append(s.sentinels, startSentinel(t, s.MasterName, host, port))
	}
	s.Wait()
	return s
}

func startSentinel(t testing.TB, name, host, port string) *Server {
	t.Helper()
	sentinel := Start(t, func(how *setup) { how.sentinel = true }, Config(
		fmt.Sprintf("sentinel monitor %s %s %s %d", name, host, port, sentinelQuorum),
		"sentinel down-after-milliseconds "+name+" 500",
		"sentinel failover-timeout "+name+" 3000",
	))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// They tell each other of themselves and of a new master every 2 s, and ask
	// servers for their role every 10 s. Before Redis 7 that can't be changed, and
	// takes its time.
	_ = sentinel.client.Do(ctx, "SENTINEL", "DEBUG", "PUBLISH-PERIOD", 200, "INFO-PERIOD", 200).Err()
	return sentinel
}

// Addrs returns the addresses of the sentinels.
func (s *Sentinel) Addrs() []string {
	addrs := make([]string, len(s.sentinels))
	for i, sentinel := range s.sentinels {
		addrs[i] = sentinel.Addr
	}
	return addrs
}

// Sentinels returns the sentinels, so that a test can kill some.
func (s *Sentinel) Sentinels() []*Server { return s.sentinels }

// Master returns the master that the first sentinel that answers names: after a
// failure that may be the dead one, until Wait returns.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, sentinel := range s.sentinels {
		if !sentinel.answers() {
			continue
		}
		found, err := s.masterBy(ctx, sentinel)
		if err != nil {
			s.t.Fatal(err)
		}
		return found
	}
	s.t.Fatal("no sentinel runs")
	return nil
}

// WaitReplaced returns once all sentinels that run name another master than old. One that
// is empty may come back only then: a sentinel that still takes it for the master would
// make the new one its replica, which loses all that there was.
func (s *Sentinel) WaitReplaced(old *Server) {
	s.t.Helper()
	err := wait("all sentinels to name another master", func(ctx context.Context) error {
		for _, sentinel := range s.sentinels {
			if !sentinel.answers() {
				continue
			}
			if master, err := s.masterBy(ctx, sentinel); err != nil || master == old {
				return fmt.Errorf("the sentinel at %s names %s: %w", sentinel.Addr, old.Addr, cmp.Or(err, errors.New("it is the old one")))
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// failOverWait is after how long sentinels that were to replace a master are asked
// again.
const failOverWait = 5 * time.Second

// FailOver has the sentinels replace a master that is well, and returns once they
// agree on the next.
func (s *Sentinel) FailOver() {
	s.t.Helper()
	old := s.Master()
	var begun time.Time
	err := wait("another master", func(ctx context.Context) error {
		now, err := s.masterBy(ctx, s.sentinels[0])
		if err != nil || now != old {
			return err
		}
		// It refuses while it does not know yet that the replica is well, and gives up
		// without a word where it then finds that the replica is not.
		if time.Since(begun) > failOverWait {
			if err := s.sentinels[0].client.Do(ctx, "SENTINEL", "FAILOVER", s.MasterName).Err(); err != nil {
				// A replica that was held for longer than ten times the silence by which servers
				// are dead is none that they choose.
				old.ReleaseReplicas()
				return err
			}
			begun = time.Now()
		}
		return fmt.Errorf("%s is still the master", old.Addr)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Wait()
}

// Wait returns once all sentinels that were not killed, stopped or paused agree
// on a master that runs, and the other server, if it runs, is its replica in sync.
func (s *Sentinel) Wait() {
	s.t.Helper()
	if err := wait("the sentinels to agree", s.agree); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Sentinel) agree(ctx context.Context) error {
	var agreed *Server
	for _, sentinel := range s.sentinels {
		if !sentinel.answers() {
			continue
		}
		if err := s.calm(ctx, sentinel); err != nil {
			return err
		}
		master, err := s.masterBy(ctx, sentinel)
		if err != nil {
			return err
		}
		if agreed == nil {
			agreed = master
		}
		if master != agreed {
			return fmt.Errorf("the sentinel at %s has the master %s, another %s", sentinel.Addr, master.Addr, agreed.Addr)
		}
	}
	if agreed == nil || !agreed.answers() {
		return errors.New("no sentinel knows a master that runs")
	}
	return s.replicates(ctx, agreed)
}

// calm fails unless the sentinel finds nothing wrong with the master and knows
// the replica and all other sentinels.
func (s *Sentinel) calm(ctx context.Context, sentinel *Server) error {
	view := redis.NewMapStringStringCmd(ctx, "SENTINEL", "MASTER", s.MasterName)
	if err := sentinel.client.Process(ctx, view); err != nil {
		return fmt.Errorf("ask the sentinel at %s: %w", sentinel.Addr, err)
	}
	for name, want := range map[string]string{
		"flags":               "master",
		"num-slaves":          strconv.Itoa(len(s.servers) - 1),
		"num-other-sentinels": strconv.Itoa(len(s.sentinels) - 1),
	} {
		if got := view.Val()[name]; got != want {
			return fmt.Errorf("the sentinel at %s has %s %q, not %q", sentinel.Addr, name, got, want)
		}
	}
	return nil
}

// replicates fails unless the server is a master, and all others that run its
// replicas.
func (s *Sentinel) replicates(ctx context.Context, master *Server) error {
	for _, server := range s.servers {
		if !server.answers() {
			continue
		}
		replication, err := server.client.Info(ctx, "replication").Result()
		if err != nil {
			return fmt.Errorf("ask the server at %s: %w", server.Addr, err)
		}
		if server == master {
			if role := field(replication, "role"); role != "master" {
				return fmt.Errorf("the master at %s is still a %s", server.Addr, role)
			}
			continue
		}
		if err := inSync(replication); err != nil {
			return fmt.Errorf("the server at %s: %w", server.Addr, err)
		}
	}
	return nil
}

// masterBy returns the master that the sentinel names.
func (s *Sentinel) masterBy(ctx context.Context, sentinel *Server) (*Server, error) {
	named := redis.NewStringSliceCmd(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.MasterName)
	if err := sentinel.client.Process(ctx, named); err != nil {
		return nil, fmt.Errorf("ask the sentinel at %s for the master: %w", sentinel.Addr, err)
	}
	addr := strings.Join(named.Val(), ":")
	i := slices.IndexFunc(s.servers, func(server *Server) bool { return server.Addr == addr })
	if i < 0 {
		return nil, fmt.Errorf("the sentinel at %s has a master %q that is not of this test", sentinel.Addr, addr)
	}
	return s.servers[i], nil
}

// inSync fails unless a server that tells this of its replication has its master's
// data.
func inSync(replication string) error {
	if role, link := field(replication, "role"), field(replication, "master_link_status"); role != "slave" || link != "up" {
		return fmt.Errorf("it is a %s, its link to a master %q", role, link)
	}
	return nil
}
