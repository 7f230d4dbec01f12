package faults_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2/option"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// attempts are the tests' setting of retry: how often the same account is asked
// again.
const attempts = 2

// credentials are the kinds of account: the words of each, and whether it asks
// again itself after a status. codes is an api_key account with error_codes.
var credentials = []struct {
	name, words string
	again       func(status int) bool
}{
	{"key", "api_key %s", func(int) bool { return false }},
	{"codes", "error_codes 401 429\napi_key %s", func(status int) bool {
		return status >= 400 && status != 401 && status != 429
	}},
	{"oauth", "oauth {\naccess_token %s\n}", func(status int) bool { return status == 403 }},
	{"setup", "setup_token %s", func(status int) bool { return status == 403 }},
}

// backup is what the spare accounts say.
var backup = simulator.Reply{
	Text: strings.Repeat("spare ", 80), Deltas: 10,
	Usage: &upstream.Usage{Input: 7000, Output: 300}, StartUsage: &upstream.Usage{Input: 7000, Output: 1},
}

// cell is one fault, on one kind of account, for one kind of request, alone or
// with a spare account.
type cell struct {
	fault
	g      *gateway
	t      *testing.T
	n      int // of the cell
	kind   int // of credentials
	stream bool
	pair   bool
	user   string
	want   []wantRecord
}

// wantRecord is what the record of a request must say.
type wantRecord struct {
	id       string
	status   int
	attempts int
	input    int64
	// output is exact, or with estimated at least that and at most double.
	output    int64
	estimated bool
}

func (c *cell) name() string {
	pool := "alone"
	if c.pair {
		pool = "with a spare"
	}
	return fmt.Sprintf("%s/%s, stream %t, %s", c.fault.name, credentials[c.kind].name, c.stream, pool)
}

func (c *cell) credential() string { return upstreamSecret + c.place() }

// place names the cell's account and begins its models' names.
func (c *cell) place() string {
	if c.pair {
		return fmt.Sprintf("pair%d-", c.n)
	}
	return fmt.Sprintf("solo%d-", c.n)
}

// account is the cell's in the config. One slot: an answer that kept it would
// hold up the next request.
func (c *cell) account() string {
	base := c.base
	if base == "" {
		base = "SIM"
	}
	return fmt.Sprintf("account %[1]s%[2]s {\n"+credentials[c.kind].words+"\nbase_url %[4]s\npriority 1\nconcurrency 1\nmodels {\n%[2]s*\n}\n}\n",
		accountName, c.place(), c.credential(), base)
}

