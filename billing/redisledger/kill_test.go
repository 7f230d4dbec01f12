package redisledger_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// childSpool and childRedis name the environment variables that make this test
// binary a process which settles records into that Redis, with that spool, until
// it is killed.
const (
	childSpool = "REDISLEDGER_TEST_SPOOL"
	childRedis = "REDISLEDGER_TEST_REDIS"
)

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	if spool := os.Getenv(childSpool); spool != "" {
		settleUntilKilled(spool, os.Getenv(childRedis))
		return
	}
	// Every check of a history has restarts; the command line can ask for more.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// quiet keeps the client from reporting each connection that a test breaks.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// settleUntilKilled prints the id of every record that Settle acknowledged.
func settleUntilKilled(spool, address string) {
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	link := redislink.New(client, redislink.Options{Namespace: "n", Logger: slog.New(slog.DiscardHandler)})
	l := redisledger.New(link, redisledger.Options{Namespace: "n", Spool: spool})
	var settlers sync.WaitGroup
	for range 4 {
		settlers.Go(func() {
			for {
				id := newID()
				if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Println(id)
			}
		})
	}
	settlers.Wait()
}

// child is a process that settles until it is killed.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	output *bufio.Scanner
}

func startChild(t *testing.T, spool, address string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childSpool+"="+spool, childRedis+"="+address)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // should the test end early
	return &child{t, cmd, bufio.NewScanner(stdout)}
}

// read returns what it has acknowledged next.
func (c *child) read(count int) (ids []string) {
	c.t.Helper()
	for len(ids) < count && c.output.Scan() {
		ids = append(ids, c.output.Text())
	}
	if len(ids) < count {
		c.t.Fatalf("the child ended by itself after %d records", len(ids))
	}
	return ids
}

// kill ends it, and returns what it had acknowledged beyond that.
func (c *child) kill() (ids []string) {
	c.t.Helper()
	must(c.t, c.cmd.Process.Kill())
	for c.output.Scan() {
		if len(c.output.Text()) == len(newID()) { // not killed in the middle of a line
			ids = append(ids, c.output.Text())
		}
	}
	_ = c.cmd.Wait()
	return ids
}

// wantThere wants all of the ids among the records, each once, and returns how many
// records there are, for each of which alice was charged.
func (n *node) wantThere(t *testing.T, ids []string) (count int) {
	t.Helper()
	there := make(map[string]int)
	for _, id := range recordsIn(t, n, billing.RecordFilter{}) {
		there[id]++
		count++
	}
	for _, id := range ids {
		if there[id] != 1 {
			t.Errorf("record %s, which was acknowledged, is there %d times", id, there[id])
		}
	}
	n.wantSettled(t, count)
	return count
}

// TestKilledWhileRecordsWait kills a process, again and again: while Redis is there, and
// when it is gone. The next start settles all that it acknowledged, once. What it was
// about to acknowledge may be there as well.
func TestKilledWhileRecordsWait(t *testing.T) {
	for name, isGone := range map[string]bool{"while Redis is gone": true, "while Redis is there": false} {
		t.Run(name, func(t *testing.T) {
			mini := miniredis.RunT(t)
			client := connect(t, &redis.Options{Addr: mini.Addr()})
			spool := t.TempDir()
			open(t, client).declareAlice(t)
			var ids []string
			for range 5 {
				child := startChild(t, spool, mini.Addr())
				ids = append(ids, child.read(1+rand.IntN(200))...)
				if isGone {
					mini.Close()
					ids = append(ids, child.read(200+rand.IntN(1000))...)
				}
				ids = append(ids, child.kill()...)
				if isGone {
					must(t, mini.Restart())
				}

				l := openWith(t, client, redisledger.Options{Spool: spool})
				l.declareAlice(t)
				// What is in the spool is brought to Redis once more, before this.
				l.settle(t, newID())
				eventually(t, "all is in Redis", func() bool { return l.logs.count("is told again") == 0 || l.Waiting() == 0 })
				l.wantWaiting(t, 0)
				count := l.wantThere(t, ids)
				l.settle(t, ids[max(0, len(ids)-200):]...)
				if again := l.wantThere(t, ids); again != count {
					t.Errorf("%d records after some were settled once more, %d before", again, count)
				}
				wantIdentity(t, client, "alice")
				must(t, l.close())
			}
		})
	}
}

// TestKilledAsRedisGoesBack: Redis loses the process's last records at the same time, as
// it does where both were on one machine. The spool has them.
func TestKilledAsRedisGoesBack(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	spool := t.TempDir()
	open(t, client).declareAlice(t)
	var ids []string
	for range 3 {
		child := startChild(t, spool, mini.Addr())
		ids = append(ids, child.read(100)...)
		useRedis := redistest.Copy(t, client)
		ids = append(ids, child.read(100+rand.IntN(500))...)
		ids = append(ids, child.kill()...)
		useRedis()
		l := openWith(t, client, redisledger.Options{Spool: spool})
		l.declareAlice(t)
		l.settle(t, newID())
		l.wantWaiting(t, 0)
		l.wantThere(t, ids)
		wantIdentity(t, client, "alice")
		must(t, l.close())
	}
}

// TestProcessesShareASpool: each has a subdirectory; what one leaves that was
// killed, another settles, and not before.
func TestProcessesShareASpool(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	spool := t.TempDir()
	options := redisledger.Options{Spool: spool}
	open(t, client).declareAlice(t)

	mini.SetError(loading)
	child := startChild(t, spool, mini.Addr())
	ids := child.read(100)
	first := openWith(t, client, options)
	first.settle(t, "first")
	second := openWith(t, client, options)
	second.settle(t, "second")
	for name, l := range map[string]*node{"1": first, "2": second} {
		if l.Waiting() != 1 || sizeOf(spool, name, "journal-0") == 0 {
			t.Errorf("%d records wait, %d bytes are in the subdirectory %s", l.Waiting(), sizeOf(spool, name, "journal-0"), name)
		}
	}
	ids = append(ids, child.kill()...)
	eventually(t, "the records of the one that was killed are another's", func() bool { return first.Waiting()+second.Waiting() >= len(ids)+2 })
	if first.Waiting() != 1 && second.Waiting() != 1 {
		t.Errorf("%d and %d records wait: both have taken over some", first.Waiting(), second.Waiting())
	}
	mini.SetError("")
	first.wantWaiting(t, 0)
	second.wantWaiting(t, 0)
	first.settle(t, ids[max(0, len(ids)-200):]...)
	first.wantThere(t, append(ids, "first", "second"))

	third := openWith(t, client, options)
	third.settle(t, "third")
	if sizeOf(spool, "3", "journal-0") == 0 {
		t.Error("a new process does not have the subdirectory 3, the first that nobody holds")
	}
}
