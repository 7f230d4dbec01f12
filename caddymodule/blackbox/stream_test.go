package blackbox_test

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// spoken is an answer of ten deltas whose usage the tests know. Its events:
// message_start, content_block_start, ping, ten deltas, content_block_stop,
// message_delta, message_stop.
var spoken = simulator.Reply{
	Text:       strings.Repeat("word ", 80),
	Deltas:     10,
	Usage:      &upstream.Usage{Input: 1000, Output: 100},
	StartUsage: &upstream.Usage{Input: 1000, Output: 1},
}

func (g *gateway) wantOneRecord(check func(*billing.Record)) {
	g.t.Helper()
	records := g.records()
	if len(records) != 1 {
		g.t.Fatalf("%d records: %+v", len(records), records)
	}
	check(&records[0])
	if g.t.Failed() {
		g.t.Logf("record: %+v", records[0])
	}
}

func TestStreamsThatEndBadly(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault simulator.Fault
		// kind is that of the error event that ends the stream.
		kind string
		// own: the gateway's event, after upstream's bytes; else upstream's own.
		own bool
		// known: upstream had told the output's total.
		known bool
	}{
		{"error event", simulator.Fault{Kind: simulator.ErrorEvent, After: 8, ErrorType: "overloaded_error", Message: "Overloaded"}, "overloaded_error", false, false},
		{"end between events", simulator.Fault{Kind: simulator.Truncate, After: 8}, "api_error", true, false},
		{"end within an event's name", simulator.Fault{Kind: simulator.Truncate, After: 8, Bytes: 9}, "api_error", true, false},
		{"end within an event's data", simulator.Fault{Kind: simulator.Truncate, After: 8, Bytes: 60}, "api_error", true, false},
		{"cut", simulator.Fault{Kind: simulator.Cut, After: 8}, "api_error", true, false},
		{"cut within an event", simulator.Fault{Kind: simulator.Cut, After: 8, Bytes: 60}, "api_error", true, false},
		{"reset", simulator.Fault{Kind: simulator.Reset, After: 8, Bytes: 20}, "api_error", true, false},
		{"silence", simulator.Fault{Kind: simulator.Hang, After: 8}, "timeout_error", true, false},
		{"silence within an event", simulator.Fault{Kind: simulator.Hang, After: 8, Bytes: 60}, "timeout_error", true, false},
		{"cut before message_stop", simulator.Fault{Kind: simulator.Cut, After: 15}, "api_error", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, mainAccount+alice+"relay {\nidle_timeout 200ms\n}\n")
			g.sim.Queue("sk-upstream-main", spoken)
			whole := g.say("claude-sonnet-5-5", true)
			before := g.balance()
			broken := spoken
			broken.Fault = test.fault
			g.sim.Queue("sk-upstream-main", broken)
			a := g.say("claude-sonnet-5-5", true)
			if a.status != 200 || a.err != nil {
				t.Fatalf("%d, %v", a.status, a.err)
			}
			events := readEvents(bytes.NewReader(a.body))
			last := events[len(events)-1]
			if last.Name != "error" || gjson.Get(last.Data, "error.type").Str != test.kind {
				t.Errorf("the stream ends with %v, want %s", last, test.kind)
			}
			if test.own {
				wantEnvelope(t, []byte(last.Data), test.kind, a.header.Get("Request-Id"))
			}
			// What a client reads before is what upstream had said. Half an event
			// has become a ping, which clients don't read.
			isPing := func(e event) bool { return e.Name == "ping" }
			want := slices.DeleteFunc(readEvents(bytes.NewReader(whole.body))[:test.fault.After], isPing)
			got := slices.DeleteFunc(events[:len(events)-1], isPing)
			if diff := cmp.Diff(want[1:], got[1:]); diff != "" { // the message's id differs
				t.Errorf("events: %s", diff)
			}
			charged := before - g.balance()
			records := g.records()
			if len(records) != 2 {
				t.Fatalf("%d records", len(records))
			}
			r := records[1]
			if r.Charged != charged || charged <= 0 || r.Billing != billing.PaidFromBalance {
				t.Errorf("charged %s, the record says %s from %s", charged, r.Charged, r.Billing)
			}
			if r.Input != 1000 || r.Estimated == test.known || r.Status != 200 {
				t.Errorf("record %+v", r)
			}
			// Five of ten deltas of 40 bytes, at four bytes a token.
			if low, high := int64(40), int64(60); !test.known && (r.Output < low || r.Output > high) {
				t.Errorf("output is estimated as %d", r.Output)
			} else if test.known && r.Output != 100 {
				t.Errorf("output is %d", r.Output)
			}
		})
	}
}

func TestFirstBytesWaitForContent(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	g.sim.Queue("sk-upstream-main", simulator.Reply{Events: []simulator.Event{
		{Name: "message_start", Data: `{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}`},
		{Name: "ping", Data: `{"type": "ping"}`},
		{Name: "content_block_start", Data: `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`, Pause: 300 * time.Millisecond},
		{Name: "message_stop", Data: `{"type":"message_stop"}`},
	}})
	began := time.Now()
	response := g.open(context.Background(), call{body: asking("claude-sonnet-5-5", true)})
	defer response.Body.Close()
	if waited := time.Since(began); waited < 250*time.Millisecond {
		t.Errorf("the header came after %v, before the content", waited)
	}
	want := http.Header{
		"Content-Type":      {"text/event-stream; charset=utf-8"},
		"Cache-Control":     {"no-cache, no-transform"},
		"X-Accel-Buffering": {"no"},
	}
	for name, values := range want {
		if diff := cmp.Diff(values, response.Header[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := names(readEvents(response.Body)); len(got) != 4 {
		t.Errorf("events %v", got)
	}
}

func TestThinkingMismatchHeaderPasses(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	g.sim.Set("sk-upstream-main", simulator.Always(simulator.Reply{Header: http.Header{
		"Anthropic-Thinking-Prefix-Mismatch": {"dropped"}, "Cf-Ray": {"1"}, "Via": {"2"}, "X-Should-Retry": {"true"},
	}}))
	for _, stream := range []bool{false, true} {
		a := g.say("claude-sonnet-5-5", stream)
		if got := a.header.Get("Anthropic-Thinking-Prefix-Mismatch"); got != "dropped" {
			t.Errorf("stream %t: %q", stream, got)
		}
	}
}

func TestGzipThatNobodyAskedFor(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	zipped := spoken
	zipped.Gzip = true
	for _, stream := range []bool{false, true} {
		g.sim.Queue("sk-upstream-main", spoken, zipped)
		plain, unzipped := g.say("claude-sonnet-5-5", stream), g.say("claude-sonnet-5-5", stream)
		if a, b := afterID(plain.body), afterID(unzipped.body); a != b {
			t.Errorf("stream %t: %q, want %q", stream, b, a)
		}
		if got := unzipped.header.Get("Content-Encoding"); got != "" {
			t.Errorf("content-encoding %q", got)
		}
		if got := g.last().Header.Get("Accept-Encoding"); got != "" {
			t.Errorf("asked upstream for %q", got)
		}
	}
	for _, r := range g.records() {
		if r.Input != 1000 || r.Output != 100 {
			t.Errorf("counted %d and %d tokens", r.Input, r.Output)
		}
	}
}

// afterID is an answer without its beginning, where the message's id stands.
func afterID(body []byte) string {
	_, rest, _ := strings.Cut(string(body), `"type":"message","role"`)
	return rest
}
