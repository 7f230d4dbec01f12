package blackbox_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// The events of streams that are made by hand.
var (
	messageStart  = simulator.Event{Name: "message_start", Data: `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"claude-sonnet-5-5","usage":{"input_tokens":900,"output_tokens":1}}}`}
	emptyText     = simulator.Event{Name: "content_block_start", Data: `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`}
	emptyThinking = simulator.Event{Name: "content_block_start", Data: `{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`}
	emptyTool     = simulator.Event{Name: "content_block_start", Data: `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_1","name":"look","input":{}}}`}
	redacted      = simulator.Event{Name: "content_block_start", Data: `{"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"abcd"}}`}
	pingEvent     = simulator.Event{Name: "ping", Data: `{"type": "ping"}`}
	textDelta     = simulator.Event{Name: "content_block_delta", Data: `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello you"}}`}
	signature     = simulator.Event{Name: "content_block_delta", Data: `{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2lnbmF0dXJl"}}`}
	blockStop     = simulator.Event{Name: "content_block_stop", Data: `{"type":"content_block_stop","index":0}`}
	messageDelta  = simulator.Event{Name: "message_delta", Data: `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":50}}`}
	messageStop   = simulator.Event{Name: "message_stop", Data: `{"type":"message_stop"}`}
)

func errorEvent(kind string) simulator.Event {
	return simulator.Event{Name: "error", Data: `{"type":"error","error":{"type":"` + kind + `","message":"no"}}`}
}

func after(pause time.Duration, e simulator.Event) simulator.Event {
	e.Pause = pause
	return e
}

func streamOf(events ...simulator.Event) simulator.Reply { return simulator.Reply{Events: events} }

// An upstream that is overloaded may say so right after a block that began empty.
// Nothing has gone out by then, and another account answers.
func TestAnErrorAfterAnEmptyBlockGoesElsewhere(t *testing.T) {
	later := 100 * time.Millisecond
	for _, test := range []struct {
		name  string
		reply simulator.Reply
		moves bool
	}{
		{"empty text", streamOf(messageStart, emptyText, errorEvent("overloaded_error")), true},
		{"empty text, a ping", streamOf(messageStart, emptyText, pingEvent, errorEvent("overloaded_error")), true},
		{"empty text, a moment later", streamOf(messageStart, emptyText, after(later, errorEvent("overloaded_error"))), true},
		{"empty thinking", streamOf(messageStart, emptyThinking, errorEvent("api_error")), true},
		{"empty tool call", streamOf(messageStart, emptyTool, errorEvent("rate_limit_error")), true},
		{"empty text, then the end", streamOf(messageStart, emptyText), true},
		{"empty text, then cut", simulator.Reply{Events: []simulator.Event{messageStart, emptyText}, Fault: simulator.Fault{Kind: simulator.Cut, After: 2}}, true},
		{"empty text, then cut in an event", simulator.Reply{Events: []simulator.Event{messageStart, emptyText, textDelta}, Fault: simulator.Fault{Kind: simulator.Cut, After: 2, Bytes: 40}}, true},

		{"a block that holds something", streamOf(messageStart, redacted, errorEvent("overloaded_error")), false},
		{"a delta", streamOf(messageStart, emptyText, textDelta, errorEvent("overloaded_error")), false},
		{"two blocks", streamOf(messageStart, emptyText, blockStop, errorEvent("overloaded_error")), false},
		{"more than two seconds later", streamOf(messageStart, emptyText, after(2300*time.Millisecond, errorEvent("overloaded_error"))), false},
	} {
		for _, framing := range []simulator.Framing{{}, {DataOnly: true}} {
			t.Run(fmt.Sprintf("%s, names %t", test.name, !framing.DataOnly), func(t *testing.T) {
				g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
				test.reply.Framing = framing
				g.sim.Queue("sk-upstream-a", test.reply)
				g.sim.Queue("sk-upstream-b", spoken)
				a := g.say("claude-sonnet-5-5", true)
				text := string(a.body)
				if a.status != 200 || a.err != nil || strings.Count(text, `"type":"message_start"`) != 1 {
					t.Errorf("%d %v %s", a.status, a.err, text)
				}
				want := []string{"a", "b"}
				if !test.moves {
					want = want[:1]
				}
				if diff := cmp.Diff(want, g.asked()); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
				if whole := strings.Count(text, `"type":"message_stop"`) == 1 && !strings.Contains(text, `"error"`); whole != test.moves {
					t.Errorf("the client got %s", text)
				}
				g.wantOneRecord(func(r *billing.Record) {
					if r.Attempts != len(want) || test.moves && (r.Input != 1000 || r.Output != 100 || r.Estimated) || !test.moves && (r.Input != 900 || !r.Estimated) {
						t.Errorf("record %+v", r)
					}
				})
			})
		}
	}
}

