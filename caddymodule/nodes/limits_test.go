package nodes_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

func TestLimitsHoldOverAllNodes(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	f := launch(t, over(t, redistest.Start(t), accounts("a", 6, 2, sonnet)))
	load := f.begin(60, f.nodes...)
	gatewaytest.Within(t, 10*time.Second, "all slots are in use", func() bool { return f.inFlight("a", 6) == 12 })
	time.Sleep(2 * time.Second)
	load.end(t)
	f.wantMost("under load", "a", 6, 2)
	f.wantFree(places("a", 6)...)
	f.wantLedger(time.Time{})
}

// conversations are sessions whose turns go to one gateway after the other.
type conversations struct {
	f     *fleet
	count int
	model string

	mu     sync.Mutex
	turns  int
	failed []answer
}

// take has every session take n more turns, all sessions at the same time.
func (c *conversations) take(n int) {
	var all sync.WaitGroup
	for i := range c.count {
		all.Go(func() {
			for turn := range n {
				a := c.f.ask(c.f.nodes[(i+c.turns+turn)%len(c.f.nodes)], question{
					model: c.model, session: fmt.Sprintf("conversation-%d", i), stream: turn%2 == 0,
				})
				if !a.whole() {
					c.mu.Lock()
					c.failed = append(c.failed, a)
					c.mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	c.turns += n
}

// served are the sessions by the credentials that they were sent with since
// measure.
func (c *conversations) served() map[string]map[string]int {
	out := map[string]map[string]int{}
	for _, r := range c.f.sim.Requests() {
		session := r.Header.Get("X-Claude-Code-Session-Id")
		if r.Model != c.model {
			continue
		}
		if out[session] == nil {
			out[session] = map[string]int{}
		}
		out[session][r.Credential]++
	}
	return out
}

// wantPut fails the test unless every session has stayed at the account that home
// names, or at one at all where it names none. It returns where they are.
func (c *conversations) wantPut(when string, home map[string]string) map[string]string {
	c.f.t.Helper()
	if len(c.failed) > 0 {
		c.f.t.Errorf("%s: %d turns failed:%s", when, len(c.failed), gatewaytest.List(c.failed))
		c.failed = nil
	}
	now, moved := map[string]string{}, []string{}
	for session, counts := range c.served() {
		for account := range counts {
			now[session] = account
			if len(counts) > 1 || home[session] != "" && home[session] != account {
				moved = append(moved, fmt.Sprintf("%s: was at %q, is at %v", session, home[session], counts))
				break
			}
		}
	}
	if len(moved) > 0 {
		c.f.t.Errorf("%s: %d of %d sessions changed their account:%s", when, len(moved), c.count, gatewaytest.List(moved))
	}
	if len(now) != c.count {
		c.f.t.Errorf("%s: %d of %d sessions went upstream", when, len(now), c.count)
	}
	return now
}

func TestSessionsStayPutOverAllNodes(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	f := launch(t, over(t, redistest.Start(t), accounts("s", 6, 30, haiku)))
	talk := conversations{f: f, count: 30, model: haiku}
	talk.take(10)
	home := talk.wantPut("in ten turns at three gateways", nil)
	used := map[string]bool{}
	for _, account := range home {
		used[account] = true
	}
	if len(used) != 6 {
		t.Errorf("30 sessions are on %d of 6 accounts", len(used))
	}
	f.wantFree(places("s", 6)...)
	f.wantLedger(time.Time{})
}
