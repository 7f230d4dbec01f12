package crashes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	model     = "claude-sonnet-5-5"
	maxTokens = 64

	// clientCount ask at the same time.
	clientCount = 30
	// patience is how long a client waits for a whole answer.
	patience = 25 * time.Second
	// breather is how long a client that was not served waits before it asks again.
	breather = 60 * time.Millisecond
)

// varied scripts short answers that use something of everything, and no more than
// `hold max` foresees.
func varied(r *simulator.Request) simulator.Reply {
	most := int64(len(r.Body)) / 8
	reply := simulator.Reply{
		Usage: &upstream.Usage{
			Input: rand.Int64N(most), CacheWrite5m: rand.Int64N(most), CacheWrite1h: rand.Int64N(most), CacheRead: rand.Int64N(most),
			Output: 1 + rand.Int64N(maxTokens),
		},
		Deltas: 1 + rand.IntN(6), Pause: rand.N(4 * time.Millisecond),
	}
	if !r.Stream {
		reply.HeaderDelay = rand.N(30 * time.Millisecond)
	}
	return reply
}

// tokens are what an answer used.
type tokens struct {
	input, output, cacheWrite5m, cacheWrite1h, cacheRead int64
}

func tokensOf(r *billing.Record) tokens {
	return tokens{r.Input, r.Output, r.CacheWrite5m, r.CacheWrite1h, r.CacheRead}
}

// answer is what came of a request.
type answer struct {
	user     person
	stream   bool
	hasLeft  bool // the client did, and had meant to
	status   int
	header   http.Header
	body     string
	err      error
	began    time.Time
	consumed tokens // of a whole answer
}

func (a *answer) id() string { return a.header.Get("Request-Id") }

func (a *answer) String() string {
	return fmt.Sprintf("%s of %s, stream %t: status %d, error %v: %.500q", a.id(), a.user.name, a.stream, a.status, a.err, a.body)
}

// whole reports whether the client has all of the answer, even if the connection
// broke after that, and reads what the answer used.
func (a *answer) whole() bool {
	if a.status != http.StatusOK {
		return false
	}
	if !a.stream {
		a.consumed.add(gjson.Get(a.body, "usage"))
		return a.err == nil && json.Valid([]byte(a.body))
	}
	for line := range strings.Lines(a.body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			a.consumed.add(gjson.Get(data, "message.usage"))
			a.consumed.add(gjson.Get(data, "usage"))
		}
	}
	return strings.Contains(a.body, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
}

// add takes in what an answer says that it has used up to now.
func (t *tokens) add(usage gjson.Result) {
	for path, into := range map[string]*int64{
		"input_tokens": &t.input, "output_tokens": &t.output, "cache_read_input_tokens": &t.cacheRead,
		"cache_creation.ephemeral_5m_input_tokens": &t.cacheWrite5m, "cache_creation.ephemeral_1h_input_tokens": &t.cacheWrite1h,
	} {
		if said := usage.Get(path); said.Exists() {
			*into = said.Int()
		}
	}
}

// What came of a request: what whole is not.
const (
	served      = "whole"
	walkedAway  = "left"
	cutOff      = "cut"         // no answer, or no end of it
	outOfMoney  = "429"         // the poor one
	unavailable = "503"         // in the API's envelope
	failedLate  = "error event" // in a stream that had begun
	strange     = "strange"
)

func (a *answer) outcome() string {
	switch {
	case a.whole():
		return served
	case a.hasLeft:
		return walkedAway
	case a.err != nil:
		return cutOff
	case a.status == http.StatusTooManyRequests && a.user == poor && a.errorType() == "billing_error":
		return outOfMoney
	case a.status == http.StatusServiceUnavailable && a.errorType() == "api_error" && a.header.Get("Retry-After") != "" && a.id() != "":
		return unavailable
	case a.status == http.StatusOK && a.stream && strings.Count(a.body, "event: error\n") == 1 && strings.HasSuffix(a.body, "\n\n"):
		return failedLate
	}
	return strange
}

// errorType is what the API's envelope says; "" if there is none.
func (a *answer) errorType() string {
	if gjson.Get(a.body, "type").Str != "error" || gjson.Get(a.body, "request_id").Str != a.id() {
		return ""
	}
	return gjson.Get(a.body, "error.type").Str
}

