package redisledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// server is a Redis that a test can kill.
type server struct {
	address    string
	stop, back func(t *testing.T)
}

func miniServer(t *testing.T) server {
	mini := miniredis.RunT(t)
	return server{mini.Addr(), func(*testing.T) { mini.Close() }, func(t *testing.T) {
		if err := mini.Restart(); err != nil {
			t.Fatal(err)
		}
	}}
}

// realServer runs a redis-server that writes to disk before it answers, so that
// nothing is lost when it is killed.
func realServer(t *testing.T) server {
	if os.Getenv("SUB2API_TEST_REDIS") == "" {
		t.Skip("SUB2API_TEST_REDIS names no server, so none is started either")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	var process *exec.Cmd
	stop := func(t *testing.T) {
		process.Process.Kill()
		process.Wait()
	}
	start := func(t *testing.T) {
		process = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir,
			"--save", "", "--appendonly", "yes", "--appendfsync", "always")
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		client := connect(t, &redis.Options{Addr: address})
		for range 500 {
			if client.Ping(context.Background()).Err() == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("redis-server does not answer")
	}
	start(t)
	t.Cleanup(func() { stop(t) })
	return server{address, stop, start}
}

// TestRedisKilledDuringSettles: every Settle succeeds, nothing is lost and
// nothing charged twice.
func TestRedisKilledDuringSettles(t *testing.T) {
	for name, start := range map[string]func(*testing.T) server{"miniredis": miniServer, "redis-server": realServer} {
		t.Run(name, func(t *testing.T) {
			const settlers = 8
			redisServer := start(t)
			client := connect(t, &redis.Options{Addr: redisServer.address})
			l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
			declareAlice(t, l)
			stop := make(chan struct{})
			var mu sync.Mutex
			var ids []string
			var running sync.WaitGroup
			for range settlers {
				running.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						id := newID()
						if err := setAside(l, id, 7*charge); err != nil {
							t.Error(err)
						}
						if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
							t.Error(err)
						}
						mu.Lock()
						ids = append(ids, id)
						mu.Unlock()
					}
				})
			}
			for range 3 {
				time.Sleep(200 * time.Millisecond)
				redisServer.stop(t)
				time.Sleep(200 * time.Millisecond)
				redisServer.back(t)
			}
			redisServer.stop(t)
			time.Sleep(100 * time.Millisecond)
			close(stop)
			running.Wait()
			if l.Waiting() == 0 {
				t.Error("nothing waits, although Redis is gone")
			}
			// Where an answer was lost, Redis may have a record that waits.
			most := opening - billing.USD(len(ids)*charge)
			least := most - billing.USD(l.Waiting()*charge)
			if known, err := l.Balance(t.Context(), "alice"); err != nil || known.Amount > most || known.Amount < least {
				t.Errorf("balance %s, %v while Redis is gone, want one from %s to %s", known.Amount, err, least, most)
			}
			redisServer.back(t)
			wantWaiting(t, l, 0)
			wantSettled(t, l, len(ids))
			for _, id := range ids[len(ids)-100:] {
				settle(t, l, id)
			}
			checkKept(t, client, "n", ids)
			wantIdentity(t, client, "n", "alice")
			for range 300 { // what ended while nobody could be told is told at the next opportunity
				if b, err := l.Balance(t.Context(), "alice"); err == nil && b.Held == 0 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			wantHeld(t, l, 0)
			t.Logf("%d records", len(ids))
		})
	}
}

// TestRedisRefusesRecords: errors that Redis answers with, rather than not at
// all, have records wait too.
func TestRedisRefusesRecords(t *testing.T) {
	for _, why := range []string{
		"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
		"OOM command not allowed when used memory > 'maxmemory'.", "CLUSTERDOWN The cluster is down",
		"MISCONF Redis is configured to save RDB snapshots", "NOAUTH Authentication required.", "ERR something else",
	} {
		t.Run(strings.Fields(why)[0], func(t *testing.T) {
			mini := miniredis.RunT(t)
			client := connect(t, &redis.Options{Addr: mini.Addr()})
			l := open(t, client, Options{Namespace: "n", Spool: t.TempDir(), Sync: true})
			declareAlice(t, l)
			settle(t, l, "a")
			mini.SetError(why)
			settle(t, l, "b", "c", "b")
			if l.Waiting() != 2 {
				t.Errorf("%d records wait, want 2", l.Waiting())
			}
			wantSettled(t, l, 3)
			if err := l.Records(t.Context(), billing.RecordFilter{}, func(*billing.Record) bool { return true }); err == nil {
				t.Error("records are listed, although some can't be")
			}
			mini.SetError("")
			wantWaiting(t, l, 0)
			wantSettled(t, l, 3)
			checkKept(t, client, "n", []string{"a", "b", "c"})
		})
	}
}

