package redisledger

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// childSpool and childRedis name the environment variables that make this test
// binary a process which settles records into that Redis, with that spool, until
// it is killed.
const (
	childSpool = "REDISLEDGER_TEST_SPOOL"
	childRedis = "REDISLEDGER_TEST_REDIS"
)

func TestMain(m *testing.M) {
	if spool := os.Getenv(childSpool); spool != "" {
		settleUntilKilled(spool, os.Getenv(childRedis))
		return
	}
	// Every check of a history has restarts; the command line can ask for more.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

// quiet keeps the client from reporting each connection that a test breaks.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// settleUntilKilled prints the id of every record that Settle acknowledged.
func settleUntilKilled(spool, address string) {
	redis.SetLogger(quiet{})
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	l := New(client, Options{Namespace: "n", Spool: spool})
	l.adopt()
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

func startChild(t *testing.T, spool, address string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childSpool+"="+spool, childRedis+"="+address)
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { child.Process.Kill() }) // should the test end early
	return child, bufio.NewScanner(stdout)
}

// kill ends a child and gives what it had acknowledged beyond those read.
func kill(t *testing.T, child *exec.Cmd, output *bufio.Scanner) (ids []string) {
	t.Helper()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for output.Scan() {
		if len(output.Text()) == len(newID()) { // not killed in the middle of a line
			ids = append(ids, output.Text())
		}
	}
	child.Wait()
	return ids
}

func read(t *testing.T, output *bufio.Scanner, count int) (ids []string) {
	t.Helper()
	for len(ids) < count && output.Scan() {
		ids = append(ids, output.Text())
	}
	if len(ids) < count {
		t.Fatalf("the child ended by itself after %d records", len(ids))
	}
	return ids
}

// TestKilledWhileRecordsWait kills a process whose Redis is gone, again and again.
// The next start settles all that it acknowledged, once. What it was about to
// acknowledge may be there as well.
func TestKilledWhileRecordsWait(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	spool := t.TempDir()
	declareAlice(t, open(t, client, Options{Namespace: "n"}))
	acknowledged := 0
	for range 5 {
		child, output := startChild(t, spool, mini.Addr())
		ids := read(t, output, 1+rand.IntN(200))
		mini.Close()
		ids = append(ids, read(t, output, 200+rand.IntN(1000))...)
		ids = append(ids, kill(t, child, output)...)
		if err := mini.Restart(); err != nil {
			t.Fatal(err)
		}

		l := open(t, client, Options{Namespace: "n", Spool: spool})
		declareAlice(t, l)
		wantWaiting(t, l, 0)
		index, err := client.ZCard(t.Context(), l.indexKey(day(exampleOf("").Time))).Result()
		if err != nil || int(index) < acknowledged+len(ids) {
			t.Fatalf("%d records, %v; %d were acknowledged", index, err, acknowledged+len(ids))
		}
		wantSettled(t, l, int(index))
		settle(t, l, ids...)
		wantSettled(t, l, int(index))
		wantIdentity(t, client, "n", "alice")
		acknowledged = int(index)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProcessesShareASpool: each has a subdirectory; what one leaves that was
// killed, another settles, and not before.
func TestProcessesShareASpool(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	spool := t.TempDir()
	options := Options{Namespace: "n", Spool: spool}
	declareAlice(t, open(t, client, Options{Namespace: "n"}))

	mini.SetError("LOADING")
	child, output := startChild(t, spool, mini.Addr())
	ids := read(t, output, 100)
	first := open(t, client, options)
	first.adopt()
	second := open(t, client, options)
	second.adopt()
	settle(t, first, "first")
	settle(t, second, "second")
	for i, l := range []*Ledger{first, second} {
		if name := filepath.Base(l.spool.own.path); name != fmt.Sprint(i+1) || l.Waiting() != 1 {
			t.Errorf("ledger %d has subdirectory %s, and %d records wait there", i+1, name, l.Waiting())
		}
	}
	ids = append(ids, kill(t, child, output)...)
	first.adopt()
	second.adopt()
	if n := first.Waiting(); n < len(ids)+1 {
		t.Errorf("%d records wait, want the child's %d, too", n, len(ids))
	}
	if n := second.Waiting(); n != 1 {
		t.Errorf("%d records wait, want 1: the child's are taken over already", n)
	}
	mini.SetError("")
	wantWaiting(t, first, 0)
	wantWaiting(t, second, 0)
	if err := first.drain(t.Context()); err != nil { // which may have been about to let go of it
		t.Error(err)
	}
	settle(t, first, ids...)
	index, err := client.ZCard(t.Context(), first.indexKey(day(exampleOf("").Time))).Result()
	if err != nil || int(index) < len(ids)+2 {
		t.Errorf("%d records, %v; want %d or more", index, err, len(ids)+2)
	}
	wantSettled(t, first, int(index))

	third := open(t, client, options)
	third.adopt()
	if name := filepath.Base(third.spool.own.path); name != "0" {
		t.Errorf("a new process has subdirectory %s, want 0, which is free again", name)
	}
}
