package anthropic

import (
	"fmt"
	"strings"
	"testing"
)

// blockOf is the start of a content block.
func blockOf(block string) string {
	return "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":" + block + "}\n\n"
}

func deltaOf(delta string) string {
	return "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":" + delta + "}\n\n"
}

const blockEnd = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"

// spellings are the ways in which an upstream may frame the same events.
var spellings = map[string]func(string) string{
	"as the API": func(s string) string { return s },
	"CR LF":      func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
	"CR":         func(s string) string { return strings.ReplaceAll(s, "\n", "\r") },
	"unnamed":    unnamed,
	"named after the data": func(s string) string {
		events := strings.SplitAfter(s, "\n\n")
		for i, e := range events {
			if name, data, ok := strings.Cut(e, "\n"); ok && data != "\n" {
				events[i] = strings.TrimSuffix(data, "\n") + name + "\n\n"
			}
		}
		return strings.Join(events, "")
	},
	"no blank after the colon": func(s string) string {
		return strings.NewReplacer("event: ", "event:", "data: ", "data:").Replace(s)
	},
	"comments between": func(s string) string { return strings.ReplaceAll(s, "\n\n", "\n: hi\n\n: hi\n\n") },
	"padded":           func(s string) string { return strings.ReplaceAll(s, "}\n", "}      \n") },
}

// opening is what a meter says of a stream's content.
func opening(m *Meter) string {
	switch {
	case m.Failure() != nil:
		return "failed"
	case m.Begun():
		return "begun"
	case m.Opened():
		return "opened"
	}
	return "nothing"
}

// TestWhenContentBegins: whatever the framing, and wherever the bytes are cut.
func TestWhenContentBegins(t *testing.T) {
	const overloaded = `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`
	for _, test := range []struct{ stream, want string }{
		{start, "nothing"},
		{start + ping + ping, "nothing"},
		{start + "event: an_event_of_next_year\ndata: {\"type\":\"an_event_of_next_year\"}\n\n", "nothing"},
		{start + failed(overloaded), "failed"},
		{failed(overloaded), "failed"},

		{start + blockOf(`{"type":"text","text":""}`), "opened"},
		{start + blockOf(`{"type":"text","text":"","citations":null}`), "opened"},
		{start + blockOf(`{"type":"text","text":"","citations":[]}`), "opened"},
		{start + blockOf(`{"type":"thinking","thinking":"","signature":""}`), "opened"},
		{start + blockOf(`{"type":"redacted_thinking","data":""}`), "opened"},
		{start + blockOf(`{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}`), "opened"},
		{start + blockOf(`{"type":"tool_use","id":"toolu_1","name":"weather","input": { } ,"caller":{"type":"direct"}}`), "opened"},
		{start + blockOf(`{"type":"tool_use","id":"toolu_1","name":"weather"}`), "opened"},
		{start + blockOf(`{"type":"tool_use","id":"toolu_1","name":"weather","input":""}`), "opened"},
		{start + blockOf(`{"type":"mcp_tool_use","id":"m","name":"n","server_name":"s","input":{}}`), "opened"},
		{start + blockOf(`{"type":"compaction","content":null}`), "opened"},
		{start + blockOf(`{"type":"block_of_next_year"}`), "opened"},
		{start + blockOf(`{}`), "opened"},
		{start + ping + block + ping + ping, "opened"},
		{start + block + ": a comment\n\n", "opened"},
		{start + block + failed(overloaded), "failed"},
		{start + block + ping + failed(overloaded), "failed"},

		{start + blockOf(`{"type":"text","text":"x"}`), "begun"},
		{start + blockOf(`{"text":" ","type":"text"}`), "begun"},
		{start + blockOf(`{"type":"thinking","thinking":"Hm","signature":""}`), "begun"},
		{start + blockOf(`{"type":"thinking","thinking":"","signature":"EqoB"}`), "begun"},
		{start + blockOf(`{"type":"redacted_thinking","data":"EqoB"}`), "begun"},
		{start + blockOf(`{"type":"tool_use","id":"t","name":"n","input":{"a":1}}`), "begun"},
		{start + blockOf(`{"type":"web_search_tool_result","tool_use_id":"t","content":[{"type":"web_search_result"}]}`), "begun"},
		{start + blockOf(`{"type":"web_search_tool_result","tool_use_id":"t","content":{"type":"web_search_tool_result_error"}}`), "begun"},
		{start + blockOf(`{"type":"compaction","content":"The story"}`), "begun"},
		{start + blockOf(`{"type":"block_of_next_year","items":[0]}`), "begun"},

		{start + block + text, "begun"},
		{start + block + sign, "begun"},
		{start + block + deltaOf(`{"type":"input_json_delta","partial_json":""}`), "begun"},
		{start + block + blockEnd, "begun"},
		{start + block + block, "begun"},
		{start + block + ping + delta(`{"output_tokens":0}`), "begun"},
		{start + block + "event: an_event_of_next_year\ndata: {\"type\":\"an_event_of_next_year\"}\n\n", "begun"},
		{start + text, "begun"},
		{start + delta(`{"output_tokens":0}`), "begun"},
		{start + stop, "begun"},
		{delta(`{}`), "begun"},
	} {
		for name, spell := range spellings {
			stream := spell(test.stream)
			for _, size := range []int{1, 2, 13, len(stream)} {
				m, _ := metered(stream, size)
				if got := opening(&m); got != test.want {
					t.Errorf("%s, in pieces of %d: %s, want %s, after %q", name, size, got, test.want, stream[min(len(start), len(stream)):])
				}
			}
		}
	}
}