// TestFaults is the matrix: every fault, on every kind of account, for streamed
// and other requests, alone and with a spare account.
func TestFaults(t *testing.T) {
	leaks := watchLeaks(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	closed := "http://" + listener.Addr().String()
	var cells []*cell
	for _, f := range append(append(append(refusals(), breaks(closed)...), errorEvents()...), endings()...) {
		for kind := range credentials {
			for _, stream := range []bool{false, true} {
				for _, pair := range []bool{false, true} {
					if f.only == both || (f.only == streams) == stream {
						cells = append(cells, &cell{fault: f, n: len(cells), kind: kind, stream: stream, pair: pair})
					}
				}
			}
		}
	}
	const workers = 24
	g := serve(t, simulator.Config{Keep: 10}, quiet, matrixConfig(t, cells, workers))
	g.sim.Set("", simulator.Always(spoken))
	g.sim.Set(upstreamSecret+"spare", simulator.Always(backup))
	runAll(g, cells, workers)
	g.waitUpstream("all answers are over", func() bool {
		for _, c := range cells {
			if g.sim.Account(c.credential()).InFlight > 0 {
				return false
			}
		}
		return g.sim.Account(upstreamSecret+"spare").InFlight == 0
	})
	records := g.records()
	for _, c := range cells {
		c.checkRecords(records)
	}
	if len(records) == 0 {
		t.Error("no records")
	}
	g.sim.Close()
	leaks.check()
}

// runAll runs each cell as a test of its own, as many at a time as there are
// workers: most of them wait for a time-out.
func runAll(g *gateway, cells []*cell, workers int) {
	var done sync.WaitGroup
	next := make(chan *cell)
	for i := range workers {
		done.Go(func() {
			for c := range next {
				g.parent.(*testing.T).Run(c.name(), func(t *testing.T) {
					mine := *g
					mine.t = t
					c.t, c.g, c.user = t, &mine, worker(i)
					c.run()
				})
			}
		})
	}
	for _, c := range cells {
		next <- c
	}
	close(next)
	done.Wait()
}

func matrixConfig(t *testing.T, cells []*cell, workers int) string {
	t.Helper()
	var out strings.Builder
	for _, c := range cells {
		out.WriteString(c.account())
	}
	out.WriteString("account acct-spare {\napi_key sk-upstream-spare\nbase_url SIM\nmodels {\npair*\n}\n}\n")
	fmt.Fprintf(&out, `
	scheduling {
		user_wait_timeout 10s
		fallback_wait_timeout 2s
		sticky_wait_timeout 2s
		overload_cooldown %s
		rate_limit_cooldown %s
	}
	retry {
		attempts %d
		delay 1ms
	}
	relay {
		header_timeout 800ms
		answer_timeout 800ms
		first_event_timeout 800ms
		idle_timeout 700ms
	}
	`, overloadCooldown, rateLimitCooldown, attempts)
	return out.String() + users(workers, 1)
}

func (c *cell) ask(model string, fast bool) got {
	c.t.Helper()
	var more []option.RequestOption
	if fast {
		more = append(more, option.WithJSONSet("speed", "fast"))
	}
	// Each conversation is a new one: none is bound to an account.
	text := fmt.Sprintf("%s %s %d", c.place(), model, len(c.want))
	return c.g.ask(context.Background(), c.user, c.place()+model, c.stream, text, more...)
}

// again tells whether the account is asked again before its failure stands.
func (c *cell) again() bool {
	return !c.stays && credentials[c.kind].again(max(c.sent, c.reply.Status))
}

func (c *cell) run() {
	c.g.sim.Set(c.credential(), simulator.Always(c.reply))
	a := c.ask("opus", c.fast)
	sends := 1
	if c.again() {
		sends += attempts
	}
	if asked := c.g.sim.Account(c.credential()).Messages; c.base == "" && asked != sends {
		c.t.Errorf("the account was asked %d times, want %d", asked, sends)
	}
	if c.pair && !c.stays {
		c.checkWhole(a, &backup)
		c.expect(a, wantRecord{status: 200, attempts: sends + 1, input: 7000, output: 300})
	} else {
		c.checkAnswer(a)
		c.expectFault(a, sends)
	}
	c.g.sim.Set(c.credential(), simulator.Always(spoken))
	if c.base == "" {
		c.checkState()
	}
}

// checkAnswer looks at what a client got whose answer the fault is.
func (c *cell) checkAnswer(a got) {
	c.t.Helper()
	switch {
	case c.broken:
		if a.status != 200 || a.kind != c.fault.kind || a.stop != "" && !c.known || !strings.HasPrefix(spoken.Text, a.text) {
			c.t.Errorf("got %+v, want an answer that ends with %s", a, c.fault.kind)
		}
	case c.status == 200:
		c.checkWhole(a, &spoken)
	case a.status != c.status || c.fault.kind != "" && a.kind != c.fault.kind:
		c.t.Errorf("got %d %s, want %d %s: %s", a.status, a.kind, c.status, c.fault.kind, a.raw)
	case c.fault.kind == "" && a.raw != string(c.reply.Body):
		c.t.Errorf("got %q, want upstream's %q", a.raw, c.reply.Body)
	case a.final != c.final:
		c.t.Errorf("x-should-retry: false is %t, want %t", a.final, c.final)
	}
	if c.status != 200 {
		c.checkAfter(a, c.after)
	}
	if a.id == "" {
		c.t.Error("no request-id")
	}
}

// checkAfter compares retry-after with what is left of a time. The long ones are to
// a moment that was chosen when the test began, which may be a while ago.
func (c *cell) checkAfter(a got, want time.Duration) {
	c.t.Helper()
	seconds, _ := strconv.ParseFloat(a.after, 64)
	have := time.Duration(seconds * float64(time.Second))
	slack := 15 * time.Second
	if want >= 10*time.Minute {
		slack = 2 * time.Minute
	}
	if have > want+2*time.Second || have < want-slack || want > 0 && have <= 0 && want > 15*time.Second {
		c.t.Errorf("retry-after %q, want about %v", a.after, want)
	}
}

func (c *cell) checkWhole(a got, r *simulator.Reply) {
	c.t.Helper()
	text := r.Text
	if c.reply.Text == "" && r == &spoken { // its own words
		text = a.text
	}
	if c.reply.Fault.Kind == simulator.HugeLine && r == &spoken {
		if len(a.text) < 1<<20 || a.stop != "end_turn" {
			c.t.Errorf("%d bytes of text, stop %q", len(a.text), a.stop)
		}
		return
	}
	if a.status != 200 || a.kind != "" || a.stop != "end_turn" || a.text != text || text == "" {
		c.t.Errorf("got %+v, want one whole answer of %d bytes", a, len(r.Text))
	}
}

// checkState asks again: the account is well by now, if only it is asked.
func (c *cell) checkState() {
	c.t.Helper()
	state := c.state
	if credentials[c.kind].name == "codes" && c.again() { // not a status that counts
		state = in
	}
	c.expectServed("opus", c.fast, state == in)
	switch state {
	case outModel, outOpus:
		c.expectServed("haiku", c.fast, true)
	case outFast:
		c.expectServed("opus", false, true)
	case out, inError, inNextMonth:
		c.expectServed("haiku", false, false)
	}
}

// expectServed asks for a model: its account answers, or is out.
func (c *cell) expectServed(model string, fast, serves bool) {
	c.t.Helper()
	before := c.g.sim.Account(c.credential()).Messages
	a := c.ask(model, fast)
	asked := c.g.sim.Account(c.credential()).Messages - before
	switch {
	case serves:
		if asked != 1 {
			c.t.Errorf("%s: the account was asked %d times more", model, asked)
		}
		c.checkRecovered(a)
	case asked != 0:
		c.t.Errorf("%s: the account was asked, it should be out", model)
	case c.pair:
		c.checkWhole(a, &backup)
		c.expect(a, wantRecord{status: 200, attempts: 1, input: 7000, output: 300})
	default:
		c.checkOut(a)
	}
}

func (c *cell) checkRecovered(a got) {
	c.t.Helper()
	if a.status != 200 || a.kind != "" || a.text != spoken.Text {
		c.t.Errorf("the account answers, the client got %+v", a)
	}
	c.expect(a, wantRecord{status: 200, attempts: 1, input: 1000, output: 100})
}

// checkOut looks at the refusal of a client whose only account is out: its
// retry-after tells until when.
func (c *cell) checkOut(a got) {
	c.t.Helper()
	if a.status != http.StatusServiceUnavailable || a.kind != "overloaded_error" {
		c.t.Errorf("got %d %s, want 503 overloaded_error", a.status, a.kind)
	}
	want := c.outFor
	switch c.state {
	case inError:
		want = time.Minute // no reset is known
	case inNextMonth:
		year, month, _ := time.Now().UTC().Date()
		want = time.Until(time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC))
	}
	c.checkAfter(a, want)
	if a.final != (want > time.Minute) {
		c.t.Errorf("x-should-retry: false is %t with retry-after %s", a.final, a.after)
	}
}

func (c *cell) expect(a got, want wantRecord) {
	want.id = a.id
	c.want = append(c.want, want)
}

// expectFault expects the record of a request whose answer the fault is.
func (c *cell) expectFault(a got, sends int) {
	want := wantRecord{status: c.status, attempts: sends}
	switch {
	case c.reply.Fault.Kind == simulator.HugeLine:
		want.input, want.output = 1000, 100
	case c.status != 200:
	case c.broken && !c.known:
		// Eight bytes a delta and four bytes a token.
		want.input, want.output, want.estimated = 1000, max(1, int64(len(a.text)/4)), true
	case c.reply.Usage != nil:
		want.input, want.output = 1000, 100
	default: // an answer of the simulator's own words
		want.input, want.output = -1, -1
	}
	c.expect(a, want)
}
