package faults_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// tally counts what reaches an account, and answers counts of tokens and messages
// as it is told to.
type tally struct {
	mu                          sync.Mutex
	count, message              simulator.Reply
	counts, messages, questions int
	asked                       string // the model of the last question
}

func (a *tally) say(r *simulator.Request) simulator.Reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case strings.HasSuffix(r.Path, "/count_tokens"):
		a.counts++
		return a.count
	case isQuestion(r):
		a.questions++
		a.asked = r.Model
		return a.message
	}
	a.messages++
	return a.message
}

func (a *tally) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("%d counts, %d messages, %d questions", a.counts, a.messages, a.questions)
}

func (a *tally) answer(count, message simulator.Reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count, a.message = count, message
}

// countTokens asks for a count of tokens.
func (p *pool) countTokens(t *testing.T) (status int, kind string, final bool) {
	t.Helper()
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/v1/messages/count_tokens",
		strings.NewReader(`{"model":"claude-sonnet-5-5","messages":[{"role":"user","content":"hello"}]}`))
	request.Header.Set("X-Api-Key", keyOf(worker(0)))
	response, err := p.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	noLeak(t, response.Header, string(body))
	return response.StatusCode, gjson.GetBytes(body, "error.type").Str, response.Header.Get("X-Should-Retry") == "false"
}

// TestFaultsOfCounting: one account is asked for a count, whatever it answers.
// Its failure puts it last for counts alone, but for what is about the account.
func TestFaultsOfCounting(t *testing.T) {
	fiveHours := limited(simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{{Name: "5h", Status: "rejected", Reset: time.Now().Add(time.Hour)}}})
	notFound := body(404, `{"type":"error","error":{"type":"not_found_error","message":"no such model"}}`)
	for _, test := range []struct {
		name   string
		reply  simulator.Reply
		status int
		kind   string
		final  bool
		first  bool // the account is asked first again for a count
		out    bool // it is out for messages, too
		asks   int  // questions of the gateway's own
	}{
		{"a judgement", body(400, oddError), 400, "invalid_request_error", false, true, false, 0},
		{"no such model", notFound, 404, "not_found_error", false, false, false, 0},
		{"no such path", body(404, "<html>nothing here</html>"), 404, "", false, true, false, 0},
		{"overloaded", simulator.Reply{Status: 529}, 529, "overloaded_error", false, false, false, 0},
		{"a page", body(502, "<html>away</html>"), 502, "api_error", false, false, false, 0},
		{"limited", simulator.Reply{Status: 429}, 429, "rate_limit_error", false, false, false, 0},
		{"limited, but not now", simulator.Reply{Status: 429, Header: http.Header{"Retry-After": {"0"}}}, 429, "rate_limit_error", false, true, false, 0},
		{"a window is spent", fiveHours, 429, "rate_limit_error", true, false, true, 0},
		{"denied", simulator.Reply{Status: 403}, 502, "api_error", true, false, false, 1},
		{"unauthorized", simulator.Reply{Status: 401}, 502, "api_error", true, false, false, 1},
		{"no answer", failing(simulator.Hang, simulator.BeforeHeader, 0), 504, "timeout_error", false, false, false, 0},
		{"half an answer", failing(simulator.Hang, 0, 3), 504, "timeout_error", false, false, false, 0},
		{"a cut", failing(simulator.Cut, 0, 3), 502, "api_error", false, false, false, 0},
		{"no count", body(200, `{"tokens":3}`), 502, "api_error", false, false, false, 0},
		{"an error in a 200", body(200, `{"type":"error","error":{"type":"overloaded_error","message":"no"}}`), 529, "overloaded_error", false, false, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := servePool(t, "ab", "", "relay {\nheader_timeout 200ms\n}\n")
			var a, b tally
			p.sim.Set(upstreamSecret+"a", a.say)
			p.sim.Set(upstreamSecret+"b", b.say)
			a.answer(test.reply, simulator.Reply{})
			if status, kind, final := p.countTokens(t); status != test.status || kind != test.kind || final != test.final {
				t.Errorf("got %d %s, final %t; want %d %s, %t", status, kind, final, test.status, test.kind, test.final)
			}
			if got := a.String() + "; " + b.String(); !strings.HasPrefix(got, "1 counts, 0 messages") || !strings.HasSuffix(got, "; 0 counts, 0 messages, 0 questions") {
				t.Errorf("the accounts got %s, want one to be asked once", got)
			}
			a.waitAsked(t, test.asks)
			a.answer(simulator.Reply{}, simulator.Reply{})
			if status, kind, _ := p.countTokens(t); status != 200 {
				t.Errorf("the next count got %d %s", status, kind)
			}
			if answer := p.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "hello"); answer.status != 200 || answer.stop == "" {
				t.Errorf("the next message got %+v", answer)
			}
			want := map[bool]string{true: "2 counts", false: "1 counts"}[test.first] + map[bool]string{true: ", 0 messages", false: ", 1 messages"}[test.out] +
				fmt.Sprintf(", %d questions", test.asks)
			if got := a.String(); got != want {
				t.Errorf("the account got %s, want %s", got, want)
			}
			if records := len(p.records()); records != 1 {
				t.Errorf("%d records, want the message's alone", records)
			}
		})
	}
}

