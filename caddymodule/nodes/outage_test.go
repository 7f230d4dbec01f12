package nodes_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// settled is how long after Redis is back limits must be exact again.
const settled = 3 * time.Second

func TestServingWhileRedisIsDown(t *testing.T) {
	redistest.Require(t)
	t.Parallel()
	for _, test := range []struct {
		name    string
		options []redistest.Option
		saves   bool // what it will have again
		keeps   bool // what was settled before the server was killed
	}{
		{"and forgets everything", nil, false, false},
		{"and keeps what it wrote", []redistest.Option{redistest.AppendOnly(redistest.EverySecond)}, false, true},
		// All slots are in use then, by requests that have ended since; their records are
		// in the spool still.
		{"and goes back in time", nil, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inLane(t)
			server := redistest.Start(t, test.options...)
			f := launch(t, over(t, server, accounts("a", 6, 3, sonnet)+accounts("s", 4, 60, haiku)))
			usual := lasting(50*time.Millisecond, 150*time.Millisecond)
			talk := conversations{f: f, count: 30, model: haiku}
			talk.take(3) // every gateway knows every session
			home := talk.wantPut("before the outage", nil)
			load := f.begin(40, f.nodes...)
			gatewaytest.Within(t, 10*time.Second, "all slots are in use", func() bool { return f.inFlight("a", 6) == 18 })
			time.Sleep(1500 * time.Millisecond) // each gateway hears of the others twice a second

			if test.saves {
				server.Save()
				time.Sleep(500 * time.Millisecond) // each slot changes hands a few times
			}
			server.Kill()
			killed := time.Now()
			gatewaytest.Within(t, 10*time.Second, "all gateways serve by themselves", f.isDown)
			time.Sleep(time.Second) // until what they had in flight before has ended
			// Each gateway has its share of 3 slots: one.
			f.measure(usual)
			talk.take(3)
			time.Sleep(time.Until(killed.Add(3500 * time.Millisecond)))
			talk.wantPut("while Redis was down", home)
			f.wantMost("while Redis was down", "a", 6, 3)

			server.Restart()
			back := time.Now()
			time.Sleep(settled)
			f.measure(usual)
			talk.take(3)
			time.Sleep(time.Until(back.Add(settled + 2*time.Second)))
			load.end(t)
			talk.wantPut("after the outage", home)
			f.wantMost("after the outage", "a", 6, 3)
			f.wantFree(append(places("a", 6), places("s", 4)...)...)
			since := killed
			if test.keeps { // all of it: the machine has not failed, only the process
				since = time.Time{}
			}
			f.wantLedger(since)
		})
	}
}

// isDown reports whether Redis is out of reach to all gateways, by their logs.
func (f *fleet) isDown() bool {
	return !slices.ContainsFunc(f.nodes, func(n *gatewaytest.Gateway) bool {
		log := n.Log()
		return strings.LastIndex(log, "Redis is out of reach;") <= strings.LastIndex(log, "Redis is back")
	})
}

func TestRefusingWhileRedisIsDown(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	server := redistest.Start(t, redistest.AppendOnly(redistest.EverySecond))
	p := over(t, server, accounts("a", 2, 4, sonnet))
	p.words = "on_outage refuse"
	f := launch(t, p)
	f.measure(lasting(4*time.Second, 4*time.Second))
	var underWay later
	for _, n := range f.nodes {
		underWay.ask(f, n, question{stream: true})
	}
	gatewaytest.Within(t, 3*time.Second, "a stream is under way at each gateway", func() bool { return f.inFlight("a", 2) == 3 })
	time.Sleep(500 * time.Millisecond)
	server.Kill()
	for _, n := range f.nodes {
		for _, stream := range []bool{false, true} {
			a := f.ask(n, question{stream: stream})
			if a.err != nil || a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" ||
				!strings.HasPrefix(a.body, `{"type":"error","error":{"type":"api_error"`) || a.header.Get("Request-Id") == "" {
				t.Errorf("a request while Redis is down: %v, header %v", a, a.header)
			}
		}
	}
	underWay.all.Wait()
	wantWhole(t, underWay.answers)

	f.measure(lasting(50*time.Millisecond, 150*time.Millisecond))
	server.Restart()
	back := time.Now()
	f.wantRecovery(back, 3*time.Second)
	load := f.begin(20, f.nodes...)
	time.Sleep(2 * time.Second)
	load.end(t)
	f.wantMost("after the outage", "a", 2, 4)
	f.wantFree(places("a", 2)...)
	f.wantLedger(time.Time{})
}

// wantRecovery fails the test unless every gateway serves within a time of since.
func (f *fleet) wantRecovery(since time.Time, limit time.Duration) {
	f.t.Helper()
	for _, n := range f.nodes {
		for {
			a := f.ask(n, question{})
			if a.whole() {
				break
			}
			if time.Since(since) > limit {
				f.t.Fatalf("not served again within %v: %v", limit, a)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	took := time.Since(since).Round(time.Millisecond)
	f.t.Logf("all gateways serve again after %v", took)
	if took > limit {
		f.t.Errorf("all gateways serve again after %v only", took)
	}
}

func TestServingWhileRedisIsSilent(t *testing.T) {
	server := redistest.Start(t)
	f := launch(t, over(t, server, accounts("a", 6, 8, sonnet)))
	const upstreams = 100 * time.Millisecond
	f.measure(simulator.Always(simulator.Reply{HeaderDelay: upstreams}))
	load := f.begin(12, f.nodes...) // nobody waits for a slot
	time.Sleep(time.Second)
	server.Pause()
	time.Sleep(3 * time.Second)
	server.Resume()
	time.Sleep(settled)
	f.measure(simulator.Always(simulator.Reply{HeaderDelay: upstreams}))
	time.Sleep(time.Second)
	load.end(t)
	if limit := 3*storeTimeout + upstreams; load.slowest > limit {
		t.Errorf("a request took %v while Redis was silent, more than %v", load.slowest, limit)
	}
	f.wantAtMost("after the silence", "a", 6, 8)
	f.wantFree(places("a", 6)...)
	f.wantLedger(time.Time{})
}
