package redisstate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
)

func init() { redis.SetLogger(silence{}) }

// silence keeps the client from writing to standard error.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// wire is how one node reaches a server in the same process. It can be cut.
type wire struct {
	server *miniredis.Miniredis
	mu     sync.Mutex
	isCut  bool
	conns  []net.Conn
	// sent counts the round trips.
	sent atomic.Int64
	// still is for how long the node stands still in its next round trip.
	still atomic.Int64
}

// stand has the node stand still, and miss the answer that it waits for.
func (w *wire) stand(err error) error {
	if d := time.Duration(w.still.Swap(0)); d > 0 {
		time.Sleep(d)
		return context.DeadlineExceeded
	}
	return err
}

func (w *wire) dial(context.Context, string, string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut {
		return nil, errors.New("the wire is cut")
	}
	conn, err := w.server.Dial()
	if err == nil {
		w.conns = append(w.conns, conn)
	}
	return conn, err
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	for _, conn := range w.conns {
		conn.Close()
	}
	w.conns = nil
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = false
}

// DialHook and the others implement redis.Hook.
func (w *wire) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w.sent.Add(1)
		return w.stand(next(ctx, cmd))
	}
}

func (w *wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		w.sent.Add(1)
		err := w.stand(next(ctx, cmds))
		if err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// node is a State with its wire.
type node struct {
	*redisstate.State
	*wire
	link *redislink.Link
	t    *testing.T
}

// startNode starts a node of a server's store. With serves it goes on without
// the server.
func startNode(t *testing.T, server *miniredis.Miniredis, serves bool) *node {
	w := &wire{server: server}
	client := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Dialer: w.dial, MaxRetries: -1, DialerRetries: 1, Protocol: 2, DisableIdentity: true,
	})
	client.AddHook(w)
	t.Cleanup(func() {
		client.Close()
		time.Sleep(2 * time.Second) // a pool that could not dial looks once a second whether it was closed
	})
	options := redisstate.Options{Logger: quiet}
	link := redislink.New(client, redislink.Options{Logger: quiet})
	t.Cleanup(link.Close)
	if serves {
		options.Fallback = func(now func() time.Time) scheduler.State { return memstate.NewAt(now) }
	}
	n := &node{redisstate.New(link, options), w, link, t}
	t.Cleanup(func() { n.Close() })
	n.AccountState("") // it begins to listen
	return n
}

func places(limit int, names ...string) *scheduler.Candidates {
	c := &scheduler.Candidates{Pool: "pool"}
	for _, name := range names {
		c.Places = append(c.Places, scheduler.Place{Name: name, Limit: limit})
	}
	return c
}

var lastLease atomic.Int64

func ask(c *scheduler.Candidates, change ...func(*scheduler.Ask)) *scheduler.Ask {
	a := &scheduler.Ask{
		Lease: fmt.Sprint("lease-", lastLease.Add(1)), TTL: time.Minute, Candidates: c, Model: "m",
		BindTTL: time.Hour, StickyMaxWaiting: 3, MaxWaiting: 100,
	}
	for _, f := range change {
		f(a)
	}
	return a
}

func session(name string) func(*scheduler.Ask) { return func(a *scheduler.Ask) { a.Session = name } }

// grant gets a slot at a place.
func (n *node) grant(place string, a *scheduler.Ask) string {
	n.t.Helper()
	if got := n.acquire(a); got.Kind != scheduler.Granted || got.Place != place {
		n.t.Fatalf("got %+v, want a slot at %s", got, place)
	}
	return a.Lease
}

func (n *node) acquire(a *scheduler.Ask) scheduler.Answer {
	n.t.Helper()
	got, err := n.Acquire(context.Background(), a)
	if err != nil {
		n.t.Fatalf("Acquire: %v", err)
	}
	return got
}

func (n *node) release(leases ...string) {
	n.t.Helper()
	if err := n.Release(context.Background(), leases...); err != nil {
		n.t.Fatalf("Release: %v", err)
	}
}

// inUse asserts how many slots are in use at a place.
func (n *node) inUse(place string, want int) {
	n.t.Helper()
	got, err := n.Load(context.Background(), place)
	if err != nil || got.InUse != want {
		n.t.Fatalf("%d in use at %s, want %d; %v", got.InUse, place, want, err)
	}
}

// renew renews leases, as their holder does, and returns those that are lost.
func (n *node) renew(leases ...string) []string {
	n.t.Helper()
	lost, err := n.Renew(context.Background(), leases, time.Minute)
	if err != nil && !errors.Is(err, scheduler.ErrUnavailable) {
		n.t.Fatalf("Renew: %v", err)
	}
	return lost
}

// TestWhatTravelsWithAnAsk has a guard that is there exactly if the slot was granted.
func TestWhatTravelsWithAnAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startNode(t, startMini(t), false)
		user := places(1, "user/u")
		a.release(a.grant("user/u", ask(user))) // the scripts are known now
		var first string
		for _, want := range []bool{true, false} {
			var guarded *redis.BoolCmd
			asked := ask(user)
			asked.Along = roundtrip.Batch{redislink.Operation(func(pipe redis.Pipeliner, guard redislink.Guard) func() {
				guarded = pipe.HExists(context.Background(), guard.Key, guard.Field)
				return nil
			})}
			got, err := a.Acquire(context.Background(), asked)
			if err != nil || guarded == nil || guarded.Err() != nil {
				t.Fatalf("%+v, %v; what travelled along: %v", got, err, guarded)
			}
			if granted := got.Kind == scheduler.Granted; granted != want || guarded.Val() != granted {
				t.Errorf("%+v, and the guard is there: %v", got, guarded.Val())
			}
			if want {
				first = asked.Lease
			} else {
				a.release(asked.Lease)
			}
		}
		a.release(first)
		a.inUse("user/u", 0)
	})
}

// waiting is an ask in line.
type waiting struct {
	lease  string
	cancel context.CancelFunc
	done   chan struct{}
	answer scheduler.Answer
	err    error
	after  time.Duration
}

// line puts an ask in line and awaits it.
func (n *node) line(a *scheduler.Ask) *waiting {
	n.t.Helper()
	if got := n.acquire(a); got.Kind != scheduler.Queued {
		n.t.Fatalf("got %+v, want a place in line", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.t.Cleanup(cancel)
	w := &waiting{lease: a.Lease, cancel: cancel, done: make(chan struct{})}
	began := time.Now()
	go func() {
		defer close(w.done)
		w.answer, w.err = n.Await(ctx, a.Lease)
		w.after = time.Since(began)
	}()
	return w
}

func (n *node) limit(place string, d time.Duration) {
	n.t.Helper()
	_, err := n.Change(context.Background(), place, func(st *scheduler.AccountState) {
		st.Limits = []scheduler.Limit{{Claim: "5h", Until: time.Now().Add(d)}}
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
