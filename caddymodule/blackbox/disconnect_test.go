package blackbox_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestClientThatLeavesInMidStream(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	before := g.balance()
	g.sim.Queue("sk-upstream-main", simulator.Reply{
		Pause:      5 * time.Millisecond,
		StartUsage: &upstream.Usage{Input: 2000, Output: 1, CacheRead: 500},
		Fault:      simulator.Fault{Kind: simulator.Endless, After: 3},
	})
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	response := g.open(ctx, call{body: asking("claude-sonnet-5-5", true)})
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for deltas := 0; deltas < 10 && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "event: content_block_delta") {
			deltas++
		}
	}
	left := time.Now()
	leave()
	g.waitUpstream("upstream is let go", func() bool { return !g.last().Disconnected.IsZero() })
	if took := g.last().Disconnected.Sub(left); took > time.Second {
		t.Errorf("upstream worked on for %v", took)
	}
	sent := g.last()
	g.wantOneRecord(func(r *billing.Record) {
		if r.Status != 499 || !r.Estimated || r.Billing != billing.PaidFromBalance || r.Input != 2000 || r.CacheRead != 500 {
			t.Errorf("record %+v", r)
		}
		// Upstream counts what it sent, which may be a few deltas more.
		if r.Output <= 1 || r.Output > 2*sent.OutputTokens {
			t.Errorf("output %d, upstream sent %d", r.Output, sent.OutputTokens)
		}
		if r.Charged != r.Cost || r.Charged <= 0 || r.Charged >= before {
			t.Errorf("charged %s", r.Charged)
		}
	})
}

func TestClientThatLeavesBeforeAnyContent(t *testing.T) {
	for name, test := range map[string]struct {
		pieces int
		billed bool // what message_start has reported
	}{
		"before the header":   {simulator.BeforeHeader, false},
		"after the header":    {0, false},
		"after a ping":        {1, false},
		"after message_start": {2, true},
		"after another ping":  {3, true},
	} {
		reply := simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: test.pieces}, Events: []simulator.Event{
			{Name: "ping", Data: `{"type":"ping"}`},
			{Name: "message_start", Data: `{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}`},
			{Name: "ping", Data: `{"type":"ping"}`},
			{Name: "content_block_start", Data: `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`},
		}}
		for _, stream := range []bool{true, false} {
			if !stream && test.pieces > 0 {
				continue // that would be the whole answer
			}
			if !stream {
				reply.Events = nil
			}
			t.Run(fmt.Sprintf("%s, stream %t", name, stream), func(t *testing.T) {
				g := serve(t, simulator.Config{}, mainAccount+alice)
				before := g.balance()
				g.sim.Queue("sk-upstream-main", reply)
				ctx, leave := context.WithCancel(context.Background())
				done := make(chan struct{})
				go func() {
					defer close(done)
					g.leaving(ctx, asking("claude-sonnet-5-5", stream))
				}()
				g.eventually("the request is upstream", func() bool {
					return len(g.sim.Requests()) == 1 && g.last().Pieces >= int64(test.pieces)
				})
				time.Sleep(100 * time.Millisecond) // until the gateway has read what was sent
				leave()
				<-done
				g.waitUpstream("upstream is let go", func() bool { return !g.last().Disconnected.IsZero() })
				// The account is not to blame.
				if a := g.say("claude-sonnet-5-5", stream); a.status != 200 {
					t.Errorf("the next request got %d", a.status)
				}
				left := g.balance()
				records := g.records()
				if len(records) != 2 {
					t.Fatalf("%d records", len(records))
				}
				r, next := records[0], records[1]
				if r.Status != 499 || before-left != r.Charged+next.Charged {
					t.Errorf("%s of %s are left, record %+v", left, before, r)
				}
				switch {
				case test.billed && (r.Billing != billing.PaidFromBalance || r.Charged == 0 || r.Input != 9 || r.CacheRead != 4 || r.Output != 1 || !r.Estimated):
					t.Errorf("what message_start reported is not billed: %+v", r)
				case !test.billed && (r.Billing != billing.PaidByNobody || r.Charged != 0 || r.Input != 0 || r.Output != 0 || r.Estimated):
					t.Errorf("nothing was sent, and billed: %+v", r)
				}
			})
		}
	}
}

// leaving sends a request whose answer nobody waits for to the end.
func (g *gateway) leaving(ctx context.Context, body string) {
	request := g.request(ctx, call{body: body})
	if response, err := g.http.Do(request); err == nil {
		<-ctx.Done()
		response.Body.Close()
	}
}

func TestClientThatLeavesTheLine(t *testing.T) {
	g := serve(t, simulator.Config{}, alice+`
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		concurrency 1
	}
	scheduling {
		fallback_max_waiting 1
		sticky_max_waiting 1
	}`)
	release := g.hold("claude-sonnet-5-5")
	inLine := func() bool { // or refused, until the gateway has noticed that the one before left
		ctx, leave := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer leave()
		response, err := g.http.Do(g.request(ctx, call{body: asking("claude-sonnet-5-5", false)}))
		if err == nil {
			response.Body.Close()
		}
		return err != nil
	}
	for range 5 { // each gives its place in the line back
		for tries := 0; !inLine(); tries++ {
			if tries == 100 {
				t.Fatal("there is no place in line")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	next := make(chan answer)
	go func() {
		a := g.say("claude-sonnet-5-5", false)
		for tries := 0; a.status == http.StatusTooManyRequests && tries < 100; tries++ {
			time.Sleep(10 * time.Millisecond)
			a = g.say("claude-sonnet-5-5", false)
		}
		next <- a
	}()
	time.Sleep(50 * time.Millisecond)
	release()
	if a := <-next; a.status != 200 {
		t.Errorf("the request after them got %d: %s", a.status, a.body)
	}
	if n := len(g.sim.Requests()); n != 2 {
		t.Errorf("%d requests went upstream", n)
	}
}
