package faults_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// oneSlot is an account whose slot shows whether a request that ended has given
// it back, and a user likewise.
var oneSlot = "account acct-main {\napi_key sk-upstream-main\nbase_url SIM\nconcurrency 1\n}\nscheduling {\nfallback_wait_timeout 2s\nuser_wait_timeout 2s\n}\n" + users(1, 1)

// leaveAfter reads a stream until so many content deltas have come, and leaves.
// It returns when it left.
func (g *gateway) leaveAfter(deltas int) time.Time {
	g.t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	body := `{"model":"claude-sonnet-5-5","max_tokens":64000,"stream":true,"messages":[{"role":"user","content":"Speak."}]}`
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/messages", strings.NewReader(body))
	request.Header.Set("X-Api-Key", keyOf(worker(0)))
	response, err := g.http.Do(request)
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for seen := 0; seen < deltas; {
		if !lines.Scan() {
			g.t.Fatalf("the stream ended after %d deltas: %v", seen, lines.Err())
		}
		if strings.HasPrefix(lines.Text(), "event: content_block_delta") {
			seen++
		}
	}
	return time.Now()
}

// left waits until the upstream knows that the client is gone.
func (g *gateway) left() simulator.Request {
	g.t.Helper()
	g.waitUpstream("upstream is let go", func() bool { return !g.last().Done.IsZero() })
	return g.last()
}

// only is the one record there is but for those of later requests.
func (g *gateway) only(id func(*billing.Record) bool) *billing.Record {
	g.t.Helper()
	var found []billing.Record
	for _, r := range g.records() {
		if id(&r) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		g.t.Fatalf("%d such records", len(found))
	}
	return &found[0]
}

func clientGone(r *billing.Record) bool { return r.Status == 499 }

// speech is 4 kB and more of several kinds of text.
var speech = map[string]simulator.Reply{
	"text in small deltas": {Text: strings.Repeat("All that is said here is plain text. ", 120), Deltas: 400},
	"text in large deltas": {Text: strings.Repeat("All that is said here is plain text. ", 1200), Deltas: 300},
	"other alphabets":      {Text: strings.Repeat("Ἐν ἀρχῇ ἦν ὁ λόγος, 太初有道。", 120), Deltas: 300},
	"code":                 {Text: strings.Repeat("\tif err := encode(w, \"name\"); err != nil {\n\t\treturn err\n\t}\n", 70), Deltas: 300},
	"thinking":             {Thinking: strings.Repeat("Let me think about it for a while. ", 150), Text: "So."},
	"a tool's input":       {Text: "I write.", Tool: "write", ToolInput: `{"path":"a.txt","content":"` + strings.Repeat("All that is written is plain text. ", 150) + `"}`},
}

func TestEstimateWhenTheClientLeaves(t *testing.T) {
	for name, reply := range speech {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulatorConfig, quiet, oneSlot)
			reply.Pause = 2 * time.Millisecond
			reply.Usage = &upstream.Usage{Input: 2000, Output: 9999, CacheRead: 500}
			reply.StartUsage = &upstream.Usage{Input: 2000, Output: 1, CacheRead: 500}
			g.sim.Queue(upstreamSecret+"main", reply)
			left := g.leaveAfter(200)
			sent := g.left()
			if took := sent.Disconnected.Sub(left); sent.Disconnected.IsZero() || took > 100*time.Millisecond {
				t.Errorf("upstream saw it after %v", took)
			}
			if a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "next"); a.status != 200 || a.stop == "" {
				t.Errorf("the next request got %+v", a)
			}
			r := g.only(clientGone)
			if r.Input != 2000 || r.CacheRead != 500 || !r.Estimated || r.Charged <= 0 || r.Billing != billing.PaidFromBalance {
				t.Errorf("record %+v", r)
			}
			if off := float64(r.Output)/float64(sent.OutputTokens) - 1; off > 0.15 || off < -0.15 {
				t.Errorf("the estimate is %d, upstream sent %d: %+.0f %%", r.Output, sent.OutputTokens, 100*off)
			} else {
				t.Logf("the estimate is %d, upstream sent %d: %+.1f %%", r.Output, sent.OutputTokens, 100*off)
			}
		})
	}
}

