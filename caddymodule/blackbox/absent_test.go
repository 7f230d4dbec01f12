package blackbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// An account that has not got a model says so with a 404: the next one is asked,
// and the account comes last for that model for ten minutes.
func TestAModelThatAnAccountHasNotGot(t *testing.T) {
	const absent = `{"type":"error","error":{"type":"not_found_error","message":"model: claude-new"}}`
	notFound := simulator.Reply{Status: 404, Body: []byte(absent)}
	lacks := func(r *simulator.Request) simulator.Reply {
		if r.Model == "claude-new" {
			return notFound
		}
		return simulator.Reply{}
	}
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("one has it, stream %t", stream), func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice+bob)
			g.sim.Set("sk-upstream-a", lacks)
			began := time.Now()
			ask := func(c call, want ...string) {
				t.Helper()
				from := len(g.sim.Requests())
				if a := g.do(c); a.status != 200 {
					t.Errorf("%d %s", a.status, a.body)
				}
				if diff := cmp.Diff(want, g.askedSince(from)); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
			}
			ask(inSession("first", asking("claude-new", stream)), "a", "b")
			ask(inSession("first", asking("claude-new", stream)), "b")
			ask(bobsCall("claude-new"), "b")
			ask(bobsCall("claude-sonnet-5-5"), "a")
			g.eventually("the store knows that", func() bool { return len(g.accountState("acct-a").Demotions) == 1 })
			kept := g.accountState("acct-a").Demotions[0]
			if lasts := kept.Until.Sub(began); kept.Model != "claude-new" || !kept.AnySpeed || kept.Endpoint != scheduler.Messages || lasts < 595*time.Second || lasts > 605*time.Second {
				t.Errorf("kept: %+v", kept)
			}
			// Counting is another thing: it has been asked of no account yet.
			count := inNewSession("claude-new")
			count.path = "/v1/messages/count_tokens"
			a := g.do(count)
			if a.status != 404 || string(a.body) != absent {
				t.Errorf("%d %s", a.status, a.body)
			}
			ask(count, "b")
			// The mark outlives a restart.
			g.restart()
			ask(bobsCall("claude-new"), "b")
			// It ends no one's right to ask: when the other one fails, it is asked.
			g.sim.Queue("sk-upstream-b", simulator.Reply{Status: 529})
			g.sim.Set("sk-upstream-a", nil)
			ask(bobsCall("claude-new"), "b", "a")
			// And its answer clears the mark.
			ask(bobsCall("claude-new"), "a")
		})
		for _, n := range []int{1, 2, 3, 5} {
			t.Run(fmt.Sprintf("none of %d has it, stream %t", n, stream), func(t *testing.T) {
				names := []string{"a", "b", "c", "d", "e"}[:n]
				g := serve(t, simulator.Config{}, accountsInOrder(names, "")+alice+bob)
				g.sim.Set("", lacks)
				a := g.do(inSession("first", asking("claude-new", stream)))
				if a.status != 404 || string(a.body) != absent || a.header.Get("Content-Type") != "application/json" {
					t.Errorf("%d %s", a.status, a.body)
				}
				if diff := cmp.Diff(names[:min(n, 3)], g.asked()); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
				from := len(g.sim.Requests())
				if a := g.do(bobsCall("claude-new")); a.status != 404 || string(a.body) != absent {
					t.Errorf("%d %s", a.status, a.body)
				}
				if asked := g.askedSince(from); len(asked) != 1 {
					t.Errorf("the second request asked %q", asked)
				}
				if a := g.do(bobsCall("claude-sonnet-5-5")); a.status != 200 {
					t.Errorf("another model: %d %s", a.status, a.body)
				}
			})
		}
	}
	for name, reply := range map[string]simulator.Reply{
		"a page":         {Status: 404, Body: []byte("<html>not found</html>")},
		"another type":   {Status: 404, ErrorType: "invalid_request_error"},
		"another's JSON": {Status: 404, Body: []byte(`{"detail":"not found"}`)},
	} {
		t.Run("a 404 that says something else: "+name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
			g.sim.Set("sk-upstream-a", simulator.Always(reply))
			for range 2 {
				if a := g.do(inNewSession("claude-new")); a.status != 404 {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
			if diff := cmp.Diff([]string{"a", "a"}, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
		})
	}
}
