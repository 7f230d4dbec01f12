package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// status is what the account's error stands for; 0 = it says none.
func (c *cell) statusOf() int { return max(c.sent, c.fault.reply.Status) }

// ignored reports whether the account's list of error codes has the gateway take
// no note of the fault.
func (c *cell) ignored() bool {
	status := c.statusOf()
	return credentials[c.kind].name == "codes" && status >= 300 && status != 401 && status != 429
}

// becomes is what becomes of the account at first.
func (c *cell) becomes() accountState {
	if c.ignored() {
		return in
	}
	return c.state
}

// asksItself reports whether the gateway asks the account itself.
func (c *cell) asksItself() bool { return c.becomes() == denied }

// sends is how often the account is asked by a request that finds it first.
func (c *cell) sends() int {
	switch status := c.statusOf(); status {
	case 0, 400, 404, 413, 422:
		return 1
	default:
		if c.noMore || c.broken || !credentials[c.kind].again(status) {
			return 1
		}
	}
	return 1 + attempts
}

// set has the account answer requests so.
func (c *cell) set(r simulator.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reply = r
}

// say is the account's answer to whatever comes.
func (c *cell) say(r *simulator.Request) simulator.Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case strings.HasSuffix(r.Path, "/count_tokens"):
		c.counted++
		return simulator.Reply{}
	case isQuestion(r):
		c.questions++
		if r.Model != c.place()+"opus" {
			c.report("the gateway asked for %q", r.Model)
		}
		switch {
		case !c.refuses:
			return simulator.Reply{}
		case c.fault.reply.Fault.Kind == simulator.ErrorEvent:
			return body(200, fmt.Sprintf(`{"type":"error","error":{"type":"%s","message":"no"}}`, c.fault.reply.Fault.ErrorType))
		}
		return c.fault.reply
	}
	c.asked++
	return c.reply
}

// isQuestion reports whether it is the gateway that asks: one token, and no
// stream.
func isQuestion(r *simulator.Request) bool {
	return gjson.GetBytes(r.Body, "max_tokens").Raw == "1" && gjson.GetBytes(r.Body, "messages.0.content").Str == "Hi" &&
		!gjson.GetBytes(r.Body, "stream").Exists()
}

// counts are how often the account was asked so far.
func (c *cell) counts() (asked, counted, questions int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked, c.counted, c.questions
}

func (c *cell) ask(model string, fast bool) got {
	c.t.Helper()
	var more []option.RequestOption
	if fast {
		more = append(more, option.WithJSONSet("speed", "fast"))
	}
	// Each conversation is a new one: none is bound to an account.
	text := fmt.Sprintf("%s %s %d", c.place(), model, len(c.want))
	return c.g.ask(context.Background(), c.user, c.place()+model, c.stream, text, more...)
}

func (c *cell) run() {
	c.set(c.fault.reply)
	c.g.sim.Set(c.credential(), c.say)
	began := time.Now()
	a := c.ask("opus", c.fast)
	ended := time.Now()
	sends := c.sends()
	c.checkAsked(0, sends)
	if c.pair && !c.stays {
		c.checkWhole(a, &backup)
		c.expect(a, wantRecord{status: 200, attempts: sends + 1, input: 7000, output: 300})
	} else {
		c.checkAnswer(a)
		c.expectFault(a, sends)
	}
	c.checkMarks(began, ended)
	c.checkState()
	want := 0
	if c.asksItself() {
		want = 1
	}
	if _, _, questions := c.counts(); questions != want {
		c.t.Errorf("the gateway asked the account itself %d times, want %d", questions, want)
	}
}

// checkAsked checks how often the account was asked since it was asked so often.
func (c *cell) checkAsked(before, want int) {
	c.t.Helper()
	if asked, _, _ := c.counts(); c.base == "" && asked-before != want {
		c.t.Errorf("the account was asked %d times, want %d", asked-before, want)
	}
}

