package faults_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// pool is a gateway before accounts a, b, c, …, asked in that order.
type pool struct {
	*gateway
	names string
}

func servePool(t *testing.T, names, words, more string) *pool {
	var out strings.Builder
	for i, name := range names {
		fmt.Fprintf(&out, "account acct-%[1]c {\napi_key sk-upstream-%[1]c\nbase_url SIM\npriority %[2]d\n%[3]s\n}\n", name, i, words)
	}
	return &pool{serve(t, simulatorConfig, quiet, out.String()+more+users(1, 0)), names}
}

func (p *pool) set(name string, r simulator.Reply) {
	p.sim.Set(upstreamSecret+name, simulator.Always(r))
}

// asked lists the accounts by how often each was asked: "a1 b2".
func (p *pool) asked() string {
	var out []string
	for _, name := range p.names {
		if n := p.sim.Account(upstreamSecret + string(name)).Messages; n > 0 {
			out = append(out, fmt.Sprintf("%c%d", name, n))
		}
	}
	return strings.Join(out, " ")
}

// step is one request to a pool: what the client gets, and which accounts were
// asked by then, all in all.
type step struct {
	status int
	asked  string
}

func (p *pool) play(t *testing.T, stream bool, text string, steps ...step) {
	t.Helper()
	for i, want := range steps {
		words := text
		if words == "" { // a conversation of its own
			words = fmt.Sprintf("hello %d", i)
		}
		a := p.ask(t.Context(), worker(0), "claude-sonnet-5-5", stream, words)
		if a.status != want.status || p.asked() != want.asked {
			t.Errorf("request %d got %d, %s were asked; want %d, %s", i+1, a.status, p.asked(), want.status, want.asked)
		}
	}
}

// TestThreeThatAnswerTheSame: a request asks no fourth account when three have said
// the same, and those that come next ask one that has not said it yet, or one in
// all.
func TestThreeThatAnswerTheSame(t *testing.T) {
	for _, reply := range []simulator.Reply{
		{Status: 529}, {Status: 500}, {Status: 429}, {Status: 408}, body(503, "<html>no</html>"), failing(simulator.Cut, simulator.BeforeHeader, 0),
		body(404, `{"type":"error","error":{"type":"not_found_error","message":"no such model"}}`),
	} {
		t.Run(fmt.Sprintf("%d %v", reply.Status, reply.Fault.Kind), func(t *testing.T) {
			p := servePool(t, "abcde", "", "")
			for _, name := range p.names {
				p.set(string(name), reply)
			}
			status := map[int]int{529: 529, 429: 429, 404: 404}[reply.Status]
			if status == 0 {
				status = 502
			}
			p.play(t, false, "", step{status, "a1 b1 c1"}, step{status, "a1 b1 c1 d1"}, step{status, "a1 b1 c1 d1 e1"}, step{status, "a2 b1 c1 d1 e1"})
		})
	}
}

// TestDifferentAnswers: as long as the answers differ, the next account is asked.
func TestDifferentAnswers(t *testing.T) {
	p := servePool(t, "abcdef", "", "")
	p.set("a", simulator.Reply{Status: 529})
	p.set("b", simulator.Reply{Status: 500})
	p.set("c", simulator.Reply{Status: 529})
	p.set("d", simulator.Reply{Status: 500})
	p.set("e", simulator.Reply{Status: 503})
	p.play(t, true, "", step{200, "a1 b1 c1 d1 e1 f1"}, step{200, "a1 b1 c1 d1 e1 f2"})
}

// TestOneOtherAfterATimeout: who has waited once in vain waits once more at most,
// and not at all for what may be paid for.
func TestOneOtherAfterATimeout(t *testing.T) {
	const limits = "relay {\nheader_timeout 200ms\nanswer_timeout 200ms\nfirst_event_timeout 200ms\nidle_timeout 200ms\n}\n"
	for _, test := range []struct {
		name   string
		second simulator.Reply
		stream bool
		want   step
	}{
		{"a stream, twice", failing(simulator.Hang, 1, 0), true, step{504, "a1 b1"}},
		{"a stream, and a failure", simulator.Reply{Status: 529}, true, step{529, "a1 b1"}},
		{"a stream, and an answer", spoken, true, step{200, "a1 b1"}},
		{"a whole answer", spoken, false, step{504, "a1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := servePool(t, "abc", "", limits)
			p.set("a", failing(simulator.Hang, simulator.BeforeHeader, 0))
			p.set("b", test.second)
			p.play(t, test.stream, "", test.want)
		})
	}
}