// pipelineHook stands before a client's pipelines.
type pipelineHook func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook

func (pipelineHook) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (pipelineHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h pipelineHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return h(next)
}

// TestOldTimeoutsTellNothing: many requests wait for Redis when it falls silent, and
// those that give up once it was found to answer again don't make it down once more.
func TestOldTimeoutsTellNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client, Options{Namespace: "n", Timeout: time.Second})
		stopLoops(l)
		ctx := t.Context()
		for _, test := range []struct {
			after  time.Duration
			err    error
			isDown bool
		}{
			{0, os.ErrDeadlineExceeded, false},
			{999 * time.Millisecond, context.DeadlineExceeded, false},
			{time.Second, os.ErrDeadlineExceeded, true},
			{0, io.EOF, true},
		} {
			_ = l.note(ctx, io.EOF)
			if !l.recovered(ctx) {
				t.Fatal("Redis is not taken to be back")
			}
			time.Sleep(test.after)
			if err := l.note(ctx, test.err); err != test.err || l.down.Load() != test.isDown {
				t.Errorf("%v, %v later: down %v", test.err, test.after, l.down.Load())
			}
		}
	})
}

// loser loses the answers to one pipeline.
type loser struct{ next atomic.Bool }

func (l *loser) hook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if !l.next.Swap(false) {
			return err
		}
		for _, cmd := range cmds {
			cmd.SetErr(os.ErrDeadlineExceeded)
		}
		return os.ErrDeadlineExceeded
	}
}

// TestLostAnswer: Redis has settled the record, but nobody heard.
func TestLostAnswer(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	lost := new(loser)
	client.AddHook(pipelineHook(lost.hook))
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	declareAlice(t, l)
	settle(t, l, "a")
	lost.next.Store(true)
	settle(t, l, "b")
	if mini.HGet("{n}:records:2026-11-24", "b") == "" {
		t.Error("Redis has not settled the record")
	}
	wantWaiting(t, l, 0)
	settle(t, l, "c", "b")
	checkKept(t, client, "n", []string{"a", "b", "c"})
}

