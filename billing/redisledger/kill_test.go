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
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// childSpool and childRedis name the environment variables that make this test
// binary a process which settles records into that Redis, with that spool, until
// it is killed.
const (
	childSpool = "REDISLEDGER_TEST_SPOOL"
	childRedis = "REDISLEDGER_TEST_REDIS"
	// childSettlers is how many records a child settles at once: so many may be kept
	// that it could not say so of.
	childSettlers = 4
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

// settleUntilKilled prints the ID of every record that Settle acknowledged.
func settleUntilKilled(spool, address string) {
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	link := redislink.New(client, redislink.Options{Namespace: "n", Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
	l := redisledger.New(link, redisledger.Options{Namespace: "n", Spool: spool})
	var settlers sync.WaitGroup
	for range childSettlers {
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

// child is a process that settles records until it is killed.
type child struct {
	command *exec.Cmd
	output  *bufio.Scanner
	ids     []string // those that it acknowledged
}

func startChild(t *testing.T, spool, address string) *child {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), childSpool+"="+spool, childRedis+"="+address)
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() { // should the test end early
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return &child{command: command, output: bufio.NewScanner(stdout)}
}

// acknowledges waits until the child has acknowledged that many records more.
func (c *child) acknowledges(t *testing.T, count int) {
	t.Helper()
	for range count {
		if !c.output.Scan() {
			t.Fatalf("the child ended by itself after %d records", len(c.ids))
		}
		c.ids = append(c.ids, c.output.Text())
	}
}

// kill ends the child as kill -9 does, and returns all that it acknowledged.
func (c *child) kill(t *testing.T) []string {
	t.Helper()
	must(t, c.command.Process.Kill())
	for c.output.Scan() {
		if len(c.output.Text()) == len(newID()) { // not killed in the middle of a line
			c.ids = append(c.ids, c.output.Text())
		}
	}
	_ = c.command.Wait()
	return c.ids
}

// wantAll checks that these records are in Redis, and no more besides than processes
// that were killed had in hand, each once; that alice was charged for each, and is not
// charged again for any that is settled again.
func (n *node) wantAll(t *testing.T, client *redis.Client, acknowledged []string, killed int) {
	t.Helper()
	times, records := make(map[string]int), []billing.Record(nil)
	must(t, n.Records(t.Context(), billing.RecordFilter{}, func(r *billing.Record) bool {
		times[r.ID]++
		records = append(records, *r)
		return true
	}))
	for _, id := range acknowledged {
		if times[id] != 1 {
			t.Errorf("record %s, which was acknowledged, is there %d times", id, times[id])
		}
	}
	if more := len(records) - len(acknowledged); len(times) != len(records) || more > killed*childSettlers {
		t.Errorf("%d records of %d IDs, of which %d were acknowledged; %d processes were killed", len(records), len(times), len(acknowledged), killed)
	}
	n.wantSettled(t, len(records))
	for i := range min(len(records), 300) {
		must(t, n.Settle(t.Context(), &records[i], nil))
	}
	n.wantSettled(t, len(records))
	wantIdentity(t, client, "alice")
	n.wantHeld(t, 0)
}

// TestKilledWhileRecordsWait kills a process whose Redis is gone, or has just come
// back, again and again. The next start settles all that it acknowledged, once.
func TestKilledWhileRecordsWait(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			redisServer := start(t)
			client := connect(t, &redis.Options{Addr: redisServer.address})
			spool := t.TempDir()
			open(t, client).declareAlice(t)
			var acknowledged []string
			const times = 4
			for i := range times {
				c := startChild(t, spool, redisServer.address)
				c.acknowledges(t, 1+rand.IntN(200))
				redisServer.stop()
				c.acknowledges(t, 200+rand.IntN(500))
				if i%2 == 1 { // it is killed while it brings Redis its records
					redisServer.back()
					time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
				}
				acknowledged = append(acknowledged, c.kill(t)...)
				if i%2 == 0 {
					redisServer.back()
				}

				l := openWith(t, client, redisledger.Options{Spool: spool})
				l.declareAlice(t)
				eventually(t, "all is settled", func() bool { return l.link.Down() == nil && l.Waiting() == 0 })
				l.wantAll(t, client, acknowledged, i+1)
				must(t, l.close())
			}
			t.Logf("%d records", len(acknowledged))
		})
	}
}

// TestKilledWhileRedisIsUp, and Redis loses the process's last records at the same time,
// as it does where both were on one machine: the spool has them.
func TestKilledWhileRedisIsUp(t *testing.T) {
	redisServer := servers["miniredis"](t)
	client := connect(t, &redis.Options{Addr: redisServer.address})
	spool := t.TempDir()
	open(t, client).declareAlice(t)
	var acknowledged []string
	for i, goesBack := range []bool{false, true, true} {
		c := startChild(t, spool, redisServer.address)
		c.acknowledges(t, 100)
		goBack := copyOfRedis(t, client)
		c.acknowledges(t, 100+rand.IntN(500))
		acknowledged = append(acknowledged, c.kill(t)...)
		if goesBack {
			goBack()
		}
		l := openWith(t, client, redisledger.Options{Spool: spool})
		l.declareAlice(t)
		l.wantMet(t, "next", 1) // it takes requests at once
		l.Release(t.Context(), "next")
		l.wantAll(t, client, acknowledged, i+1)
		must(t, l.close())
	}
}

// TestProcessesShareASpool: each has a subdirectory; what one leaves that was killed,
// another settles, and not before.
func TestProcessesShareASpool(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	options := redisledger.Options{Spool: t.TempDir()}
	open(t, client).declareAlice(t)

	mini.SetError(loading)
	c := startChild(t, options.Spool, mini.Addr())
	c.acknowledges(t, 100)
	first := openWith(t, client, options)
	first.settle(t, "first")
	second := openWith(t, client, options)
	second.settle(t, "second")
	time.Sleep(time.Second) // they look around
	for i, l := range []*node{first, second} {
		if own := sizeOf(options.Spool, fmt.Sprint(i+1), "journal-0"); own == 0 || l.Waiting() != 1 {
			t.Errorf("subdirectory %d has %d bytes, and %d records wait, want 1", i+1, own, l.Waiting())
		}
	}
	ids := c.kill(t)
	waiting := func() int { return first.Waiting() + second.Waiting() }
	eventually(t, "the child's records are taken over", func() bool { return waiting() >= len(ids)+2 })
	time.Sleep(time.Second)
	if more := waiting() - len(ids) - 2; more > childSettlers {
		t.Errorf("%d records wait, of which the child acknowledged %d: they were taken over more than once", waiting(), len(ids))
	}
	if n := sizeOf(options.Spool, "0", "journal-0") + sizeOf(options.Spool, "0", "journal-1"); n != 0 {
		t.Errorf("%d bytes are left in the child's subdirectory", n)
	}
	mini.SetError("")
	for _, l := range []*node{first, second} {
		eventually(t, "all is settled", func() bool { return l.link.Down() == nil && l.Waiting() == 0 })
	}
	first.wantAll(t, client, append(ids, "first", "second"), 1)

	third := openWith(t, client, options)
	third.settle(t, "third")
	if sizeOf(options.Spool, "0", "journal-0") == 0 {
		t.Error("a new process does not use subdirectory 0, which is free again")
	}
}
