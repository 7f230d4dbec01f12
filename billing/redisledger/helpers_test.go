package redisledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

const (
	opening = billing.USD(1e15)
	charge  = 1001
)

// loading is what Redis says to everything while it starts.
const loading = "LOADING Redis is loading the dataset in memory"

// today is when the records of exampleOf are of.
var today = time.Now().UTC().Truncate(24 * time.Hour)

// realRedis connects to the server that the tests are given.
func realRedis(t testing.TB) *redis.Client {
	t.Helper()
	url := os.Getenv("SUB2API_TEST_REDIS")
	if url == "" {
		t.Skip("SUB2API_TEST_REDIS names no server")
	}
	options, err := redis.ParseURL(url)
	must(t, err)
	return connect(t, options)
}

func connect(t testing.TB, options *redis.Options) *redis.Client {
	options.ContextTimeoutEnabled = true
	options.MaxRetries, options.DialerRetries = -1, 1 // a server that is gone is found out at once
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return client
}

// namespace is a new one, whose keys are deleted after the test.
func namespace(t testing.TB, client redis.UniversalClient) string {
	name := "test-" + uuid.NewString()
	t.Cleanup(func() { redistest.Clean(t, client, "{"+name+"}:") })
	return name
}

// dialer connects to a miniredis without a network, so that time passes at once in a
// bubble.
func dialer(mini *miniredis.Miniredis) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		conn, err := mini.Dial()
		if err != nil {
			return nil, err
		}
		b := &bufferedConn{Conn: conn}
		b.cond.L = &b.mu
		go b.pump()
		return b, nil
	}
}

// bufferedConn is a connection whose writes don't wait for the other side to read, which
// writes answers itself meanwhile.
type bufferedConn struct {
	net.Conn
	mu     sync.Mutex
	cond   sync.Cond
	buffer []byte
	err    error
}

func (b *bufferedConn) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buffer = append(b.buffer, data...)
	b.cond.Signal()
	return len(data), b.err
}

func (b *bufferedConn) SetDeadline(t time.Time) error    { return b.Conn.SetReadDeadline(t) }
func (b *bufferedConn) SetWriteDeadline(time.Time) error { return nil }

func (b *bufferedConn) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = net.ErrClosed
	b.cond.Signal()
	return b.Conn.Close()
}

// pump ends with Close.
func (b *bufferedConn) pump() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil {
		data := b.buffer
		b.buffer = nil
		if len(data) == 0 {
			b.cond.Wait()
			continue
		}
		b.mu.Unlock()
		_, err := b.Conn.Write(data)
		b.mu.Lock()
		if b.err == nil {
			b.err = err
		}
	}
}

// clientOf is another client of a miniredis of inBubble.
func clientOf(t testing.TB, mini *miniredis.Miniredis) *redis.Client {
	return connect(t, &redis.Options{Addr: "127.0.0.1:6379", Protocol: 2, DisableIdentity: true, Dialer: dialer(mini)})
}

// inBubble runs a test in which time passes at once, and the ledger's loops run when
// the test sleeps, over a miniredis without a network.
func inBubble(t *testing.T, test func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		mini := miniredis.NewMiniRedis()
		t.Cleanup(mini.Close)
		test(t, mini, clientOf(t, mini))
	})
}

// node is a process's ledger, as a test sees it.
type node struct {
	*redisledger.Ledger
	link  *redislink.Link
	logs  *logbook
	spool string
	close func() error // for those who look at its error
}

// open opens a ledger in the namespace n, with a spool of its own.
func open(t testing.TB, client redis.UniversalClient) *node {
	t.Helper()
	return openWith(t, client, redisledger.Options{})
}

func openWith(t testing.TB, client redis.UniversalClient, options redisledger.Options) *node {
	t.Helper()
	if options.Namespace == "" {
		options.Namespace = "n"
	}
	if options.Spool == "" {
		options.Spool = t.TempDir()
	}
	logs := new(logbook)
	options.Logger = slog.New(logs)
	link := redislink.New(client, redislink.Options{Namespace: options.Namespace, Timeout: time.Second, Logger: slog.New(logs)})
	l := redisledger.New(link, options)
	n := &node{Ledger: l, link: link, logs: logs, spool: options.Spool}
	n.close = sync.OnceValue(func() error {
		err := l.Close()
		link.Close()
		return err
	})
	t.Cleanup(func() { _ = n.close() })
	return n
}