func TestDrain(t *testing.T) {
	long := simulator.Reply{
		Text: strings.Repeat("All that is said here is plain text. ", 100), Deltas: 100, Pause: 2 * time.Millisecond,
		Usage: &upstream.Usage{Input: 2000, Output: 777}, StartUsage: &upstream.Usage{Input: 2000, Output: 1},
	}
	with := func(kind simulator.FaultKind, after int) simulator.Reply {
		r := long
		r.Fault = simulator.Fault{Kind: kind, After: after}
		return r
	}
	endless := with(simulator.Endless, 50)
	endless.Pause = 5 * time.Millisecond
	for _, test := range []struct {
		name  string
		drain string
		reply simulator.Reply
		known bool
		// least and most time that upstream is read on
		least, most time.Duration
	}{
		{"to the end", "5s", long, true, 50 * time.Millisecond, 4 * time.Second},
		{"for too long", "200ms", endless, false, 200 * time.Millisecond, time.Second},
		{"into silence", "10s", with(simulator.Hang, 60), false, 300 * time.Millisecond, 2 * time.Second},
		{"into a cut", "5s", with(simulator.Cut, 60), false, 0, 2 * time.Second},
		{"into an error", "5s", with(simulator.ErrorEvent, 60), false, 0, 2 * time.Second},
		{"to the total, not the end", "5s", with(simulator.Cut, 105), true, 0, 2 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			leaks := watchLeaks(t)
			g := serve(t, simulatorConfig, quiet, oneSlot+"relay {\non_disconnect drain "+test.drain+"\nidle_timeout 300ms\n}\n")
			g.sim.Queue(upstreamSecret+"main", test.reply)
			left := g.leaveAfter(20)
			sent := g.left()
			if took := sent.Done.Sub(left); took < test.least || took > test.most {
				t.Errorf("upstream was read for %v", took)
			}
			// The drained answer keeps its slot, and then gives it back.
			if a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "next"); a.status != 200 || a.stop == "" {
				t.Errorf("the next request got %+v", a)
			}
			r := g.only(clientGone)
			if r.Input != 2000 || r.Estimated == test.known || r.Charged <= 0 || r.Billing != billing.PaidFromBalance {
				t.Errorf("record %+v", r)
			}
			if test.known && r.Output != 777 {
				t.Errorf("output is %d", r.Output)
			}
			if off := float64(r.Output)/float64(sent.OutputTokens) - 1; !test.known && (off > 0.15 || off < -0.15) {
				t.Errorf("the estimate is %d, upstream sent %d", r.Output, sent.OutputTokens)
			}
			g.sim.Close()
			leaks.check()
		})
	}
}

// TestLeavingBeforeAnyContent: upstream is let go at once, also with drain. What it
// has reported by then is billed, though the client has seen none of it.
func TestLeavingBeforeAnyContent(t *testing.T) {
	for _, test := range []struct {
		after  int // pieces of the answer
		stream bool
		// input and output that are billed
		input, output int64
	}{
		{simulator.BeforeHeader, true, 0, 0}, {0, true, 0, 0}, {1, true, 1000, 1}, {2, true, 1000, 1}, {3, true, 1000, 1},
		{simulator.BeforeHeader, false, 0, 0}, {0, false, 0, 0},
	} {
		for _, leave := range []string{"cancel", "drain 5s"} {
			t.Run(fmt.Sprintf("%s after %d pieces, stream %t", leave, test.after, test.stream), func(t *testing.T) {
				g := serve(t, simulatorConfig, quiet, oneSlot+"relay {\non_disconnect "+leave+"\n}\n")
				g.sim.Queue(upstreamSecret+"main", failing(simulator.Hang, test.after, 0))
				ctx, leave := context.WithCancel(t.Context())
				gone := make(chan time.Time)
				go func() {
					g.fetch(ctx, worker(0), "claude-sonnet-5-5", test.stream, "hello")
					gone <- time.Now()
				}()
				g.waitUpstream("the request is upstream", func() bool { return len(g.sim.Requests()) == 1 })
				time.Sleep(200 * time.Millisecond) // what is sent arrives
				if pieces := g.last().Pieces; pieces < int64(test.after) {
					t.Fatalf("upstream has sent %d pieces", pieces)
				}
				leave()
				left := <-gone
				if took := g.left().Disconnected.Sub(left); took > 100*time.Millisecond {
					t.Errorf("upstream saw it after %v", took)
				}
				if a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "next"); a.status != 200 {
					t.Errorf("the next request got %+v", a)
				}
				r := g.only(clientGone)
				if r.Input != test.input || r.Output != test.output || r.Estimated != (test.input > 0) || r.Charged > 0 != (test.input > 0) {
					t.Errorf("record %+v", r)
				}
				if paid := r.Billing == billing.PaidFromBalance; paid != (test.input > 0) {
					t.Errorf("billing %s", r.Billing)
				}
			})
		}
	}
}