// checkAnswer looks at what a client got whose answer the fault is.
func (c *cell) checkAnswer(a got) {
	c.t.Helper()
	switch {
	case c.broken:
		if a.status != 200 || a.kind != c.fault.kind || a.stop != "" && !c.known || !strings.HasPrefix(spoken.Text, a.text) {
			c.t.Errorf("got %+v, want an answer that ends with %s", a, c.fault.kind)
		}
	case c.status == 200:
		c.checkWhole(a, &spoken)
	case a.status != c.status || c.fault.kind != "" && a.kind != c.fault.kind:
		c.t.Errorf("got %d %s, want %d %s: %s", a.status, a.kind, c.status, c.fault.kind, a.raw)
	case c.fault.kind == "" && a.raw != string(c.fault.reply.Body):
		c.t.Errorf("got %q, want upstream's %q", a.raw, c.fault.reply.Body)
	case a.final != c.final:
		c.t.Errorf("x-should-retry: false is %t, want %t", a.final, c.final)
	}
	if c.status != 200 {
		c.checkAfter(a, c.after)
	}
	if a.id == "" {
		c.t.Error("no request-id")
	}
}

// checkAfter compares retry-after with what is left of a time. The long ones are to
// a moment that was chosen when the test began, which may be a while ago.
func (c *cell) checkAfter(a got, want time.Duration) {
	c.t.Helper()
	seconds, _ := strconv.ParseFloat(a.after, 64)
	have := time.Duration(seconds * float64(time.Second))
	slack := 15 * time.Second
	if want >= 10*time.Minute {
		slack = 2 * time.Minute
	}
	if have > want+2*time.Second || have < want-slack || want > 0 && have <= 0 && want > 15*time.Second {
		c.t.Errorf("retry-after %q, want about %v", a.after, want)
	}
}

func (c *cell) checkWhole(a got, r *simulator.Reply) {
	c.t.Helper()
	text := r.Text
	if c.fault.reply.Text == "" && c.use == nil && r == &spoken { // its own words
		text = a.text
	}
	if c.fault.reply.Fault.Kind == simulator.HugeLine && r == &spoken {
		if len(a.text) < 1<<20 || a.stop != "end_turn" {
			c.t.Errorf("%d bytes of text, stop %q", len(a.text), a.stop)
		}
		return
	}
	if a.status != 200 || a.kind != "" || a.stop != "end_turn" || a.text != text || text == "" {
		c.t.Errorf("got %+v, want one whole answer of %d bytes", a, len(r.Text))
	}
}

// checkOut looks at the refusal of a client whose only account is out: its
// retry-after tells until when.
func (c *cell) checkOut(a got) {
	c.t.Helper()
	if a.status != http.StatusServiceUnavailable || a.kind != "overloaded_error" {
		c.t.Errorf("got %d %s, want 503 overloaded_error", a.status, a.kind)
	}
	want := c.outFor
	switch c.state {
	case denied:
		want = errorRetry
	case outMonth:
		want = time.Until(monthsEnd())
	}
	c.checkAfter(a, want)
	if a.final != (want > time.Minute) {
		c.t.Errorf("x-should-retry: false is %t with retry-after %s", a.final, a.after)
	}
}

func monthsEnd() time.Time {
	year, month, _ := time.Now().UTC().Date()
	return time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)
}

func (c *cell) expect(a got, want wantRecord) {
	want.id = a.id
	c.want = append(c.want, want)
}

// expectFault expects the record of a request whose answer the fault is.
func (c *cell) expectFault(a got, sends int) {
	want := wantRecord{}
	switch {
	case c.use != nil:
		want = *c.use
	case c.fault.reply.Fault.Kind == simulator.HugeLine:
		want.input, want.output = 1000, 100
	case c.status != 200:
	case c.broken && !c.known:
		// Eight bytes a delta and four bytes a token.
		want.input, want.output, want.estimated = 1000, max(1, int64(len(a.text)/4)), true
	case c.fault.reply.Usage != nil:
		want.input, want.output = 1000, 100
	default: // an answer of the simulator's own words
		want.input, want.output = -1, -1
	}
	want.status, want.attempts = c.status, sends
	c.expect(a, want)
}