// logbook is a logger's, which counts what was said.
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (*logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logbook) WithAttrs([]slog.Attr) slog.Handler     { return b }
func (b *logbook) WithGroup(string) slog.Handler          { return b }
func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line)
	return nil
}

func (b *logbook) count(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (b *logbook) want(t testing.TB, text string, times int) {
	t.Helper()
	if n := b.count(text); n != times {
		b.mu.Lock()
		defer b.mu.Unlock()
		t.Errorf("the log says %q %d times, want %d:\n%s", text, n, times, strings.Join(b.lines, "\n"))
	}
}

// wentBack is what the log says when Redis has lost something.
const wentBack = "Redis has lost what it had acknowledged"

func exampleOf(id string) *billing.Record {
	r := ledgertest.Example(id)
	r.Time = today
	r.Charged = charge
	return r
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// request is of alice's balance, for no more than the amount.
func req(id string, amount billing.USD) *billing.HoldRequest {
	return &billing.HoldRequest{ID: id, User: "alice", Amount: amount, MinAvailable: amount}
}

// setAside makes a hold request of alice's balance.
func (n *node) setAside(id string, amount billing.USD) error {
	_, err := n.Hold(context.Background(), req(id, amount))
	return err
}

func (n *node) wantMet(t testing.TB, id string, amount billing.USD) {
	t.Helper()
	if err := n.setAside(id, amount); err != nil {
		t.Errorf("Hold(%s): %v", id, err)
	}
}

// wantRefused wants a hold request refused; held: for what others have set aside.
func (n *node) wantRefused(t testing.TB, id string, amount billing.USD, held bool) {
	t.Helper()
	var refusal *billing.Refusal
	if err := n.setAside(id, amount); !errors.As(err, &refusal) || refusal.Temporary != held {
		t.Errorf("Hold(%s): %v, want a refusal, for what is set aside: %v", id, err, held)
	}
}

// wantHeld checks what is set aside of alice's balance.
func (n *node) wantHeld(t testing.TB, want billing.USD) {
	t.Helper()
	if b, err := n.Balance(context.Background(), "alice"); err != nil || b.Held != want {
		t.Errorf("%s is set aside, %v; want %s", b.Held, err, want)
	}
}

// wantBalance checks alice's balance.
func (n *node) wantBalance(t testing.TB, want billing.USD) {
	t.Helper()
	if b, err := n.Balance(context.Background(), "alice"); err != nil || b.Amount != want {
		t.Errorf("balance %s, %v; want %s", b.Amount, err, want)
	}
}

// wantSettled checks alice's balance after that many records.
func (n *node) wantSettled(t testing.TB, records int) {
	t.Helper()
	n.wantBalance(t, opening-billing.USD(records*charge))
}

func (n *node) declareAlice(t testing.TB) {
	t.Helper()
	must(t, n.Declare(context.Background(), []billing.User{{Name: "alice", Balance: opening}}))
}

func (n *node) settle(t testing.TB, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, n.Settle(context.Background(), exampleOf(id), nil))
	}
}

// holdIn makes a hold request in the round trip of another command, and returns what came of
// it.
func (n *node) holdIn(c *billing.HoldRequest, guard redislink.Guard, queue func(redis.Pipeliner)) (payer billing.Payer, answered bool, err error) {
	along, answer := n.HoldIn(c)
	n.travel(along, guard, queue)
	return answer()
}

func (n *node) travel(along roundtrip.Batch, guard redislink.Guard, queue func(redis.Pipeliner)) {
	ctx := context.Background()
	_ = n.link.Exec(ctx, guard, along, func(pipe redis.Pipeliner) {
		pipe.Get(ctx, "anything")
		if queue != nil {
			queue(pipe)
		}
	})
}

// wantWaiting waits until that many records wait.
func (n *node) wantWaiting(t testing.TB, records int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d records wait", records), func() bool { return n.Waiting() == records })
}

// eventually waits for something, up to 15 s.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 1500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("in 15 s, it did not happen that %s", what)
}

// recordsIn are the IDs of the records in Redis, in order of Records.
func recordsIn(t testing.TB, n *node, filter billing.RecordFilter) (ids []string) {
	t.Helper()
	must(t, n.Records(context.Background(), filter, func(r *billing.Record) bool {
		ids = append(ids, r.ID)
		return true
	}))
	return ids
}

