package nodes_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	namespace = "fleet"
	sonnet    = "claude-sonnet-5-5"
	haiku     = "claude-haiku-4-5"
	opus      = "claude-opus-4-5"

	users = 4 // u0 to u3, each with 1000 dollars and no limit of slots
	// storeTimeout is after how long the gateways take Redis for out of reach.
	storeTimeout = 500 * time.Millisecond
	// patience is how long a client waits for a whole answer.
	patience = 25 * time.Second
)

// plan is what a fleet is made of.
type plan struct {
	// urls are those of the store, client what the test itself reaches it with.
	urls   []string
	client redis.UniversalClient
	// words are more lines of the store's block.
	words string
	// accounts and more are blocks of the directive. SIM stands for the URL of the
	// simulated upstream.
	accounts, more string
	// Default: namespace, and three gateways.
	namespace string
	gateways  int
}

// over plans a fleet over one server.
func over(t testing.TB, server *redistest.Server, accounts string) plan {
	t.Helper()
	options, err := redis.ParseURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return plan{urls: []string{server.URL}, client: redis.NewClient(options), accounts: accounts}
}

// accounts are n of them that serve a model, with some slots each.
func accounts(prefix string, n, slots int, model string) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "account %s%d {\napi_key %s\nbase_url SIM\nconcurrency %d\nmodels {\n%s\n}\n}\n",
			prefix, i, credential(prefix, i), slots, model)
	}
	return out.String()
}

// credential is what the simulator knows an account by.
func credential(prefix string, i int) string { return fmt.Sprintf("sk-upstream-%s%d", prefix, i) }

// fleet is gateways over one store, before one upstream.
type fleet struct {
	t      testing.TB
	sim    *simulator.Server
	client redis.UniversalClient
	nodes  []*gatewaytest.Gateway
	http   *http.Client

	mu       sync.Mutex
	answered map[string]time.Time // whole answers: when each request-id's came
}

// launch starts a fleet, which ends with the test.
func launch(t testing.TB, p plan) *fleet {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{Keep: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	f := &fleet{
		t: t, sim: sim, client: p.client, answered: map[string]time.Time{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}},
	}
	if f.client != nil {
		t.Cleanup(func() { f.client.Close() })
	}
	t.Cleanup(f.http.CloseIdleConnections)
	f.sim.Set("", lasting(50*time.Millisecond, 150*time.Millisecond))
	text := f.caddyfile(p, filepath.Join(t.TempDir(), "spool"))
	for _, name := range []string{"A", "B", "C"}[:cmp.Or(p.gateways, 3)] {
		f.nodes = append(f.nodes, gatewaytest.Start(t, name, text))
	}
	for _, n := range f.nodes {
		n.Wait()
	}
	return f
}

func (f *fleet) caddyfile(p plan, spool string) string {
	var out strings.Builder
	fmt.Fprintf(&out, `{
	admin ADMIN
	persist_config off
	auto_https off
	grace_period 2s
}
SITE {
	sub2api {
		store redis %s {
			namespace %s
			timeout %v
			spool %s
			%s
		}
		%s
		%s
		group default
`, strings.Join(p.urls, " "), cmp.Or(p.namespace, namespace), storeTimeout, spool, p.words, strings.ReplaceAll(p.accounts, "SIM", f.sim.URL), p.more)
	for i := range users {
		fmt.Fprintf(&out, "user u%d {\nbalance 1000\nconcurrency 0\nkey sk-gateway-u%d default\n}\n", i, i)
	}
	return out.String() + "}\n}\n"
}

// lasting scripts answers that take a random time between the two, streamed or
// not.
func lasting(least, most time.Duration) func(*simulator.Request) simulator.Reply {
	return func(r *simulator.Request) simulator.Reply {
		d := least + rand.N(most-least+1)
		if !r.Stream {
			return simulator.Reply{HeaderDelay: d}
		}
		return simulator.Reply{Deltas: 4, Pause: d / 8} // 9 events
	}
}

// question is one request of a client.
type question struct {
	model    string // default: sonnet
	session  string // default: one of its own
	key      string // default: that of the session's user
	stream   bool
	patience time.Duration // default: patience
}

// answer is what came of it.
type answer struct {
	at      *gatewaytest.Gateway
	status  int
	header  http.Header
	body    string
	err     error
	session string
	took    time.Duration
}

func (a answer) String() string {
	return fmt.Sprintf("gateway %s, after %v: status %d, error %v: %.500q", a.at.Name, a.took.Round(time.Millisecond), a.status, a.err, a.body)
}

