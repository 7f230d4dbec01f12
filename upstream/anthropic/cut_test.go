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
			m, _ := metered(test.stream, size)
			m.Finish()
			if final := m.Reading(0, Bounds{}).Usage.Output == 1200; final != test.final || m.Whole() != test.whole || m.Failure() != nil {
				t.Errorf("%s, in pieces of %d: final %t, whole %t, failure %v", test.name, size, final, m.Whole(), m.Failure())
			}
		}
	}
}