// Hidden thinking begins empty and says nothing for long: the client gets the
// beginning after two seconds, and the answer is asked for once.
func TestHiddenThinkingIsNoSilence(t *testing.T) {
	const rounds = 8
	for _, begins := range []simulator.Event{emptyThinking, emptyText} {
		kind := gjson.Get(begins.Data, "content_block.type").Str
		t.Run(kind, func(t *testing.T) {
			events := []simulator.Event{messageStart, begins}
			for range rounds {
				events = append(events, after(400*time.Millisecond, pingEvent))
			}
			delta := signature
			if kind == "text" {
				delta = textDelta
			}
			events = append(events, delta, blockStop, messageDelta, messageStop)
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice+`
			relay {
				first_event_timeout 1s
				idle_timeout 1s
			}`)
			g.sim.Queue("sk-upstream-a", streamOf(events...))
			began := time.Now()
			response := g.open(context.Background(), call{body: asking("claude-sonnet-5-5", true)})
			defer response.Body.Close()
			if waited := time.Since(began); waited < 1900*time.Millisecond || waited > 2700*time.Millisecond {
				t.Errorf("the first byte came after %v", waited)
			}
			got, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != 200 {
				t.Fatalf("%d %v", response.StatusCode, err)
			}
			var want bytes.Buffer
			for _, e := range events {
				fmt.Fprintf(&want, "event: %s\ndata: %s\n\n", e.Name, e.Data)
			}
			if diff := cmp.Diff(want.String(), string(got)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"a"}, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
			g.wantOneRecord(func(r *billing.Record) {
				if r.Input != 900 || r.Output != 50 || r.Estimated || r.TTFTMS < 1900 {
					t.Errorf("record %+v", r)
				}
			})
		})
	}
}

func TestStreamsThatTakeTooLong(t *testing.T) {
	endless := simulator.Reply{Pause: 20 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Endless, After: 3}}
	pings := simulator.Reply{Events: []simulator.Event{messageStart, emptyThinking, signature}, Pause: 20 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Pings, After: 3}}
	for _, test := range []struct {
		name, words string
		reply       simulator.Reply
	}{
		{"stream_timeout, deltas", "stream_timeout 400ms", endless},
		{"stream_timeout, pings", "stream_timeout 400ms", pings},
		{"idle_timeout", "idle_timeout 400ms", simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: 5}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice+"relay {\n"+test.words+"\n}")
			g.sim.Queue("sk-upstream-a", test.reply)
			began := time.Now()
			a := g.say("claude-sonnet-5-5", true)
			if took := time.Since(began); took < 400*time.Millisecond || took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			events := readEvents(bytes.NewReader(a.body))
			last := events[len(events)-1]
			if a.status != 200 || last.Name != "error" || strings.Count(string(a.body), "event: error") != 1 {
				t.Errorf("%d, the last event is %v", a.status, last)
			}
			wantEnvelope(t, []byte(last.Data), "timeout_error", a.header.Get("Request-Id"))
			if diff := cmp.Diff([]string{"a"}, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
			// The account comes last for the model, for it fell silent or did not end.
			if a := g.do(inNewSession("claude-sonnet-5-5")); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
			if diff := cmp.Diff([]string{"a", "b"}, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
			records := g.records()
			if len(records) != 2 || records[0].Status != 200 || !records[0].Estimated || records[0].Charged == 0 {
				t.Errorf("records %+v", records)
			}
		})
	}
}