// TestLostAnswerOfAClaimRefusedHere: Redis has met the claim, nobody heard, and by what
// this process knew it is refused. What Redis set aside is given back.
func TestLostAnswerOfAClaimRefusedHere(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	if err := l.Declare(t.Context(), []billing.User{{Name: "alice"}}); err != nil {
		t.Fatal(err)
	}
	// Another node, whose credit this one has not heard of.
	other := open(t, connect(t, &redis.Options{Addr: mini.Addr()}), Options{Namespace: "n"})
	if _, _, err := other.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 100, Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Hold(t.Context(), &billing.Claim{ID: "b", Time: time.Now(), User: "alice", Amount: 1, Least: 1}); err != nil {
		t.Fatal(err) // from here on, Redis knows the script
	}
	other.Release(t.Context(), "b")
	lost := new(loser)
	client.AddHook(pipelineHook(lost.hook))
	lost.next.Store(true)
	claim := &billing.Claim{ID: "a", Time: time.Now(), User: "alice", Amount: 100, Least: 100}
	var refusal *billing.Refusal
	if _, err := l.Hold(t.Context(), claim); !errors.As(err, &refusal) {
		t.Fatalf("Hold: %v, want a refusal", err)
	}
	var balance billing.Balance
	for range 500 {
		var err error
		if balance, err = other.Balance(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		if balance.Held == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if want := (billing.Balance{Amount: 100}); balance != want {
		t.Errorf("balance %+v, want %+v", balance, want)
	}
}

// TestRefusedRecordBlocksNobody: a record whose user Redis doesn't know is put
// aside, and settled once the user was declared.
func TestRefusedRecordBlocksNobody(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	options := Options{Namespace: "n", Spool: t.TempDir()}
	l := open(t, client, options)
	declareAlice(t, l)
	mini.SetError("LOADING")
	stranger := exampleOf("s")
	stranger.User = "bob"
	settle(t, l, "a")
	if err := l.Settle(t.Context(), stranger, nil); err != nil {
		t.Fatal(err)
	}
	settle(t, l, "b")
	mini.SetError("")
	wantWaiting(t, l, 0)
	wantSettled(t, l, 2)
	refused := filepath.Join(options.Spool, "0", refusedName)
	if info, err := os.Stat(refused); err != nil || info.Size() == 0 {
		t.Fatalf("no refused record is kept: %v, %v", info, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}

	l = open(t, client, options) // still refused
	if err := l.Declare(t.Context(), []billing.User{{Name: "bob", Balance: opening}}); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if info, err := os.Stat(refused); err == nil && info.Size() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if bob, err := l.Balance(t.Context(), "bob"); err != nil || bob.Amount != opening-charge {
		t.Errorf("bob's balance %s, %v; want %s", bob.Amount, err, opening-charge)
	}
}

// TestRefusedRecordsOfAnotherNode: Redis comes back without its data, this node
// brings its records before anybody has declared their user again, and it is another
// node that does.
func TestRefusedRecordsOfAnotherNode(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	declareAlice(t, l)
	mini.SetError("LOADING")
	settle(t, l, "a", "b")
	mini.FlushAll()
	mini.SetError("")
	wantWaiting(t, l, 0)
	if mini.Exists("{n}:records:2026-11-24") {
		t.Fatal("Redis has taken records of a user whom it did not know")
	}
	declareAlice(t, open(t, client, Options{Namespace: "n"}))
	for range 500 {
		if mini.HGet("{n}:records:2026-11-24", "a") != "" && mini.HGet("{n}:records:2026-11-24", "b") != "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	checkKept(t, client, "n", []string{"a", "b"})
}

func TestSettleWithoutRedisAndSpool(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spool := range []string{"", blocked} {
		mini := miniredis.RunT(t)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		l := open(t, client, Options{Namespace: "n", Spool: spool})
		declareAlice(t, l)
		mini.Close()
		err := l.Settle(t.Context(), exampleOf("a"), nil)
		if err == nil || !strings.Contains(err.Error(), spool) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("Settle: %v, want an error that names the record and %q", err, spool)
		}
		wantSettled(t, l, 0)
		if err := mini.Restart(); err != nil {
			t.Fatal(err)
		}
		for range 500 {
			if err = l.Settle(t.Context(), exampleOf("a"), nil); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		checkKept(t, client, "n", []string{"a"})
	}
}

// TestClosedWhileRecordsWait: Close says what waits, and the next ledger, under
// another working directory, settles it.
func TestClosedWhileRecordsWait(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	t.Chdir(t.TempDir())
	l := open(t, client, Options{Namespace: "n", Spool: "spool"})
	declareAlice(t, l)
	spool := l.spool.dir
	t.Chdir(t.TempDir())
	mini.Close()
	settle(t, l, "a", "b")
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "2 records wait") || !strings.Contains(err.Error(), spool) {
		t.Errorf("Close: %v, want an error that says that 2 records wait in %s", err, spool)
	}
	if err := l.Settle(t.Context(), exampleOf("c"), nil); !errors.Is(err, billing.ErrClosed) {
		t.Errorf("Settle: %v, want ErrClosed", err)
	}
	if err := mini.Restart(); err != nil {
		t.Fatal(err)
	}
	l = open(t, client, Options{Namespace: "n", Spool: spool})
	declareAlice(t, l)
	wantWaiting(t, l, 0)
	checkKept(t, client, "n", []string{"a", "b"})
}

// TestServerForgetsItsScripts as a server does that was started anew.
func TestServerForgetsItsScripts(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	declareAlice(t, l)
	forget := func() {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, l, "a")
	forget()
	settle(t, l, "b")
	if l.Waiting() != 0 {
		t.Errorf("%d records wait", l.Waiting())
	}
	mini.SetError("OOM")
	ids := []string{"a", "b"}
	for i := range 3 * drainBatch {
		id := fmt.Sprint(i)
		settle(t, l, id)
		ids = append(ids, id)
	}
	mini.SetError("")
	forget()
	wantWaiting(t, l, 0)
	checkKept(t, client, "n", ids)
}

// TestManyNodesSettleTheSame: of several ledgers over one Redis, one charges.
func TestManyNodesSettleTheSame(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprintf("%03d", i))
	}
	var nodes sync.WaitGroup
	for range 3 {
		l := open(t, client, Options{Namespace: "n"})
		declareAlice(t, l)
		nodes.Go(func() {
			for _, id := range ids {
				if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	nodes.Wait()
	slices.Reverse(ids)
	checkKept(t, client, "n", ids)
}