// clients ask the gateways, each one question after the other, streamed and not.
// Some leave early.
type clients struct {
	t        *testing.T
	sim      *simulator.Server
	http     *http.Client
	gateways []*gatewaytest.Gateway
	solvent  bool // no balance may go below zero
	running  sync.WaitGroup
	stop     context.CancelFunc

	mu      sync.Mutex
	read    map[string]*answer // those read whole, by id
	counts  map[string]int     // by outcome
	unasked []*answer          // outcomes that may not be
}

func newClients(t *testing.T) *clients {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{Keep: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	sim.Set("", varied)
	c := &clients{
		t: t, sim: sim, read: map[string]*answer{}, counts: map[string]int{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clientCount, DisableCompression: true}},
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// begin has them ask. allowed are the outcomes that may be, beside those of a
// gateway that works and is killed.
func (c *clients) begin(allowed ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.t.Cleanup(c.running.Wait)
	c.t.Cleanup(cancel)
	may := map[string]bool{served: true, walkedAway: true, cutOff: true, outOfMoney: true}
	for _, outcome := range allowed {
		may[outcome] = true
	}
	for range clientCount {
		c.running.Go(func() {
			for ctx.Err() == nil {
				var leave time.Duration
				if rand.IntN(6) == 0 {
					leave = 1 + rand.N(60*time.Millisecond)
				}
				a := c.ask(people[rand.IntN(len(people))], rand.IntN(2) == 0, leave)
				if c.take(a, may) != served {
					time.Sleep(breather)
				}
			}
		})
	}
}

// ask sends a request to one of the gateways and reads the answer, or leaves after
// a time; 0 = stays.
func (c *clients) ask(user person, stream bool, leave time.Duration) *answer {
	a := &answer{user: user, stream: stream, began: time.Now()}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if leave > 0 {
		defer time.AfterFunc(leave, cancel).Stop()
	}
	defer func() { a.hasLeft = leave > 0 && ctx.Err() == context.Canceled }()
	body := fmt.Sprintf(`{"model":"%s","max_tokens":%d,"stream":%t,"messages":[{"role":"user","content":"%s"}]}`,
		model, maxTokens, stream, strings.Repeat("word ", 10+rand.IntN(500)))
	at := c.gateways[rand.IntN(len(c.gateways))]
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+"/v1/messages", strings.NewReader(body))
	if err != nil {
		a.err = err
		return a
	}
	request.Header.Set("X-Api-Key", user.key())
	response, err := c.http.Do(request)
	if err != nil {
		a.err = err
		return a
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	a.status, a.header, a.body, a.err = response.StatusCode, response.Header, string(read), err
	return a
}

func (c *clients) take(a *answer, may map[string]bool) (outcome string) {
	outcome = a.outcome()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[outcome]++
	switch {
	case !may[outcome]:
		c.unasked = append(c.unasked, a)
	case outcome == served:
		if c.read[a.id()] != nil {
			c.unasked = append(c.unasked, a)
		}
		a.body = ""
		c.read[a.id()] = a
	}
	return outcome
}

// end ends the asking, in the midst of nothing, and says what came of it.
func (c *clients) end() {
	c.t.Helper()
	c.stop()
	c.running.Wait()
	if len(c.unasked) > 0 {
		c.t.Errorf("%d answers should not have been:%s", len(c.unasked), gatewaytest.List(c.unasked))
	}
	c.t.Logf("requests by what came of them: %v", c.counts)
}

// count is how often an outcome was had.
func (c *clients) count(outcome string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[outcome]
}

// promises are the answers that were read whole until now.
func (c *clients) promises() map[string]*answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.read)
}

// wantServed waits until somebody who asks from now on is served.
func (c *clients) wantServed(when string, limit time.Duration) {
	c.t.Helper()
	began := time.Now()
	gatewaytest.Within(c.t, limit, "requests are served "+when, func() bool {
		for _, a := range c.promises() {
			if a.began.After(began) {
				return true
			}
		}
		return false
	})
	c.t.Logf("requests are served %s, %v later", when, time.Since(began).Round(time.Millisecond))
}
