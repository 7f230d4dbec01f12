package blackbox_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// What comes after message_stop is no part of the answer, however the stream is cut.
func TestASecondMessageInOneStreamIsNeitherRelayedNorCounted(t *testing.T) {
	message := func(input, output int, text string) string {
		var out strings.Builder
		for _, e := range []simulator.Event{
			startWith(fmt.Sprintf(`{"input_tokens":%d,"output_tokens":1}`, input)), emptyText, saying(text), blockStop,
			deltaWith(fmt.Sprintf(`{"output_tokens":%d}`, output)), messageStop,
		} {
			fmt.Fprintf(&out, "event: %s\ndata: %s\n\n", e.Name, e.Data)
		}
		return out.String()
	}
	first, second := message(900, 50, "first"), message(70_000, 6000, "second")
	nameless := func(s string) string { return string(withoutLines([]byte(s), "event: ")) }
	for _, test := range []struct {
		name, first, more string
	}{
		{"a second message", first, second},
		{"without names", nameless(first), nameless(second)},
		{"a ping and a second message", first, "event: ping\ndata: {\"type\":\"ping\"}\n\n" + second},
		{"an error", first, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"no\"}}\n\n"},
		{"another total", first, "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9999}}\n\n"},
		{"half a message", first, second[:len(second)/2]},
		{"CRLF", strings.ReplaceAll(first, "\n", "\r\n"), strings.ReplaceAll(second, "\n", "\r\n")},
	} {
		all := test.first + test.more
		for name, pieces := range map[string][]int{
			"at once": {len(all)}, "one by one": {len(test.first), len(test.more)}, "in the end of the first": {len(test.first) - 3, 9, len(all)},
			"in small pieces": {7}, "byte by byte": {1}, "in the second": {len(test.first) + 20, len(all)},
		} {
			t.Run(test.name+", "+name, func(t *testing.T) {
				g := serve(t, simulator.Config{}, mainAccount+alice)
				g.sim.Queue("sk-upstream-main", simulator.Reply{Body: []byte(all), Pieces: pieces})
				a := g.say("claude-sonnet-5-5", true)
				if a.status != 200 || a.err != nil || string(a.body) != test.first {
					t.Errorf("%d %v %s", a.status, a.err, a.body)
				}
				g.wantOneRecord(func(r *billing.Record) {
					if r.Input != 900 || r.Output != 50 || r.Estimated || r.Status != 200 {
						t.Errorf("record %+v", r)
					}
				})
			})
		}
	}
}