// TestSessionsAskTheirOwnAccountFirst: a session goes on at its account though that
// comes last. When it fails again, and all others come last, one other is asked.
func TestSessionsAskTheirOwnAccountFirst(t *testing.T) {
	p := servePool(t, "abc", "", "")
	const text = "one conversation"
	p.play(t, true, text, step{200, "a1"})
	p.set("a", simulator.Reply{Status: 529})
	p.play(t, true, "another", step{200, "a2 b1"}) // a comes last now
	p.set("a", spoken)
	p.play(t, true, text, step{200, "a3 b1"}) // and no longer
	for _, name := range p.names {
		p.set(string(name), simulator.Reply{Status: 529})
	}
	p.play(t, true, text, step{529, "a4 b2 c1"}) // at c in the end
	p.play(t, true, text, step{529, "a5 b2 c2"}) // a is back before b
	p.set("b", spoken)
	p.play(t, true, text, step{200, "a6 b3 c2"})
	p.play(t, true, "a third", step{200, "a6 b4 c2"})
}

// TestLastServesWhenOthersAreFull: an account that comes last has a free slot, and
// the one before it has none.
func TestLastServesWhenOthersAreFull(t *testing.T) {
	p := servePool(t, "ab", "concurrency 1", "")
	p.sim.Queue(upstreamSecret+"a", simulator.Reply{Status: 529})
	p.set("b", failing(simulator.Hang, 8, 0))
	response := p.open(t, "fill")
	defer response.Body.Close()
	p.waitUpstream("b is busy", func() bool { return p.asked() == "a1 b1" })
	p.play(t, false, "", step{200, "a2 b1"})
}

// open asks for a stream and returns when its content has begun.
func (p *pool) open(t *testing.T, text string) *http.Response {
	t.Helper()
	body := fmt.Sprintf(`{"model":"claude-sonnet-5-5","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"%s"}]}`, text)
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/v1/messages", strings.NewReader(body))
	request.Header.Set("X-Api-Key", keyOf(worker(0)))
	response, err := p.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// TestEmptyBlock: a block that begins empty is kept back for two seconds, and an
// error until then fails over. After that the answer is the account's.
func TestEmptyBlock(t *testing.T) {
	events := func(pings int, last simulator.Event) simulator.Reply {
		start := messageEvents("1", `{"input_tokens":1000,"output_tokens":1}`, "")[:2]
		for range pings {
			start = append(start, simulator.Event{Name: "ping", Data: pingData, Pause: 100 * time.Millisecond})
		}
		return simulator.Reply{Events: append(start, last)}
	}
	overloaded := simulator.Event{Name: "error", Data: `{"type":"error","error":{"type":"overloaded_error","message":"no more"}}`}
	stop := simulator.Event{Name: "content_block_stop", Data: `{"type":"content_block_stop","index":0}`}
	for _, test := range []struct {
		name  string
		reply simulator.Reply
		want  step
		kind  string
		heard time.Duration // the client hears of the answer about then
	}{
		{"an error at once", events(0, overloaded), step{200, "a1 b1"}, "", 0},
		{"an error after pings", events(5, overloaded), step{200, "a1 b1"}, "", 500 * time.Millisecond},
		{"an error before two seconds are over", events(15, overloaded), step{200, "a1 b1"}, "", 1500 * time.Millisecond},
		{"an error after two seconds", events(25, overloaded), step{200, "a1"}, "overloaded_error", 2 * time.Second},
		{"the block's end, and an end", events(1, stop), step{200, "a1"}, "api_error", 100 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := servePool(t, "ab", "", "")
			p.set("a", test.reply)
			p.set("b", backup)
			began := time.Now()
			response := p.open(t, "hello")
			heard := time.Since(began)
			defer response.Body.Close()
			if heard < test.heard-50*time.Millisecond || heard > test.heard+900*time.Millisecond {
				t.Errorf("the client heard of it after %v, want about %v", heard, test.heard)
			}
			all, err := io.ReadAll(response.Body)
			if err != nil {
				t.Error(err)
			}
			text := string(all)
			if p.asked() != test.want.asked || response.StatusCode != test.want.status {
				t.Errorf("%s were asked, want %s; status %d", p.asked(), test.want.asked, response.StatusCode)
			}
			failed := strings.Contains(text, "event: error\n")
			if failed != (test.kind != "") || failed && !strings.Contains(text, `"type":"`+test.kind+`"`) {
				t.Errorf("want an end with %q: %s", test.kind, text)
			}
			if strings.Count(text, "event: message_start\n") != 1 {
				t.Errorf("want one answer: %s", text)
			}
		})
	}
}
