package blackbox_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// An answer that is not streamed and does not come in time may have been paid for:
// it is asked for once. A stream goes to one other account, for nothing has been
// said yet.
func TestAnswersThatDoNotComeInTime(t *testing.T) {
	silence := fault(simulator.Hang, simulator.BeforeHeader)
	inBody := simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 30}}
	slow := simulator.Reply{HeaderDelay: 400 * time.Millisecond}
	for _, test := range []struct {
		name    string
		replies []simulator.Reply // of the accounts in order; those that are left answer well
		stream  bool
		asked   []string
		status  int
		final   bool
	}{
		{"no header", []simulator.Reply{silence}, false, []string{"a"}, 504, true},
		{"no end", []simulator.Reply{inBody}, false, []string{"a"}, 504, true},
		{"an answer in time, later than a stream's header may be", []simulator.Reply{slow}, false, []string{"a"}, 200, false},
		{"a header and no body", []simulator.Reply{{FirstDelay: time.Minute}}, false, []string{"a"}, 504, true},
		{"a failure, then no header", []simulator.Reply{{Status: 529}, silence}, false, []string{"a", "b"}, 504, true},
		{"an error without an end", []simulator.Reply{{Status: 500, Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 20}}}, false, []string{"a"}, 504, true},
		{"a page without an end", []simulator.Reply{{Status: 502, Body: []byte(simulator.BadGatewayHTML), Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 20}}}, false, []string{"a"}, 504, true},

		{"stream: an error without an end, twice", []simulator.Reply{{Status: 500, Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 20}}, {Status: 500, Fault: simulator.Fault{Kind: simulator.Hang, Bytes: 20}}}, true, []string{"a", "b"}, 504, false},
		{"stream: no header", []simulator.Reply{silence}, true, []string{"a", "b"}, 200, false},
		{"stream: no header twice", []simulator.Reply{silence, silence}, true, []string{"a", "b"}, 504, false},
		{"stream: no header, then no content", []simulator.Reply{silence, fault(simulator.Hang, 1)}, true, []string{"a", "b"}, 504, false},
		{"stream: no content", []simulator.Reply{fault(simulator.Hang, 1)}, true, []string{"a", "b"}, 200, false},
		{"stream: pings alone, then no header", []simulator.Reply{{Pause: 20 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Pings, After: 1}}, silence}, true, []string{"a", "b"}, 504, false},
		{"stream: no header, then a failure", []simulator.Reply{silence, {Status: 529}}, true, []string{"a", "b"}, 529, false},
		{"stream: failures, then no header", []simulator.Reply{{Status: 529}, {Status: 500}, silence}, true, []string{"a", "b", "c", "d"}, 200, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b", "c", "d"}, "")+alice+`
			relay {
				header_timeout 250ms
				first_event_timeout 250ms
				idle_timeout 250ms
				answer_timeout 600ms
			}`)
			for i, reply := range test.replies {
				g.sim.Queue(upstreamSecret+string(rune('a'+i)), reply)
			}
			began := time.Now()
			a := g.say("claude-sonnet-5-5", test.stream)
			if a.status != test.status {
				t.Errorf("%d %s, want %d", a.status, a.body, test.status)
			}
			if got := a.header.Get("X-Should-Retry") == "false"; got != test.final {
				t.Errorf("x-should-retry %q", a.header.Get("X-Should-Retry"))
			}
			if test.final {
				wantError(t, a, 504, "timeout_error")
				if took := time.Since(began); took < 600*time.Millisecond || took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
			}
			if diff := cmp.Diff(test.asked, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
			g.wantOneRecord(func(r *billing.Record) {
				if r.Attempts != len(test.asked) || r.Status != test.status || (r.Charged > 0) != (test.status == 200) {
					t.Errorf("record %+v", r)
				}
			})
		})
	}
}

// What breaks off at once has cost nothing, and goes elsewhere, streamed or not.
func TestAnswersThatBreakOffEarlyGoElsewhere(t *testing.T) {
	page := simulator.Reply{Status: 502, Body: []byte(simulator.BadGatewayHTML)}
	for name, reply := range map[string]simulator.Reply{
		"502 page": page, "503 page": {Status: 503, Body: []byte("<html>busy</html>")}, "504 page": {Status: 504, Body: []byte("<html>late</html>")},
		"524 page": {Status: 524, Body: []byte("<html>a timeout occurred</html>")}, "408": {Status: 408},
		"cut": {Fault: simulator.Fault{Kind: simulator.Cut, Bytes: 30}}, "reset": fault(simulator.Reset, simulator.BeforeHeader),
		"end":   {Fault: simulator.Fault{Kind: simulator.Truncate, Bytes: 30}},
		"empty": {Body: []byte{}},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stream %t", name, stream), func(t *testing.T) {
				g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
				g.sim.Queue("sk-upstream-a", reply)
				if a := g.say("claude-sonnet-5-5", stream); a.status != 200 || stream && strings.Count(string(a.body), "event: message_start") != 1 {
					t.Errorf("%d %s", a.status, a.body)
				}
				if diff := cmp.Diff([]string{"a", "b"}, g.asked()); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
			})
		}
	}
}
