package blackbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// A status outside the account's error_codes is tried again there, and says nothing
// of the account: it does not come last, and is asked no question.
func TestStatusesThatAreNotTheAccountsOwn(t *testing.T) {
	for _, test := range []struct {
		status          int
		asked           []string // by the first request
		again           []string // by the next one
		questions       int
		name, errorType string
	}{
		{403, []string{"a", "a", "a", "b"}, []string{"a", "a", "a", "b"}, 0, "outside", ""},
		{401, []string{"a", "a", "a", "b"}, []string{"a", "a", "a", "b"}, 0, "outside", ""},
		{500, []string{"a", "a", "a", "b"}, []string{"a", "a", "a", "b"}, 0, "outside", ""},
		{529, []string{"a", "a", "a", "b"}, []string{"a", "a", "a", "b"}, 0, "outside", ""},
		{402, []string{"a", "b"}, []string{"b"}, 1, "in the list", ""},
		{429, []string{"a", "b"}, []string{"b"}, 0, "in the list", ""},
		{404, []string{"a", "b"}, []string{"a", "b"}, 0, "a model that is not there, outside", "not_found_error"},
	} {
		t.Run(fmt.Sprintf("%d, %s", test.status, test.name), func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "error_codes 402 429")+alice+"retry {\nattempts 2\ndelay 1ms\n}")
			g.sim.Set("sk-upstream-a", func(r *simulator.Request) simulator.Reply {
				if isQuestion(r) {
					return simulator.Reply{HeaderDelay: 500 * time.Millisecond}
				}
				return simulator.Reply{Status: test.status, ErrorType: test.errorType}
			})
			for _, want := range [][]string{test.asked, test.again} {
				from := len(g.sim.Requests())
				if a := g.do(inNewSession("claude-sonnet-5-5")); a.status != 200 {
					t.Errorf("%d %s", a.status, a.body)
				}
				if diff := cmp.Diff(want, g.askedSince(from)); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
			}
			if test.questions > 0 {
				g.waitQuestion("sk-upstream-a")
			}
			if n := g.questionsTo("sk-upstream-a"); n != test.questions {
				t.Errorf("the account was asked %d questions", n)
			}
		})
	}
}

// A count is asked of one account, which has header_timeout for all of it.
func TestCountsThatDoNotComeInTime(t *testing.T) {
	for name, reply := range map[string]simulator.Reply{
		"no header":          fault(simulator.Hang, simulator.BeforeHeader),
		"no body":            {FirstDelay: time.Minute},
		"no end":             {Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 5}},
		"no end of an error": {Status: 500, Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice+"relay {\nheader_timeout 250ms\n}")
			g.sim.Queue("sk-upstream-a", reply)
			counting := call{path: "/v1/messages/count_tokens", body: asking("claude-sonnet-5-5", false)}
			began := time.Now()
			wantError(t, g.do(counting), 504, "timeout_error")
			if took := time.Since(began); took < 250*time.Millisecond || took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			for _, c := range []call{counting, {body: asking("claude-sonnet-5-5", false)}} {
				if a := g.do(c); a.status != 200 {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
			if diff := cmp.Diff([]string{"a", "b", "a"}, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
		})
	}
}