// TestContentBeginsInOrder: at every byte of a stream, what is said of it is what is
// said of the bytes so far at once.
func TestContentBeginsInOrder(t *testing.T) {
	whole := start + ping + block + ping + text + large + delta(`{"output_tokens":9}`) + stop + start + text
	for name, spell := range spellings {
		stream := spell(whole)
		var bytewise Meter
		total := 0
		var order []string
		for i := range len(stream) {
			total += bytewise.Feed([]byte{stream[i]}, 0)
			atOnce, n := metered(stream[:i+1], i+1)
			got, want := opening(&bytewise), opening(&atOnce)
			if got != want || total != n || bytewise.Done() != atOnce.Done() || bytewise.Whole() != atOnce.Whole() {
				t.Fatalf("%s: after %q: %s and %d bytes, at once %s and %d", name, stream[:i+1], got, total, want, n)
			}
			if len(order) == 0 || order[len(order)-1] != got {
				order = append(order, got)
			}
		}
		if got := fmt.Sprint(order); got != "[nothing opened begun]" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestALargeEventIsNotAwaited: a large block or delta is content before its end.
func TestALargeEventIsNotAwaited(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 70) // over 1 KiB
	for _, test := range []struct{ event, want string }{
		{blockOf(`{"type":"web_search_tool_result","content":[{"encrypted_content":"` + long), "begun"},
		{blockOf(`{"type":"text","text":"` + long), "begun"},
		{blockOf(`{"type":"text","text":"` + long[:800]), "nothing"},
		{deltaOf(`{"type":"text_delta","text":"` + long), "begun"},
		{deltaOf(`{"type":"text_delta","text":"` + long[:800]), "nothing"},
		{failed(`{"type":"error","error":{"message":"` + long), "nothing"},
		{ping[:len(ping)-3] + `,"pad":"` + long, "nothing"},
		{start[:len(start)-3] + `,"pad":"` + long, "nothing"},
	} {
		for name, spell := range spellings {
			if name == "named after the data" { // a name that has not come yet
				continue
			}
			stream := spell(start + strings.TrimRight(test.event, "}\n"))
			for _, size := range []int{1, 100, len(stream)} {
				m, _ := metered(stream, size)
				if got := opening(&m); got != test.want {
					t.Errorf("%s, in pieces of %d: %s, want %s, after %q", name, size, got, test.want, stream[len(start):len(start)+100])
				}
			}
		}
	}
}

// TestNothingReported: what upstream has sent before anything may be billed.
func TestNothingReported(t *testing.T) {
	for stream, want := range map[string]bool{
		"": false, ": hi\n\n": false, ping: false, ping + failed(`{}`): false, start[:40]: false,
		start: true, ping + start: true, block: true, text: true, delta(`{}`): true, stop: true,
		"event: message_start\ndata: {}\n\n": true,
	} {
		m, _ := metered(stream, 5)
		if m.Reported() != want {
			t.Errorf("%q: %t", stream, m.Reported())
		}
		if got := m.Reading(0, Bounds{Body: 400}); !want && (got.Estimated || got.Usage.Input != 0) {
			t.Errorf("%q: %+v is billed", stream, got)
		}
	}
}

// TestTheAnswerEnds with message_stop or an error, wherever the bytes are cut: what
// comes after it is neither counted nor relayed, to a renamed model's client either.
func TestTheAnswerEnds(t *testing.T) {
	answer := start + block + text + delta(`{"output_tokens":9}`) + stop
	second := strings.NewReplacer(`"input_tokens":12`, `"input_tokens":7777`, `"output_tokens":9`, `"output_tokens":8888`).Replace(answer)
	broken := start + block + text + failed(`{"type":"error","error":{"type":"api_error"}}`)
	for _, test := range []struct {
		name, answer, after string
		whole               bool
		output              int64
	}{
		{"nothing after it", answer, "", true, 9},
		{"a second message", answer, second, true, 9},
		{"a second message_stop", answer, stop, true, 9},
		{"a second total", answer, delta(`{"output_tokens":8888}`), true, 9},
		{"an error", answer, failed(`{"type":"error","error":{"type":"api_error"}}`), true, 9},
		{"pings", answer, ping + ping, true, 9},
		{"blank lines", answer, "\n\n\n", true, 9},
		{"half an event", answer, "event: mess", true, 9},
		{"no event stream", answer, "<html>", true, 9},
		{"an error, and a message after it", broken, answer, false, 4},
	} {
		for name, spell := range spellings {
			answer := spell(test.answer)
			if name == "comments between" { // what follows the last event is after the end
				answer = strings.TrimSuffix(answer, ": hi\n\n")
			}
			stream := answer + spell(test.after)
			if name == "comments between" {
				stream = answer + ": hi\n\n" + spell(test.after)
			}
			for _, size := range []int{1, 7, 100, len(answer), len(answer) - 1, len(stream)} {
				m, n := metered(stream, size)
				m.Finish()
				r := Renamer{Sent: "sent", Asked: "asked"}
				var out []byte
				for p := stream; len(p) > 0; p = p[min(size, len(p)):] {
					out = r.Stream(out, []byte(p[:min(size, len(p))]))
				}
				out = r.Rest(out)
				got := m.Reading(0, Bounds{}).Usage
				if n != len(answer) || string(out) != answer || m.Whole() != test.whole || got.Input != 12 || got.Output != test.output {
					t.Errorf("%s, %s, in pieces of %d: %d bytes, want %d, renamed %d; whole %t, used %+v", test.name, name, size, n, len(answer), len(out), m.Whole(), got)
				}
			}
		}
	}
}

// TestASecondBeginning: a message_start in the middle of an answer loses nothing of
// what was told before it.
func TestASecondBeginning(t *testing.T) {
	again := func(usage string) string {
		return "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":" + usage + "}}\n\n"
	}
	for _, test := range []struct {
		stream        string
		input, output int64
	}{
		{start + again(`{"input_tokens":0,"output_tokens":0}`), 12, 1},
		{start + again(`{}`), 12, 1},
		{start + again(`null`), 12, 1},
		{start + again(`{"input_tokens":11,"output_tokens":5}`), 12, 5},
		{start + block + text + again(`{"input_tokens":70,"output_tokens":2}`), 70, 4},
		{start + block + text + again(`{"input_tokens":0}`) + block + text + delta(`{"output_tokens":9}`) + stop, 12, 9},
		{start + delta(`{"input_tokens":90,"output_tokens":9}`) + again(`{"input_tokens":3,"output_tokens":3}`) + stop, 90, 9},
	} {
		for _, size := range []int{1, len(test.stream)} {
			m, _ := metered(test.stream, size)
			if got := m.Reading(0, Bounds{}).Usage; got.Input != test.input || got.Output != test.output || got.CacheRead != 2048 {
				t.Errorf("%q: used %+v, want %d and %d", test.stream[len(start):], got, test.input, test.output)
			}
		}
	}
}
