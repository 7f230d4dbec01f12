package blackbox_test

import (
	"io"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// A non-streaming answer that is too large to be held is relayed as it comes,
// and is on record all the same.
func TestLargeAnswers(t *testing.T) {
	renamed := strings.Replace(mainAccount, "base_url", "models {\n\t\t\tclaude-sonnet-5-5 glm-9\n\t\t}\n\t\tbase_url", 1)
	text := strings.Repeat(`a \"usage\" of "quotes" and `, 400_000) // 10 MB
	used := upstream.Usage{Input: 7, Output: 9, Iterations: []upstream.Iteration{{Input: 1, Output: 2}, {Input: 7, Output: 9}}}
	t.Run("whole", func(t *testing.T) {
		g := serve(t, simulator.Config{}, renamed+alice)
		g.sim.Set("", simulator.Always(simulator.Reply{Text: text, Usage: &used, Model: "glm-9"}))
		a := g.say("claude-sonnet-5-5", false)
		if a.status != 200 || gjson.GetBytes(a.body, "content.0.text").String() != text || gjson.GetBytes(a.body, "model").Str != "claude-sonnet-5-5" {
			t.Errorf("%d, %d bytes, model %s", a.status, len(a.body), gjson.GetBytes(a.body, "model"))
		}
		g.wantOneRecord(func(r *billing.Record) {
			if r.Input != 8 || r.Output != 11 || r.Estimated || r.Status != 200 {
				t.Errorf("record %+v", r)
			}
		})
	})
	t.Run("cut", func(t *testing.T) {
		g := serve(t, simulator.Config{}, mainAccount+alice)
		g.sim.Set("", simulator.Always(simulator.Reply{
			Text: text, Pieces: []int{1 << 20}, Fault: simulator.Fault{Kind: simulator.Cut, After: 8},
		}))
		response := g.open(t.Context(), call{body: asking("claude-sonnet-5-5", false)})
		defer response.Body.Close()
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("the client can't tell that the answer was cut")
		}
		g.wantOneRecord(func(r *billing.Record) {
			if !r.Estimated || r.Output != 64 || r.Charged == 0 { // the request's max_tokens
				t.Errorf("record %+v", r)
			}
		})
	})
}
