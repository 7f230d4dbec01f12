package redistest

import (
	"context"
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