// whole tells that the answer is complete and no error.
func (a answer) whole() bool {
	if a.err != nil || a.status != http.StatusOK {
		return false
	}
	if strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		return strings.Count(a.body, "event: message_stop") == 1 && strings.HasSuffix(a.body, "\n\n") && !strings.Contains(a.body, "event: error")
	}
	return json.Valid([]byte(a.body))
}

var serial atomic.Int64

// ask sends a request to a gateway and reads the answer to its end.
func (f *fleet) ask(at *gatewaytest.Gateway, q question) (a answer) {
	a = answer{at: at, session: q.session}
	began := time.Now()
	defer func() { a.took = time.Since(began) }()
	if q.model == "" {
		q.model = sonnet
	}
	if q.patience == 0 {
		q.patience = patience
	}
	if a.session == "" {
		a.session = fmt.Sprintf("session-%d", serial.Add(1))
	}
	ctx, cancel := context.WithTimeout(context.Background(), q.patience)
	defer cancel()
	body := fmt.Sprintf(`{"model":"%s","max_tokens":64,"stream":%t,"messages":[{"role":"user","content":"hi"}]}`, q.model, q.stream)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+"/v1/messages", strings.NewReader(body))
	if err != nil {
		a.err = err
		return a
	}
	request.Header.Set("X-Api-Key", cmp.Or(q.key, fmt.Sprintf("sk-gateway-u%d", userOf(a.session))))
	request.Header.Set("X-Claude-Code-Session-Id", a.session)
	response, err := f.http.Do(request)
	if err != nil {
		a.err = err
		return a
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	a.status, a.header, a.body, a.err = response.StatusCode, response.Header, string(read), err
	if a.whole() {
		f.mu.Lock()
		f.answered[a.header.Get("Request-Id")] = time.Now()
		f.mu.Unlock()
	}
	return a
}

// userOf is whose session it is: each has sessions of their own.
func userOf(session string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(session))
	return h.Sum32() % users
}

// load is clients that ask one question after the other.
type load struct {
	clients sync.WaitGroup
	stop    context.CancelFunc

	mu      sync.Mutex
	answers int
	failed  []answer
	slowest time.Duration
}

// begin starts a load of clients at random ones of the gateways, streamed and
// not.
func (f *fleet) begin(clients int, at ...*gatewaytest.Gateway) *load {
	return f.beginAs("", clients, at...)
}

// beginAs is begin, with one key; "" = those of all users.
func (f *fleet) beginAs(key string, clients int, at ...*gatewaytest.Gateway) *load {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	l := &load{stop: cancel}
	f.t.Cleanup(l.clients.Wait)
	f.t.Cleanup(cancel)
	for range clients {
		l.clients.Go(func() {
			for ctx.Err() == nil {
				l.take(f.ask(at[rand.IntN(len(at))], question{stream: rand.IntN(2) == 0, key: key}))
			}
		})
	}
	return l
}

func (l *load) take(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers++
	l.slowest = max(l.slowest, a.took)
	if !a.whole() {
		l.failed = append(l.failed, a)
	}
}

// end ends the load. All of its answers must have been whole ones.
func (l *load) end(t testing.TB) {
	t.Helper()
	l.stop()
	l.clients.Wait()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed:%s", len(l.failed), l.answers, gatewaytest.List(l.failed))
	}
	if l.answers == 0 {
		t.Error("there was no load")
	}
	t.Logf("%d answers, the slowest after %v", l.answers, l.slowest.Round(time.Millisecond))
}

// measure begins to count again what the upstream sees.
func (f *fleet) measure(script func(*simulator.Request) simulator.Reply) {
	f.sim.Reset()
	f.sim.Set("", script)
}

// most is the most that was in flight at each account of a kind since measure.
func (f *fleet) most(prefix string, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = f.sim.Account(credential(prefix, i)).MaxInFlight
	}
	return out
}

// wantAtMost fails the test if more were in flight at an account than it has
// slots.
func (f *fleet) wantAtMost(when, prefix string, n, slots int) {
	f.t.Helper()
	for i, most := range f.most(prefix, n) {
		if most > slots {
			f.t.Errorf("%s: %d requests were in flight at account %s%d, which has %d slots", when, most, prefix, i, slots)
		}
	}
}

// wantMost fails the test unless every account was full, and none more than that.
func (f *fleet) wantMost(when, prefix string, n, slots int) {
	f.t.Helper()
	f.wantAtMost(when, prefix, n, slots)
	for i, most := range f.most(prefix, n) {
		if most < slots {
			f.t.Errorf("%s: at most %d of the %d slots of account %s%d were used", when, most, slots, prefix, i)
		}
	}
}

func total(counts []int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