// checkKept checks in Redis itself that these records, and no others, are there,
// each once, and that alice was charged for each.
func checkKept(t testing.TB, client redis.UniversalClient, ids []string) {
	t.Helper()
	l := open(t, client)
	defer l.close()
	kept := make(map[string]int)
	for _, id := range recordsIn(t, l, billing.RecordFilter{}) {
		kept[id]++
	}
	for _, id := range ids {
		if kept[id] != 1 {
			t.Errorf("record %s is there %d times", id, kept[id])
		}
	}
	if len(kept) != len(ids) {
		t.Errorf("%d records, want %d", len(kept), len(ids))
	}
	l.wantSettled(t, len(ids))
}

// wantIdentity checks that a user's money in Redis can be explained: what was charged
// is what was credited less what is left.
func wantIdentity(t testing.TB, client redis.UniversalClient, name string) {
	t.Helper()
	ctx := context.Background()
	user, err := client.HGetAll(ctx, "{n}:user:"+name).Result()
	must(t, err)
	number := func(text string) int64 {
		if text == "" {
			return 0
		}
		n, err := strconv.ParseInt(text, 10, 64)
		must(t, err)
		return n
	}
	want := number(user["opening"]) + number(user["opened"]) + number(user["forgiven"]) - number(user["pruned"])
	for n := range max(number(user["number"]), 1) {
		key := "{n}:credits:" + name
		if n > 0 {
			key = fmt.Sprintf("{n}:credits_of:%d:%s", n+1, name)
		}
		credits, err := client.HVals(ctx, key).Result()
		must(t, err)
		for _, credit := range credits {
			amount, _, _ := strings.Cut(credit, " ")
			want += number(amount)
		}
	}
	l := open(t, client)
	defer l.close()
	must(t, l.Records(ctx, billing.RecordFilter{User: name}, func(r *billing.Record) bool {
		if r.Billing == billing.PaidFromBalance {
			want -= int64(r.Charged)
		}
		return true
	}))
	if balance := number(user["balance"]); balance != want {
		t.Errorf("%s has %d; the records, credits and openings say %d", name, balance, want)
	}
}

// sizeOf is the size of a file of a spool, 0 if it is not there.
func sizeOf(spool string, name ...string) int64 {
	info, err := os.Stat(filepath.Join(append([]string{spool}, name...)...))
	if err != nil {
		return 0
	}
	return info.Size()
}

// roundTrips counts those of a client that run a script or read data.
type roundTrips struct{ count atomic.Int64 }

func (r *roundTrips) hook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.count.Add(1)
		return next(ctx, cmds)
	}
}

func (r *roundTrips) want(t *testing.T, what string, want int64) {
	t.Helper()
	if got := r.count.Swap(0); got != want {
		t.Errorf("%s: %d round trips, want %d", what, got, want)
	}
}

// pipelineHook stands before a client's pipelines, which all of a link's commands are.
type pipelineHook func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook

func (pipelineHook) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (pipelineHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h pipelineHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return h(next)
}

// isScript reports whether commands are those of a ledger or link, and no begin of a
// connection.
func isScript(cmds []redis.Cmder) bool {
	for _, cmd := range cmds {
		if strings.HasPrefix(cmd.Name(), "eval") {
			return true
		}
	}
	return false
}

// before has f called before each round trip with a script; its error ends it.
func before(client *redis.Client, f func(ctx context.Context) error) {
	client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
		return func(ctx context.Context, cmds []redis.Cmder) error {
			if isScript(cmds) {
				if err := f(ctx); err != nil {
					return fail(cmds, err)
				}
			}
			return next(ctx, cmds)
		}
	}))
}

func fail(cmds []redis.Cmder, err error) error {
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return err
}

// loser loses the answers to the next script.
type loser struct{ next atomic.Bool }

func (l *loser) hook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if !isScript(cmds) || !l.next.Swap(false) {
			return err
		}
		return fail(cmds, os.ErrDeadlineExceeded)
	}
}

// outage is one that a test begins and ends: no command gets through meanwhile.
type outage struct{ is atomic.Bool }

func outageOf(client *redis.Client) *outage {
	o := new(outage)
	before(client, func(context.Context) error {
		if o.is.Load() {
			return net.ErrClosed
		}
		return nil
	})
	return o
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
