package anthropic

import (
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// TestEstimateByKindOfDelta: forty bytes of text are ten tokens, sixty of a signature
// too, however they are wrapped, escaped, or cut.
func TestEstimateByKindOfDelta(t *testing.T) {
	const forty = "0123456789012345678901234567890123456789"
	const sixty = forty + "01234567890123456789"
	for name, test := range map[string]struct {
		event string
		want  int64
	}{
		"text":             {deltaOf(`{"type":"text_delta","text":"` + forty + `"}`), 10},
		"text with blanks": {deltaOf(`{"type": "text_delta", "text": "` + forty + `"}`), 10},
		"text first":       {deltaOf(`{"text":"` + forty + `","type":"text_delta"}`), 10},
		"short escapes":    {deltaOf(`{"type":"text_delta","text":"0123456789\n123456789\t123456789\"12345678\\"}`), 10},
		"escapes late":     {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(forty, 9) + strings.Repeat(`\n`, 40) + `"}`), 100},
		"escapes early":    {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(`\n`, 40) + strings.Repeat(forty, 9) + `"}`), 100},
		"ASCII in hex":     {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(`\u0041`, 40) + `"}`), 10},
		"two bytes each":   {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(`\u00e9`, 20) + `"}`), 10},
		"as UTF-8":         {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(`é`, 20) + `"}`), 10},
		"three bytes each": {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(`\u4F60`, 40) + `"}`), 30},
		"surrogate pairs":  {deltaOf(`{"type":"text_delta","text":"` + strings.Repeat(`\uD83D\ude00`, 10) + `"}`), 10},
		"thinking":         {deltaOf(`{"type":"thinking_delta","thinking":"` + forty + `"}`), 10},
		"arguments":        {deltaOf(`{"type":"input_json_delta","partial_json":"{\"a\":\"34567890123456789012345678901234567\"}"}`), 10},
		"compaction":       {deltaOf(`{"type":"compaction_delta","content":"` + forty + `"}`), 10},
		"a signature":      {deltaOf(`{"type":"signature_delta","signature":"` + sixty + `"}`), 10},
		"a citation":       {deltaOf(`{"type":"citations_delta","citation":{"cited_text":"` + forty + `","text":"` + forty + `"}}`), 0},
		"nothing":          {deltaOf(`{"type":"input_json_delta","partial_json":""}`), 0},
		"an empty delta":   {deltaOf(`{}`), 0},
		"no delta":         {"event: content_block_delta\ndata: {\"text\":\"" + forty + "\"}\n\n", 0},

		"a block's text":       {blockOf(`{"type":"text","text":"` + forty + `"}`), 10},
		"a block's thinking":   {blockOf(`{"type":"thinking","thinking":"` + forty + `","signature":"` + sixty + `"}`), 20},
		"redacted thinking":    {blockOf(`{"type":"redacted_thinking","data":"` + sixty + `"}`), 10},
		"much of it":           {blockOf(`{"type":"redacted_thinking","data":"` + strings.Repeat(sixty, 2000) + `"}`), 20000},
		"a block's arguments":  {blockOf(`{"type":"tool_use","id":"` + forty + `","name":"` + forty + `","input": {"a": [1, {"text":"7890123456789012345"}]  } }`), 10},
		"a tool's results":     {blockOf(`{"type":"web_search_tool_result","content":[{"type":"web_search_result","encrypted_content":"` + sixty + `","text":"` + forty + `"}]}`), 0},
		"a tool's one result":  {blockOf(`{"type":"mcp_tool_result","content":"` + forty + `"}`), 0},
		"what ends in a quote": {deltaOf(`{"type":"text_delta","text":"0123456789012345678901234567890123456\"\\\""}`), 10},
	} {
		for spelling, spell := range spellings {
			stream := spell(test.event)
			for _, size := range []int{1, 3, 50, len(stream)} {
				m, _ := metered(stream, size)
				if got := m.Reading(0, Bounds{}).Usage.Output; got != test.want {
					t.Errorf("%s, %s, in pieces of %d: %d tokens, want %d", name, spelling, size, got, test.want)
				}
			}
		}
	}
}

