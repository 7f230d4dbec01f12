package anthropic

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream"
)

const (
	start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":300,\"cache_read_input_tokens\":2048,\"cache_creation\":{\"ephemeral_5m_input_tokens\":100,\"ephemeral_1h_input_tokens\":200},\"output_tokens\":1,\"service_tier\":\"standard\",\"inference_geo\":\"us\",\"speed\":\"fast\"}}}\n\n"
	ping  = "event: ping\ndata: {\"type\": \"ping\"}\n\n"
	block = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
	text  = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"0123456789abcdef\"}}\n\n"
	sign  = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"0123456789abcdef0123456789abcdef0123456789abcdef\"}}\n\n"
	large = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"web_search_tool_result\",\"content\":[{\"encrypted_content\":\"0123456789abcdef0123456789abcdef\"}]}}\n\n"
	stop  = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)

func delta(usage string) string {
	return "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":" + usage + "}\n\n"
}

// unnamed takes the events' names away: the types stand in the data alone.
func unnamed(stream string) string {
	return regexp.MustCompile(`event: [a-z_]+\n`).ReplaceAllString(stream, "")
}

func failed(data string) string { return "event: error\ndata: " + data + "\n\n" }

func base() upstream.Usage {
	return upstream.Usage{Input: 12, Output: 1, CacheWrite5m: 100, CacheWrite1h: 200, CacheRead: 2048, Speed: "fast", Tier: "standard", Geo: "us"}
}

func usageWith(change func(*upstream.Usage)) upstream.Usage {
	u := base()
	change(&u)
	return u
}

// metered feeds a stream in pieces of a size, all of them at time zero, and returns
// how many of its bytes belong to the answer.
func metered(stream string, size int) (m Meter, n int) {
	for len(stream) > 0 {
		piece := stream[:min(size, len(stream))]
		stream = stream[len(piece):]
		n += m.Feed([]byte(piece), 0)
	}
	return m, n
}