// waitAsked waits until the gateway has asked the account itself so often.
func (a *tally) waitAsked(t *testing.T, questions int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.HasSuffix(a.String(), fmt.Sprintf(" %d questions", questions)) {
			return
		}
	}
	t.Errorf("the account got %s, want %d questions", a, questions)
}

// TestManyAreDeniedOneQuestionIsAsked: however many requests an account denies, the
// gateway asks it once, for the model that it has answered for.
func TestManyAreDeniedOneQuestionIsAsked(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		t.Run(fmt.Sprintf("refused %t", refuses), func(t *testing.T) {
			p := servePool(t, "a", "", "")
			var a tally
			p.sim.Set(upstreamSecret+"a", a.say)
			if answer := p.ask(t.Context(), worker(0), "claude-haiku-4-5", false, "hello"); answer.status != 200 {
				t.Fatalf("got %+v", answer)
			}
			denied := func(r *simulator.Request) simulator.Reply {
				if reply := a.say(r); isQuestion(r) && !refuses {
					return reply
				}
				return simulator.Reply{Status: 403, HeaderDelay: 20 * time.Millisecond}
			}
			p.sim.Set(upstreamSecret+"a", denied)
			var done sync.WaitGroup
			for i := range 20 {
				done.Go(func() {
					answer := p.ask(t.Context(), worker(0), "claude-sonnet-5-5", i%2 == 0, fmt.Sprintf("hello %d", i))
					// Who comes late may find it in error.
					if late := refuses && answer.status == 503; !late && answer.status != 502 || !answer.final {
						t.Errorf("got %+v", answer)
					}
				})
			}
			done.Wait()
			a.waitAsked(t, 1)
			time.Sleep(100 * time.Millisecond) // the conclusion
			a.mu.Lock()
			if a.asked != "claude-haiku-4-5" {
				t.Errorf("the gateway asked for %s", a.asked)
			}
			a.mu.Unlock()
			want := 502 // one that comes last is asked all the same
			if refuses {
				want = 503
			}
			if answer := p.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "hello"); answer.status != want {
				t.Errorf("got %+v, want %d", answer, want)
			}
			p.sim.Set(upstreamSecret+"a", a.say)
			want = 200
			if refuses {
				want = 503
			}
			if answer := p.ask(t.Context(), worker(0), "claude-haiku-4-5", true, "hello"); answer.status != want {
				t.Errorf("another model got %+v, want %d", answer, want)
			}
			a.waitAsked(t, 1)
		})
	}
}
