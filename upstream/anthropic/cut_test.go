package anthropic

import "testing"

// TestHalfAnEventAtTheEnd: what is cut short is not what it would have been.
func TestHalfAnEventAtTheEnd(t *testing.T) {
	const total = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1200}}"
	const end = "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}"
	for _, test := range []struct {
		name         string
		stream       string
		final, whole bool
	}{
		{"in the total", total[:len(total)-4], false, false},
		{"before the total's blank line", total, true, false},
		{"in message_stop's name", total + end[:20], true, false},
		{"before message_stop's data", total + end[:23], true, false},
		{"in message_stop's data", total + end[:40], true, false},
		{"before message_stop's blank line", total + end, true, true},
		{"at the end", total + end + "\n\n", true, true},
		{"in nameless data", total + "\n\ndata: {\"type\":\"message_stop\"", true, false},
		{"in an error", total + "\n\nevent: error\ndata: {\"type\":\"error\",\"err", true, false},
	} {
		for _, size := range []int{1, 1 << 20} {
			var m Meter
			for p := []byte(test.stream); len(p) > 0; p = p[min(size, len(p)):] {
				m.Feed(p[:min(size, len(p))])
			}
			m.Finish()
			if m.Final() != test.final || m.Whole() != test.whole || m.Failure() != nil {
				t.Errorf("%s, in pieces of %d: final %t, whole %t, failure %v", test.name, size, m.Final(), m.Whole(), m.Failure())
			}
		}
	}
}

// TestEstimateByKindOfDelta: forty bytes of text are ten tokens, however they
// are wrapped.
func TestEstimateByKindOfDelta(t *testing.T) {
	for name, test := range map[string]struct {
		delta string
		want  int64
	}{
		"text":        {`{"type":"text_delta","text":"0123456789012345678901234567890123456789"}`, 10},
		"escapes":     {`{"type":"text_delta","text":"0123456789\n123456789\n123456789\"123456789"}`, 10},
		"thinking":    {`{"type":"thinking_delta","thinking":"0123456789012345678901234567890123456789"}`, 10},
		"a tool":      {`{"type":"input_json_delta","partial_json":"{\"a\":\"34567890123456789012345678901234567\"}"}`, 10},
		"a signature": {`{"type":"signature_delta","signature":"0123456789012345678901234567890123456789"}`, 0},
		"nothing":     {`{"type":"input_json_delta","partial_json":""}`, 0},
	} {
		var m Meter
		m.Feed([]byte(`event: content_block_delta` + "\n" + `data: {"type":"content_block_delta","index":0,"delta":` + test.delta + "}\n\n"))
		if got := m.EstimatedUsage().Output; got != test.want {
			t.Errorf("%s: %d tokens, want %d", name, got, test.want)
		}
	}
}
