package blackbox_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// An upstream that keeps the stream open after message_stop holds neither the
// client nor the slot for long.
func TestUpstreamThatLingers(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	g.sim.Set("", simulator.Always(simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: 1 << 20}}))
	began := time.Now()
	a := g.say("claude-sonnet-5-5", true)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the answer took %v", took)
	}
	events := readEvents(bytes.NewReader(a.body))
	if a.err != nil || events[len(events)-1].Name != "message_stop" {
		t.Errorf("%v, events %q", a.err, names(events))
	}
	g.wantOneRecord(func(r *billing.Record) {
		if r.Estimated || r.Status != 200 {
			t.Errorf("record %+v", r)
		}
	})
}
