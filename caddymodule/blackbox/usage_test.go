package blackbox_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// hundred is 400 bytes of text, a hundred tokens by estimate.
var hundred = strings.Repeat("four ", 80)

// startWith and deltaWith are a message_start and a message_delta with that usage;
// "" = none.
func startWith(usage string) simulator.Event {
	return simulator.Event{Name: "message_start", Data: `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"claude-sonnet-5-5"` + field("usage", usage) + `}}`}
}

func deltaWith(usage string) simulator.Event {
	return simulator.Event{Name: "message_delta", Data: `{"type":"message_delta","delta":{"stop_reason":"end_turn"}` + field("usage", usage) + `}`}
}

func field(name, value string) string {
	if value == "" {
		return ""
	}
	return `,"` + name + `":` + value
}

func saying(text string) simulator.Event {
	return simulator.Event{Name: "content_block_delta", Data: `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + text + `"}}`}
}

// What an answer has used is what upstream says, as far as that can be believed;
// what it does not say is estimated, and the record says so.
func TestUsageThatIsMissingOrMad(t *testing.T) {
	body := func(stream bool) string {
		return strings.Replace(asking("claude-sonnet-5-5", stream), `"max_tokens":64`, `"max_tokens":4000`, 1)
	}
	input := int64(len(body(true)) / 4)
	const window = 1_000_000 // of claude-sonnet-5-5
	for _, test := range []struct {
		name         string
		start, delta string // usage of message_start and of message_delta; joined where it is not streamed
		in, out      int64  // what the record says, exactly, or about where it is estimated
		estimated    bool
		cut          bool // the log says that it was not believed
	}{
		{"none", "", "", input, 100, true, false},
		{"null", "null", "null", input, 100, true, false},
		{"empty", "{}", "{}", input, 100, true, false},
		{"all null", `{"input_tokens":null,"output_tokens":null}`, `{"output_tokens":null}`, input, 100, true, false},
		{"as it should be", `{"input_tokens":7,"output_tokens":1}`, `{"output_tokens":9}`, 7, 9, false, false},
		{"all at the end", "", `{"input_tokens":7,"output_tokens":9}`, 7, 9, false, false},
		{"no output", `{"input_tokens":7}`, "", 7, 100, true, false},
		{"huge input", `{"input_tokens":1e30,"output_tokens":1}`, `{"output_tokens":9}`, 10 * window, 9, true, true},
		{"huge output", `{"input_tokens":7,"output_tokens":1}`, `{"output_tokens":1e30}`, 7, 10 * window, true, true},
		{"beyond int64", `{"input_tokens":99999999999999999999,"output_tokens":1}`, `{"output_tokens":9}`, 10 * window, 9, true, true},
		{"a window and a half", `{"input_tokens":1500000,"output_tokens":1}`, `{"output_tokens":9}`, 1_500_000, 9, false, false},
	} {
		for _, stream := range []bool{true, false} {
			if !stream && test.name == "no output" {
				continue // that is about a stream's end
			}
			t.Run(fmt.Sprintf("%s, stream %t", test.name, stream), func(t *testing.T) {
				g := serve(t, simulator.Config{}, mainAccount+strings.Replace(alice, "balance 100", "balance unlimited", 1))
				reply := streamOf(startWith(test.start), emptyText, saying(hundred), blockStop, deltaWith(test.delta), messageStop)
				if !stream {
					usage := strings.Replace(strings.TrimSuffix(strings.TrimSuffix(test.start, `,"output_tokens":1}`), "}")+","+strings.TrimPrefix(test.delta, "{"), "{,", "{", 1)
					if test.start == "" || test.start == "{}" || test.start == "null" {
						usage = test.delta
					}
					reply = simulator.Reply{Body: []byte(`{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":"` + hundred + `"}]` + field("usage", usage) + `}`)}
				}
				g.sim.Queue("sk-upstream-main", reply)
				if a := g.do(call{body: body(stream)}); a.status != 200 || !strings.Contains(string(a.body), hundred) {
					t.Errorf("%d %s", a.status, a.body)
				}
				g.wantOneRecord(func(r *billing.Record) {
					near := func(got, want int64) bool { return got == want || test.estimated && got > want/2 && got < 2*want }
					if r.Status != 200 || !near(r.Input, test.in) || !near(r.Output, test.out) || r.Estimated != test.estimated || r.Cost <= 0 {
						t.Errorf("%d and %d tokens, estimated %t; want %d, %d, %t", r.Input, r.Output, r.Estimated, test.in, test.out, test.estimated)
					}
				})
				if n := g.logged("upstream reports more tokens than an answer can have"); (n > 0) != test.cut {
					t.Errorf("the log says %d times that tokens were not believed", n)
				}
			})
		}
	}
}

// Thinking that is hidden is billed: while nothing but pings comes in a block, it is
// taken for 30 tokens a second, and for no more than was asked for.
func TestClientsThatLeaveInHiddenThinking(t *testing.T) {
	cases := []struct {
		name      string
		events    []simulator.Event
		maxTokens int
		low, high int64 // output tokens
	}{
		{"in a block", []simulator.Event{messageStart, emptyThinking}, 4000, 55, 110},
		{"in a block that has begun to speak", []simulator.Event{messageStart, emptyText, textDelta}, 4000, 55, 110},
		{"between two blocks", []simulator.Event{messageStart, emptyText, textDelta, blockStop}, 4000, 1, 10},
		{"before the first block", []simulator.Event{messageStart}, 4000, 1, 1},
		{"more than was asked for", []simulator.Event{messageStart, emptyThinking}, 20, 20, 20},
	}
	g := serve(t, simulator.Config{}, mainAccount+alice)
	g.sim.Set("", func(r *simulator.Request) simulator.Reply {
		i, _ := strconv.Atoi(strings.TrimPrefix(r.Model, "claude-sonnet-"))
		return simulator.Reply{
			Events: cases[i].events, Pause: 100 * time.Millisecond,
			Fault: simulator.Fault{Kind: simulator.Pings, After: len(cases[i].events)},
		}
	})
	ctx, leave := context.WithTimeout(t.Context(), 2800*time.Millisecond)
	defer leave()
	var all sync.WaitGroup
	for i, test := range cases {
		all.Go(func() {
			g.leaving(ctx, fmt.Sprintf(`{"model":"claude-sonnet-%d","max_tokens":%d,"stream":true,"messages":[{"role":"user","content":"hi"}]}`, i, test.maxTokens))
		})
	}
	all.Wait()
	g.waitUpstream("upstream is let go", func() bool {
		return !slices.ContainsFunc(g.sim.Requests(), func(r simulator.Request) bool { return r.Disconnected.IsZero() })
	})
	records := g.records()
	if len(records) != len(cases) {
		t.Fatalf("%d records of %d requests", len(records), len(cases))
	}
	for _, r := range records {
		i, _ := strconv.Atoi(strings.TrimPrefix(r.Model, "claude-sonnet-"))
		if test := cases[i]; r.Status != 499 || !r.Estimated || r.Input != 900 || r.Output < test.low || r.Output > test.high || r.Charged == 0 {
			t.Errorf("%s: output %d, want %d to %d: %+v", test.name, r.Output, test.low, test.high, r)
		}
	}
}
