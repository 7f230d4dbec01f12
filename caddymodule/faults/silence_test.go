package faults_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2/option"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// TestSilence: an upstream that says nothing is given up after idle_timeout,
// one that says nothing of use after first_event_timeout, and one whose content
// has begun may ping for as long as it likes. An answer that is not streamed has
// answer_timeout, however it comes.
func TestSilence(t *testing.T) {
	const idle, first, whole = 250 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond
	pings := func(before, after int) simulator.Reply {
		r := simulator.Reply{Events: []simulator.Event{
			{Name: "message_start", Data: `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"usage":{"input_tokens":9,"output_tokens":1}}}`},
		}}
		add := func(name, data string) {
			r.Events = append(r.Events, simulator.Event{Name: name, Data: data, Pause: 50 * time.Millisecond})
		}
		for range before {
			add("ping", pingData)
		}
		add("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
		for range after {
			add("ping", pingData)
		}
		add("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"late"}}`)
		add("content_block_stop", `{"type":"content_block_stop","index":0}`)
		add("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}`)
		add("message_stop", `{"type":"message_stop"}`)
		return r
	}
	trickle := pings(0, 0)
	trickle.Pieces, trickle.Pause = []int{8}, 5*time.Millisecond
	slowWhole := simulator.Reply{Body: []byte(wholeAnswer), Pieces: []int{1 + len(wholeAnswer)/20}, Pause: 50 * time.Millisecond}
	tooSlow := slowWhole
	tooSlow.Pause = 150 * time.Millisecond
	for _, test := range []struct {
		name   string
		reply  simulator.Reply
		stream bool
		status int
		kind   string
		after  time.Duration // the client's answer is over, and not long after
	}{
		{"nothing after the header", failing(simulator.Hang, 0, 0), true, 504, "timeout_error", idle},
		{"nothing after message_start", failing(simulator.Hang, 1, 0), true, 504, "timeout_error", idle},
		{"nothing after content", failing(simulator.Hang, 5, 0), true, 200, "timeout_error", idle},
		{"pings alone", pings(1000, 0), true, 504, "timeout_error", first},
		{"pings, then content in time", pings(5, 0), true, 200, "", 300 * time.Millisecond},
		{"content, then pings for long", pings(0, 20), true, 200, "", time.Second},
		{"a few bytes at a time", trickle, true, 200, "", 300 * time.Millisecond},
		{"half an answer", failing(simulator.Hang, 0, 30), false, 504, "timeout_error", whole},
		{"no answer", failing(simulator.Hang, simulator.BeforeHeader, 0), false, 504, "timeout_error", whole},
		{"an answer a bit at a time", slowWhole, false, 200, "", 900 * time.Millisecond},
		{"an answer too little at a time", tooSlow, false, 504, "timeout_error", whole},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulatorConfig, quiet, oneSlot+"relay {\nidle_timeout 250ms\nfirst_event_timeout 500ms\nanswer_timeout 1500ms\nkeepalive 0s\n}\n")
			g.sim.Queue(upstreamSecret+"main", test.reply)
			began := time.Now()
			a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", test.stream, "hello")
			took := time.Since(began)
			if a.status != test.status || a.kind != test.kind {
				t.Errorf("got %+v, want %d %s", a, test.status, test.kind)
			}
			if a.final != (!test.stream && test.status == 504) {
				t.Errorf("x-should-retry: false is %t: what may have been paid for is not to be asked for again", a.final)
			}
			if test.kind == "" && (a.stop != "end_turn" || a.text != "late") {
				t.Errorf("got %+v, want it whole", a)
			}
			if took < test.after || took > test.after+time.Second {
				t.Errorf("it took %v, want about %v", took, test.after)
			}
			if test.kind == "" {
				return
			}
			// Nothing is left of the attempt: upstream is let go, the slot is free.
			if g.left().Disconnected.IsZero() {
				t.Error("upstream was not let go")
			}
			if a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", test.stream, "next"); a.status != 200 {
				t.Errorf("the next request got %+v", a)
			}
		})
	}
}

const wholeAnswer = `{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"late"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":2}}`

// TestSDKsAreContentWithComments: the SDK reads over comments wherever they
// come, also with a time-out of its own that is shorter than the wait.
func TestSDKsAreContentWithComments(t *testing.T) {
	slow := func(r simulator.Reply) simulator.Reply { r.FirstDelay = 400 * time.Millisecond; return r }
	late := func(r simulator.Reply) simulator.Reply { r.HeaderDelay = 400 * time.Millisecond; return r }
	halting := spoken
	halting.Pause = 60 * time.Millisecond
	for _, test := range []struct {
		name  string
		reply simulator.Reply
		kind  string
	}{
		{"a late header", late(spoken), ""},
		{"late content", slow(spoken), ""},
		{"a halting answer", halting, ""},
		{"a late refusal", late(simulator.Reply{Status: 529}), "overloaded_error"},
		{"a late judgement", late(body(400, oddError)), "invalid_request_error"},
		{"a late error event", slow(errorEvent("rate_limit_error", 1)), "rate_limit_error"},
		{"a late break", slow(failing(simulator.Cut, 1, 0)), "api_error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulatorConfig, quiet, oneSlot+"relay {\nkeepalive 20ms after 50ms\n}\n")
			g.sim.Queue(upstreamSecret+"main", test.reply)
			var heard time.Duration
			began := time.Now()
			a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "hello",
				option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
					response, err := next(r)
					heard = time.Since(began)
					return response, err
				}))
			if a.status != 200 || a.kind != test.kind {
				t.Errorf("got %+v, want 200 %s", a, test.kind)
			}
			if whole := a.text == spoken.Text && a.stop == "end_turn"; whole != (test.kind == "") || !whole && a.text != "" {
				t.Errorf("got %+v", a)
			}
			if early := heard < 300*time.Millisecond; !early {
				t.Errorf("the client heard nothing for %v", heard)
			}
			if strings.Contains(a.raw, "req_of_upstream") {
				t.Errorf("the error has upstream's id: %s", a.raw)
			}
		})
	}
}