// FuzzFrames holds that the fast way of measuring gives what the slow one does, and
// leaves nothing behind for what follows.
func FuzzFrames(f *testing.F) {
	for _, delta := range []string{
		`{"type":"text_delta","text":"a\n\"b\u00e9"}`, `{"type": "text_delta", "text": "a"}`, `{"type":"signature_delta","signature":"abc"} `,
		`{"type":"input_json_delta","partial_json":"{\"a\":1}"}`, `{"type":"thinking_delta","thinking":"a","x":"b"}`, `{"type":"text_delta","text":"a"`,
	} {
		f.Add([]byte(`{"type":"content_block_delta","index":10,"delta":` + delta + `}`))
		f.Add([]byte(`{"type": "content_block_delta", "index": 0, "delta": ` + delta + `}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		slow := sizer{begun: true}
		for i := range data {
			slow.feed(data[i : i+1])
		}
		for i := range frames {
			got, ok := frames[i].measure(data)
			if !ok {
				continue
			}
			if want := (sizer{begun: true, size: got}); slow != want {
				t.Errorf("%q: %+v, want %+v", data, slow, want)
			}
		}
	})
}

// TestBlocksMeasureAlike: as the start of a streamed block, and in a whole answer.
func TestBlocksMeasureAlike(t *testing.T) {
	for block, want := range map[string]size{
		`{"type":"text","text":"a\u00e9\n"}`:                                {text: 4},
		`{"type":"thinking","thinking":"abc","signature":"wxyz"}`:           {text: 3, sealed: 4},
		`{"type":"redacted_thinking","data":"wxyz"}`:                        {sealed: 4},
		`{"type":"tool_use","id":"t","name":"n","input":{"a":["\n",{}]}}`:   {text: 13},
		`{"type":"tool_use","id":"t","name":"n","input":{}}`:                {},
		`{"type":"tool_use","id":"t","name":"n","input":"{\"a\":1}"}`:       {text: 7},
		`{"type":"tool_use","id":"t","name":"n","input":[1,2,3]}`:           {},
		`{"type":"web_search_tool_result","content":[{"text":"abc"}]}`:      {},
		`{"type":"mcp_tool_result","content":"abc"}`:                        {},
		`{"type":"text","text":null,"thinking":7,"signature":{"text":"x"}}`: {},
	} {
		if got := sizeOfBlock(gjson.Parse(block)); got != want {
			t.Errorf("%s: %+v, want %+v", block, got, want)
		}
		var z sizer
		z.feed([]byte(`{"type":"content_block_start","index":0,"content_block":` + block + `}`))
		if z.size != want {
			t.Errorf("%s: %+v in a stream, want %+v", block, z.size, want)
		}
	}
}

// TestHiddenThinking: seconds in which a block had begun and only pings came are
// thirty tokens each; gaps between deltas are none, and nor is time outside blocks.
func TestHiddenThinking(t *testing.T) {
	type step struct {
		at    float64 // seconds
		event string
	}
	thinking := blockOf(`{"type":"thinking","thinking":"","signature":""}`)
	for _, test := range []struct {
		name  string
		steps []step
		ask   float64 // when the client leaves
		want  int64
	}{
		{"nothing has come", nil, 60, 0},
		{"before any block", []step{{5, start}, {10, ping}}, 60, 1},
		{"a block, then pings", []step{{0, start}, {10, thinking}, {20, ping}, {30, ping}}, 40, 900},
		{"a block, then nothing", []step{{0, start}, {10, thinking}}, 40, 900},
		{"half a second", []step{{0, start}, {10, thinking}}, 10.5, 1},
		{"two and a half", []step{{0, start}, {10, thinking}}, 12.5, 75},
		{"comments", []step{{0, start}, {10, thinking}, {20, ": hi\n\n"}}, 40, 900},
		{"half a ping", []step{{0, start}, {10, thinking}, {20, ping[:20]}}, 40, 900},
		{"pings without a name", []step{{0, start}, {10, thinking}, {20, unnamed(ping)}}, 40, 900},
		{"then a signature", []step{{0, start}, {10, thinking}, {20, ping}, {40, sign}}, 40, 908},
		{"then its end", []step{{0, start}, {10, thinking}, {20, ping}, {40, blockEnd}}, 90, 900},
		{"then its end, without names", []step{{0, start}, {10, unnamed(thinking)}, {20, ping}, {40, unnamed(blockEnd)}}, 90, 900},
		{"two of them", []step{{0, start}, {10, thinking}, {20, blockEnd}, {50, thinking}}, 60, 600},
		{"text without gaps", []step{{0, start}, {1, block}, {1.5, text}, {2, text}, {2.5, text}, {3, blockEnd}}, 3, 12},
		{"a gap in the text", []step{{0, start}, {1, block}, {1.5, text}, {5.5, text}, {6, blockEnd}}, 6, 128},
		{"an event that is coming", []step{{0, start}, {10, thinking}, {20, sign[:60]}, {20.5, sign[60:]}}, 20.5, 308},
		{"an unknown event", []step{{0, start}, {10, thinking}, {20, "event: x\ndata: {}\n\n"}}, 20, 300},
		{"upstream's own larger total", []step{{0, start}, {10, thinking}, {20, blockEnd}, {20, delta(`{"output_tokens":4000}`)}}, 20, 4000},
		{"upstream's own smaller total", []step{{0, start}, {10, thinking}, {20, blockEnd}, {20, delta(`{"output_tokens":40}`)}, {21, stop}}, 60, 40},
		{"content after a total", []step{{0, start}, {1, block}, {1, text}, {1, blockEnd}, {1, delta(`{"output_tokens":2}`)}, {1, block}, {1, text}}, 1, 8},
	} {
		for _, size := range []int{1, 1 << 20} {
			var m Meter
			for _, step := range test.steps {
				for p := step.event; len(p) > 0; p = p[min(size, len(p)):] {
					m.Feed([]byte(p[:min(size, len(p))]), time.Duration(step.at*float64(time.Second)))
				}
			}
			if got := m.Reading(time.Duration(test.ask*float64(time.Second)), Bounds{}).Usage.Output; got != test.want {
				t.Errorf("%s, in pieces of %d: %d tokens, want %d", test.name, size, got, test.want)
			}
		}
	}
}

// TestEstimateIsBounded: by the model's window and by the request's own limit; what
// upstream told is not.
func TestEstimateIsBounded(t *testing.T) {
	unreported := "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n"
	zeros := "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":0,\"output_tokens\":0}}}\n\n"
	long := deltaOf(`{"type":"text_delta","text":"` + strings.Repeat("0123456789abcdef", 100) + `"}`) // 400 tokens
	for _, test := range []struct {
		name, stream  string
		bounds        Bounds
		input, output int64
		estimated     bool
	}{
		{"input as reported", start + block + long, Bounds{Body: 4000, Window: 200_000}, 12, 400, true},
		{"input from the body", unreported + block + long, Bounds{Body: 4000, Window: 200_000}, 1000, 400, true},
		{"zeros are no report", zeros + block + long, Bounds{Body: 4000}, 1000, 400, true},
		{"not beyond the window", unreported + block + long, Bounds{Body: 32 << 20, Window: 200_000}, 200_000, 400, true},
		{"an unknown window", unreported + block + long, Bounds{Body: 32 << 20}, 8 << 20, 400, true},
		{"not beyond max_tokens", start + block + long, Bounds{MaxTokens: 100}, 12, 100, true},
		{"what was told is beyond it", start + delta(`{"output_tokens":300}`) + block + long, Bounds{MaxTokens: 100}, 12, 300, true},
		{"the larger of both", start + delta(`{"output_tokens":30}`) + block + long, Bounds{}, 12, 400, true},
		{"only the beginning has come", start, Bounds{Body: 4000}, 12, 1, true},
		{"only a beginning without usage", unreported, Bounds{Body: 4000}, 1000, 0, true},
		{"only pings have come", ping, Bounds{Body: 4000}, 0, 0, false},
		{"all was told", start + block + long + delta(`{"output_tokens":9}`), Bounds{Body: 4000}, 12, 9, false},
		{"all was told, though in small", start + block + long + delta(`{"output_tokens":0}`) + stop, Bounds{}, 12, 0, false},
		{"whole, and only the input told", start + block + long + delta(`{}`) + stop, Bounds{}, 12, 400, true},
		{"whole, and nothing told", unreported + block + long + stop, Bounds{Body: 4000}, 1000, 400, true},
		{"whole, and null told", unreported + block + long + delta(`null`) + stop, Bounds{Body: 4000}, 1000, 400, true},
		{"whole, and zeros told", zeros + block + long + delta(`{"input_tokens":0,"output_tokens":0}`) + stop, Bounds{Body: 4000}, 1000, 400, true},
		{"whole, and nothing in it", unreported + delta(`{}`) + stop, Bounds{Body: 4000}, 0, 0, false},
		{"whole, with results alone", unreported + large + stop, Bounds{Body: 4000}, 1000, 0, true},
	} {
		for _, size := range []int{1, 1 << 20} {
			m, _ := metered(test.stream, size)
			m.Finish()
			got := m.Reading(0, test.bounds)
			if got.Usage.Input != test.input || got.Usage.Output != test.output || got.Estimated != test.estimated || got.Cut {
				t.Errorf("%s: %+v, want %d and %d, %t", test.name, got, test.input, test.output, test.estimated)
			}
		}
	}
}

// TestEstimateBesideIterations: they count instead of the totals, so the estimate is
// one more of them.
func TestEstimateBesideIterations(t *testing.T) {
	stream := "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"iterations\":[{\"type\":\"compaction\",\"model\":\"x\",\"input_tokens\":600,\"output_tokens\":30}]}}}\n\n" +
		block + strings.Repeat(text, 10)
	m, _ := metered(stream, 1<<20)
	got := m.Reading(0, Bounds{})
	want := []upstream.Iteration{{Model: "x", Input: 600, Output: 30}, {Output: 10}}
	if !got.Estimated || len(got.Usage.Iterations) != 2 || got.Usage.Iterations[0] != want[0] || got.Usage.Iterations[1] != want[1] {
		t.Errorf("%+v, want %+v", got, want)
	}
	if again := m.Reading(0, Bounds{}); len(again.Usage.Iterations) != 2 {
		t.Errorf("asked twice: %+v", again)
	}
}
