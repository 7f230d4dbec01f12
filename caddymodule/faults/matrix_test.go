package faults_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
		return status >= 300 && status != 401 && status != 429
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
	// refuses: the gateway's own question gets the answer that requests get.
	refuses bool
	user    string
	want    []wantRecord
	until   time.Time // when the account's mark ends

	mu        sync.Mutex
	reply     simulator.Reply // of the account, to requests
	asked     int             // requests that reached it
	counted   int             // requests for a count of tokens that did
	questions int             // the gateway's own that did
}

// wantRecord is what the record of a request must say.
type wantRecord struct {
	id       string
	status   int
	attempts int
	input    int64
	// input -1 is any. output is exact, or with estimated at least that and at most
	// double; -1 is any.
	output    int64
	cacheRead int64
	estimated bool
}

func (c *cell) name() string {
	pool := "alone"
	if c.pair {
		pool = "with a spare"
	}
	if c.refuses {
		pool += ", refusing the question"
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
// hold up the next request. With one more the gateway's question, which may hold
// one for a moment longer, sends no request to the spare.
func (c *cell) account() string {
	base, slots := c.base, 1
	if base == "" {
		base = "SIM"
	}
	if c.pair && c.asksItself() {
		slots = 2
	}
	return fmt.Sprintf("account %[1]s%[2]s {\n"+credentials[c.kind].words+"\nbase_url %[4]s\npriority 1\nconcurrency %[5]d\nmodels {\n%[2]s*\n}\n}\n",
		accountName, c.place(), c.credential(), base, slots)
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
	for _, f := range slices.Concat(refusals(), breaks(closed), errorEvents(), endings(), oddUse()) {
		for kind := range credentials {
			for _, stream := range []bool{false, true} {
				if f.only != both && (f.only == streams) != stream {
					continue
				}
				for _, pair := range []bool{false, true} {
					c := &cell{fault: f, n: len(cells), kind: kind, stream: stream, pair: pair}
					cells = append(cells, c)
					if c.asksItself() {
						cells = append(cells, &cell{fault: f, n: len(cells), kind: kind, stream: stream, pair: pair, refuses: true})
					}
				}
			}
		}
	}
	const workers = 24
	g := serve(t, simulator.Config{Keep: 10}, "INFO", matrixConfig(t, cells, workers))
	g.follow()
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
		error_retry %s
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
	`, overloadCooldown, rateLimitCooldown, errorRetry, attempts)
	return out.String() + users(workers, 1)
}