func TestMeter(t *testing.T) {
	type state struct {
		Begun, Done bool
		Final       bool // upstream told all: nothing is estimated
		Failed      int
	}
	for _, test := range []struct {
		name, stream string
		want         state
		usage        upstream.Usage
	}{
		{"nothing", "", state{Final: true}, upstream.Usage{}},
		{"before the content", start + ping, state{}, base()},
		{"a block's name is not enough", start + "event: content_block_start\n", state{}, base()},
		{"an empty block is not enough", start + ping + block + ping, state{}, base()},
		{"whole", start + ping + block + text + delta(`{"output_tokens":9}`) + stop, state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
		{"no content at all, and no total", start + stop, state{Begun: true, Done: true, Final: true}, base()},
		{"no content at all", start + delta(`{"output_tokens":0}`), state{Begun: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 0 })},
		{"null and absent change nothing", start + block + delta(`{"input_tokens":null,"output_tokens":9,"cache_read_input_tokens":null}`), state{Begun: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
		{"running totals are not added up", start + block + delta(`{"output_tokens":9}`) + delta(`{"output_tokens":11,"input_tokens":61}`), state{Begun: true, Final: true},
			usageWith(func(u *upstream.Usage) { u.Output, u.Input = 11, 61 })},
		{"cache writes that grow are of five minutes", start + block + delta(`{"cache_creation_input_tokens":450,"output_tokens":2}`), state{Begun: true, Final: true},
			usageWith(func(u *upstream.Usage) { u.CacheWrite5m, u.Output = 250, 2 })},
		{"cache writes that shrink", start + block + delta(`{"cache_creation_input_tokens":150,"output_tokens":2}`), state{Begun: true, Final: true},
			usageWith(func(u *upstream.Usage) { u.CacheWrite5m, u.CacheWrite1h, u.Output = 0, 150, 2 })},
		{"web searches", start + block + delta(`{"output_tokens":2,"server_tool_use":{"web_search_requests":3,"web_fetch_requests":1}}`), state{Begun: true, Final: true},
			usageWith(func(u *upstream.Usage) { u.WebSearches, u.Output = 3, 2 })},
		{"iterations", start + block + delta(`{"output_tokens":2,"iterations":[{"type":"compaction","input_tokens":60385,"output_tokens":522,"model":"x"},{"type":"message","input_tokens":5,"output_tokens":2,"model":null,"cache_creation_input_tokens":4,"cache_creation":{"ephemeral_1h_input_tokens":3}}]}`), state{Begun: true, Final: true},
			usageWith(func(u *upstream.Usage) {
				u.Output = 2
				u.Iterations = []upstream.Iteration{{Model: "x", Input: 60385, Output: 522}, {Input: 5, Output: 2, CacheWrite5m: 1, CacheWrite1h: 3}}
			})},
		{"an error first", failed(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`), state{Failed: 529, Final: true}, upstream.Usage{}},
		{"an error after an empty block", start + block + ping + failed(`{"type":"error","error":{"type":"rate_limit_error"}}   `) + stop, state{Failed: 429}, base()},
		{"an error after content", start + block + text + failed(`{"type":"error","error":{"type":"rate_limit_error"}}   `) + stop, state{Begun: true, Failed: 429}, usageWith(func(u *upstream.Usage) { u.Output = 4 })},
		{"an error of no type", start + failed(`{}`), state{Failed: 500}, base()},
		{"no names", strings.NewReplacer("event: message_start\n", "", "event: content_block_start\n", "", "event: message_delta\n", "", "event: message_stop\n", "").Replace(start + block + delta(`{"output_tokens":9}`) + stop),
			state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
		{"CR LF and unknown events", strings.ReplaceAll(start+"event: new_thing\ndata: {}\n\n"+block+delta(`{"output_tokens":9}`)+stop, "\n", "\r\n"),
			state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
		{"unterminated end", start + block + delta(`{"output_tokens":9}`) + strings.TrimRight(stop, "\n"), state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{1 << 20, 1, 7} {
				m, _ := metered(test.stream, size)
				m.Finish()
				reading := m.Reading(0, Bounds{})
				got := state{Begun: m.Begun(), Done: m.Done(), Final: !reading.Estimated}
				if f := m.Failure(); f != nil {
					got.Failed = f.Status
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("in pieces of %d (-want +got):\n%s", size, diff)
				}
				if diff := cmp.Diff(test.usage, reading.Usage); diff != "" {
					t.Errorf("usage, in pieces of %d (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

func TestSeal(t *testing.T) {
	const (
		ours = "event: error\ndata: {}\n\n"
		seal = "\nevent: ping\n\n"
	)
	for _, test := range []struct {
		sent, want string
	}{
		{start + text, ""},
		{start + "event: ping\ndata: {}\n", seal},      // a whole event
		{start + "event: ping\ndata: {\"ty", seal},     // half a line
		{start + "event: content_block_de", seal},      // half a name
		{start + "event: ping\ndata: {}\n\n: c", seal}, // half a comment
	} {
		var m Meter
		m.Feed([]byte(test.sent), 0)
		if got := m.Seal(); got != test.want {
			t.Errorf("after %q: %q, want %q", test.sent[len(start):], got, test.want)
		}
		var n Meter
		n.Feed([]byte(test.sent+m.Seal()+ours), 0)
		if n.Failure() == nil || string(n.Failure().Body) != "{}" {
			t.Errorf("after %q: our error is not seen: %+v", test.sent[len(start):], n.Failure())
		}
	}
}

func TestRenamer(t *testing.T) {
	const (
		message = `{"type":"message","model":"glm","content":[{"type":"tool_use","input":{"model":"glm"}},{"text":"glm"}],"usage":{"iterations":[{"model":"glm"},{"model":null},{"model":"z"}]},"x":{"model":"glm"}}`
		renamed = `{"type":"message","model":"cl\"aude","content":[{"type":"tool_use","input":{"model":"glm"}},{"text":"glm"}],"usage":{"iterations":[{"model":"cl\"aude"},{"model":null},{"model":"z"}]},"x":{"model":"glm"}}`
	)
	newRenamer := func() *Renamer { return &Renamer{Sent: "glm", Asked: `cl"aude`} }
	if got := newRenamer().Body([]byte(message)); string(got) != renamed {
		t.Errorf("body:\n got %s\nwant %s", got, renamed)
	}
	stream := ": hi\n\nevent: message_start\r\ndata: {\"type\":\"message_start\",\"message\":" + message + "}\r\n\r\n" + ping +
		"event: content_block_delta\ndata: {\"delta\":{\"partial_json\":\"{\\\"model\\\":\\\"glm\\\"}\",\"model\":\"glm\"}}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\ndata: \"usage\":{\"iterations\":[{\"model\":\ndata: \"glm\"}]}}\n\n" +
		"data: {\"type\":\"message_delta\",\"usage\":{\"iterations\":[{\"model\":\"glm\"}]}}\n\nevent: message_delta\ndata: {\"usage\":{}}"
	want := strings.NewReplacer(message, renamed, "data: \"glm\"}]}}", "data: \"cl\\\"aude\"}]}}", "[{\"model\":\"glm\"}]}}\n\nevent", "[{\"model\":\"cl\\\"aude\"}]}}\n\nevent").Replace(stream)
	for _, size := range []int{1, 3, 50, len(stream)} {
		r := newRenamer()
		var out []byte
		for p := []byte(stream); len(p) > 0; {
			n := min(size, len(p))
			out = r.Stream(out, p[:n])
			p = p[n:]
		}
		if out = r.Rest(out); string(out) != want {
			t.Errorf("in pieces of %d:\n got %q\nwant %q", size, out, want)
		}
	}
}

// FuzzMeter holds that the pieces a stream comes in change nothing of what is
// read, and that a renamer without anything to rename changes no byte of the answer.
func FuzzMeter(f *testing.F) {
	f.Add([]byte(start+ping+block+text+delta(`{"output_tokens":9}`)+stop+start), uint8(3), uint16(300))
	f.Add([]byte("data: {\"type\":\"message_delta\",\"usage\":{\"iterations\":[{}]}}\r\r"+failed(`{"error":{"type":"x"}}`)+ping), uint8(1), uint16(9))
	f.Add([]byte(strings.ReplaceAll(start+block+sign+stop+stop, "\n", "\r\n")), uint8(6), uint16(800))
	f.Add([]byte(unnamed(start+block+large+ping+delta(`{"output_tokens":-1}`)+stop)), uint8(0), uint16(1500))
	f.Add([]byte(`event: content_block_delta`+"\n"+`data: {"delta":{"type":"x","partial_json":"\ud83d\ude00\"\n","data" : "abc"},"content_block":{"input":{"a":[{}," \""]}}}`+"\n\n"), uint8(2), uint16(77))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8, end uint16) {
		type state struct {
			Reported, Opened, Begun, Done, Whole, AtBoundary bool
			Failed                                           bool
			N                                                int
			Reading                                          Reading
		}
		read := func(stream string, size int, finish bool) state {
			m, n := metered(stream, size)
			if finish {
				m.Finish()
			}
			return state{m.Reported(), m.Opened(), m.Begun(), m.Done(), m.Whole(), m.AtBoundary(), m.Failure() != nil, n, m.Reading(0, Bounds{})}
		}
		prefix := string(stream[:min(len(stream), int(end))])
		for _, stream := range []string{string(stream), prefix} {
			for _, finish := range []bool{false, true} {
				whole, pieces := read(stream, len(stream)+1, finish), read(stream, int(size)+1, finish)
				if diff := cmp.Diff(whole, pieces); diff != "" {
					t.Errorf("finished %t (-whole +pieces):\n%s", finish, diff)
				}
				if whole.Begun && !whole.Opened || whole.Opened && !whole.Reported {
					t.Errorf("content has begun, but no block: %+v", whole)
				}
			}
		}
		r := Renamer{Sent: "sent\x00", Asked: "asked"}
		var out []byte
		for p := stream; len(p) > 0; {
			n := min(int(size)+1, len(p))
			out = r.Stream(out, p[:n])
			p = p[n:]
		}
		_, n := metered(string(stream), len(stream)+1)
		if out = r.Rest(out); !bytes.Equal(out, stream[:n]) {
			t.Errorf("renamed nothing:\n got %q\nwant %q", out, stream[:n])
		}
	})
}

func TestMeterAllocates(t *testing.T) {
	chunk := []byte(text)
	var m Meter
	m.Feed([]byte(start+block+text), 0)
	if allocs := testing.AllocsPerRun(100, func() { m.Feed(chunk, 0) }); allocs != 0 {
		t.Errorf("%v allocations per event, want none", allocs)
	}
	if allocs := testing.AllocsPerRun(100, func() { m.Feed(chunk[:50], 0); m.Feed(chunk[50:], 0) }); allocs != 0 {
		t.Errorf("%v allocations per event in two pieces, want none", allocs)
	}
}

func BenchmarkMeter(b *testing.B) {
	event := func(data string) string { return "event: content_block_delta\ndata: " + data + "\n\n" }
	for _, bench := range []struct{ name, event string }{
		{"text", event(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word 123"}}`)},
		{"escapes", event(`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"path\": \"a.go\", "}}`)},
		{"spaced", event(`{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word 123"}}`)},
		{"large", event(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + strings.Repeat("some words of text ", 200) + `"}}`)},
		{"CR LF", strings.ReplaceAll(event(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word 123"}}`), "\n", "\r\n")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			stream := []byte(strings.Repeat(bench.event, 200))
			var m Meter
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				m.Feed(stream, 0)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200, "ns/event")
		})
	}
}
