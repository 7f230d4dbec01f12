package nodes_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// isOwnQuestion reports whether a request is a gateway's own, by which it finds out
// whether an account is in error.
func isOwnQuestion(r *simulator.Request) bool { return gjson.GetBytes(r.Body, "max_tokens").Int() == 1 }

// ownQuestions are those that were put to an account.
func (f *fleet) ownQuestions(credential string) (n int) {
	for _, r := range f.sim.Requests() {
		if r.Credential == credential && isOwnQuestion(&r) {
			n++
		}
	}
	return n
}

func (f *fleet) logged(text string) (n int) {
	for _, node := range f.nodes {
		n += strings.Count(node.Log(), text)
	}
	return n
}

// However many nodes see that an account denies requests, one of them asks it, and
// all act upon the answer.
func TestAnErrorThatOneNodeFindsStopsAll(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	f := launch(t, over(t, redistest.Start(t), accounts("a", 2, 0, sonnet)))
	denying, other := credential("a", 0), credential("a", 1)
	load := f.begin(12, f.nodes...)
	time.Sleep(500 * time.Millisecond)
	f.sim.Set(denying, simulator.Always(simulator.Reply{Status: http.StatusForbidden}))
	time.Sleep(3 * time.Second)
	load.end(t)
	if n := f.ownQuestions(denying); n != 1 {
		t.Errorf("the account was asked %d questions", n)
	}
	if n := f.ownQuestions(other); n != 0 {
		t.Errorf("an account that is well was asked %d questions", n)
	}
	if n := f.logged(`"state":"error"`); n != 1 {
		t.Errorf("the logs say %d times that the account is in error", n)
	}
	// It would be asked now, if it only came last.
	f.sim.Set(other, simulator.Always(simulator.Reply{Status: 529}))
	before := f.sim.Account(denying).Messages
	for _, n := range f.nodes {
		if a := f.ask(n, question{}); a.status != 529 {
			t.Error(a)
		}
	}
	if n := f.sim.Account(denying).Messages - before; n != 0 {
		t.Errorf("an account in error was asked %d times", n)
	}
}

// What upstream denies to one user takes the account from nobody, at any node.
func TestADenialOfOneRequestStopsNobodyAtAnyNode(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	f := launch(t, over(t, redistest.Start(t), accounts("a", 1, 0, sonnet)))
	only := credential("a", 0)
	usual := lasting(10*time.Millisecond, 30*time.Millisecond)
	var denied atomic.Int64
	f.sim.Set(only, func(r *simulator.Request) simulator.Reply {
		if r.Header.Get("X-Claude-Code-Session-Id") == "denied" {
			denied.Add(1)
			return simulator.Reply{Status: http.StatusForbidden}
		}
		return usual(r)
	})
	load := f.begin(6, f.nodes...)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, n := range f.nodes {
			if a := f.ask(n, question{session: "denied"}); a.status != http.StatusBadGateway {
				t.Error(a)
			}
		}
	}
	load.end(t)
	if n := f.ownQuestions(only); denied.Load() < 10 || n != 1 {
		t.Errorf("the account was asked %d questions upon %d denials", n, denied.Load())
	}
	if n := f.logged(`"state":"error"`); n != 0 {
		t.Errorf("the account came into error")
	}
}

// A demotion is every node's: after one has seen a failure, none begins with that
// account while another is free.
func TestAnAccountThatComesLastAtOneNodeDoesAtAll(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	f := launch(t, over(t, redistest.Start(t), strings.Replace(accounts("a", 2, 0, sonnet), "concurrency 0", "priority 1", 1)))
	first, spare := credential("a", 0), credential("a", 1)
	f.sim.Queue(first, simulator.Reply{Status: 429, RetryAfter: time.Minute})
	if a := f.ask(f.nodes[0], question{}); !a.whole() {
		t.Error(a)
	}
	time.Sleep(time.Second)
	for _, n := range f.nodes {
		if a := f.ask(n, question{}); !a.whole() {
			t.Error(a)
		}
	}
	if a, b := f.sim.Account(first).Messages, f.sim.Account(spare).Messages; a != 1 || b != 1+len(f.nodes) {
		t.Errorf("%d requests to the first, %d to the spare", a, b)
	}
	// Where the spare one fails too, each node asks the other one in its stead.
	f.sim.Set(spare, simulator.Always(simulator.Reply{Status: 529}))
	f.sim.Set(first, simulator.Always(simulator.Reply{}))
	if a := f.ask(f.nodes[1], question{}); !a.whole() {
		t.Error(a)
	}
	if n := f.sim.Account(first).Messages; n != 2 {
		t.Errorf("%d requests to the first", n)
	}
}
