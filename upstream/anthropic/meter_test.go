package anthropic

import (
	"bytes"
	"fmt"
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
	stop  = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)

func delta(usage string) string {
	return "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":" + usage + "}\n\n"
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

func TestMeter(t *testing.T) {
	type state struct {
		Begun, Done, Final bool
		Failed             int
	}
	for _, test := range []struct {
		name, stream string
		want         state
		usage        upstream.Usage
	}{
		{"nothing", "", state{}, upstream.Usage{}},
		{"before the content", start + ping, state{}, base()},
		{"the content's name is enough", start + "event: content_block_start\n", state{Begun: true}, base()},
		{"whole", start + ping + block + text + delta(`{"output_tokens":9}`) + stop, state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
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
		{"absurd counts", start + block + delta(`{"output_tokens":1e30,"input_tokens":-5}`), state{Begun: true, Final: true},
			usageWith(func(u *upstream.Usage) { u.Input, u.Output = 0, maxCount })},
		{"counts that are no numbers", start + block + delta(`{"output_tokens":"9","input_tokens":{}}`), state{Begun: true}, base()},
		{"an error first", failed(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`), state{Failed: 529}, upstream.Usage{}},
		{"an error later", start + block + failed(`{"type":"error","error":{"type":"rate_limit_error"}}   `) + stop, state{Begun: true, Failed: 429}, base()},
		{"an error of no type", start + failed(`{}`), state{Failed: 500}, base()},
		{"no names", strings.NewReplacer("event: message_start\n", "", "event: content_block_start\n", "", "event: message_delta\n", "", "event: message_stop\n", "").Replace(start + block + delta(`{"output_tokens":9}`) + stop),
			state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
		{"CR LF and unknown events", strings.ReplaceAll(start+"event: new_thing\ndata: {}\n\n"+block+delta(`{"output_tokens":9}`)+stop, "\n", "\r\n"),
			state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
		{"unterminated end", start + block + delta(`{"output_tokens":9}`) + strings.TrimRight(stop, "\n"), state{Begun: true, Done: true, Final: true}, usageWith(func(u *upstream.Usage) { u.Output = 9 })},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{1 << 20, 1, 7} {
				var m Meter
				for p := []byte(test.stream); len(p) > 0; {
					n := min(size, len(p))
					m.Feed(p[:n])
					p = p[n:]
				}
				m.Finish()
				got := state{Begun: m.Begun(), Done: m.Done(), Final: m.Final()}
				if f := m.Failure(); f != nil {
					got.Failed = f.Status
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("in pieces of %d (-want +got):\n%s", size, diff)
				}
				if diff := cmp.Diff(test.usage, m.Usage()); diff != "" {
					t.Errorf("usage, in pieces of %d (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

func TestEstimate(t *testing.T) {
	var m Meter
	m.Feed([]byte(start + block + text + sign + strings.Repeat(text, 9)))
	if got := m.EstimatedUsage().Output; got != 40 {
		t.Errorf("ten deltas of 16 bytes: estimated %d tokens, want 40", got)
	}
	m.Feed([]byte(delta(`{"output_tokens":33}`)))
	if got := m.EstimatedUsage().Output; got != 33 {
		t.Errorf("with upstream's own figure: estimated %d tokens, want 33", got)
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
		m.Feed([]byte(test.sent))
		if got := m.Seal(); got != test.want {
			t.Errorf("after %q: %q, want %q", test.sent[len(start):], got, test.want)
		}
		var n Meter
		n.Feed([]byte(test.sent + m.Seal() + ours))
		if n.Failure() == nil || string(n.Failure().Body) != "{}" {
			t.Errorf("after %q: our error is not seen: %+v", test.sent[len(start):], n.Failure())
		}
	}
}

func TestReadUsage(t *testing.T) {
	u, ok := ReadUsage([]byte(`{"content":[{"text":"\"usage\":{}"}],"usage":{"input_tokens":3,"output_tokens":4,"cache_creation_input_tokens":5}}`))
	if want := (upstream.Usage{Input: 3, Output: 4, CacheWrite5m: 5}); !ok || !cmp.Equal(u, want) {
		t.Errorf("got %+v, %v", u, ok)
	}
	for _, body := range []string{``, `{}`, `{"usage":null}`, `[1]`, `{"usage":[]}`} {
		if u, ok := ReadUsage([]byte(body)); ok {
			t.Errorf("%s: got %+v", body, u)
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
// read, and that a renamer without anything to rename changes no byte.
func FuzzMeter(f *testing.F) {
	f.Add([]byte(start+ping+block+text+delta(`{"output_tokens":9}`)+stop), uint8(3))
	f.Add([]byte("data: {\"type\":\"message_delta\",\"usage\":{\"iterations\":[{}]}}\r\r"+failed(`{"error":{"type":"x"}}`)), uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		var whole, pieces Meter
		whole.Feed(stream)
		whole.Finish()
		r := Renamer{Sent: "sent\x00", Asked: "asked"}
		var out []byte
		for p := stream; len(p) > 0; {
			n := min(int(size)+1, len(p))
			pieces.Feed(p[:n])
			out = r.Stream(out, p[:n])
			p = p[n:]
		}
		pieces.Finish()
		if diff := cmp.Diff(whole.Usage(), pieces.Usage()); diff != "" {
			t.Errorf("usage (-whole +pieces):\n%s", diff)
		}
		if whole.Begun() != pieces.Begun() || whole.Done() != pieces.Done() || (whole.Failure() == nil) != (pieces.Failure() == nil) {
			t.Errorf("whole %v %v %v, pieces %v %v %v", whole.Begun(), whole.Done(), whole.Failure(), pieces.Begun(), pieces.Done(), pieces.Failure())
		}
		if out = r.Rest(out); !bytes.Equal(out, stream) {
			t.Errorf("renamed nothing:\n got %q\nwant %q", out, stream)
		}
	})
}

func TestMeterAllocates(t *testing.T) {
	chunk := []byte(text)
	var m Meter
	m.Feed([]byte(start + block + text))
	if allocs := testing.AllocsPerRun(100, func() { m.Feed(chunk) }); allocs != 0 {
		t.Errorf("%v allocations per event, want none", allocs)
	}
}

func BenchmarkMeter(b *testing.B) {
	var stream []byte
	for i := range 200 {
		stream = fmt.Appendf(stream, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word %d\"}}\n\n", i)
	}
	var m Meter
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		m.Feed(stream)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200, "ns/event")
}

func TestTailOfALargeAnswer(t *testing.T) {
	const tail = `xx \"usage\": {\"output_tokens\":1}"}],"stop_reason":"end_turn", "usage" : {"input_tokens":3,"output_tokens":4,"iterations":[{"model":"glm","input_tokens":9}]},"x":1}`
	u, ok := ReadTailUsage([]byte(tail))
	if want := (upstream.Usage{Input: 3, Output: 4, Iterations: []upstream.Iteration{{Model: "glm", Input: 9}}}); !ok || !cmp.Equal(u, want) {
		t.Errorf("got %+v, %v", u, ok)
	}
	want := strings.Replace(tail, `"glm"`, `"asked"`, 1)
	if got := (&Renamer{Sent: "glm", Asked: "asked"}).Tail([]byte(tail)); string(got) != want {
		t.Errorf("renamed:\n got %s\nwant %s", got, want)
	}
	for _, tail := range []string{``, `"usage"`, `"usage":`, `"usage":{"output_tok`, `{"text":"\"usage\":{\"output_tokens\":1}"}`, `"usage":null}`} {
		if u, ok := ReadTailUsage([]byte(tail)); ok {
			t.Errorf("%s: got %+v", tail, u)
		}
	}
}
