package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
)

// follower reads Caddy's log while it is written: what it says of each account.
type follower struct {
	path string

	mu    sync.Mutex
	read  int64 // bytes
	lines map[string][]gjson.Result
}

// follow has the log read, from its beginning.
func (g *gateway) follow() {
	g.follower = &follower{path: g.log, lines: map[string][]gjson.Result{}}
}

// of returns what the log says of an account's state so far, and of the questions
// that it was asked.
func (f *follower) of(account string) ([]gjson.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fresh, err := io.ReadAll(io.NewSectionReader(file, f.read, 1<<40))
	if err != nil {
		return nil, err
	}
	fresh = fresh[:bytes.LastIndexByte(fresh, '\n')+1]
	f.read += int64(len(fresh))
	for line := range bytes.Lines(fresh) {
		entry := gjson.ParseBytes(line)
		switch entry.Get("msg").Str {
		case changed, back, question:
			name := entry.Get("account").Str
			f.lines[name] = append(f.lines[name], entry)
		}
	}
	return f.lines[account], nil
}

// What the log says of accounts.
const (
	changed  = "account state changed"
	back     = "account is back"
	question = "the gateway asked an account itself"
)

// noted is what the log says of the cell's account.
func (c *cell) noted() []gjson.Result {
	c.t.Helper()
	lines, err := c.g.follower.of(accountName + c.place())
	if err != nil {
		c.t.Fatal(err)
	}
	return lines
}

// checkMarks compares what became of the account, as the operator is told, with
// what should: the request began and ended then.
func (c *cell) checkMarks(began, ended time.Time) {
	c.t.Helper()
	lines := c.noted()
	state := c.becomes()
	c.until = ended.Add(time.Hour)
	if state == in {
		if len(lines) > 0 {
			c.t.Errorf("nothing should become of the account, the log says %v", lines)
		}
		return
	}
	if len(lines) == 0 || lines[0].Get("msg").Str != changed {
		c.t.Errorf("nothing became of the account: %v", lines)
		return
	}
	model := c.place() + "opus"
	speed := ""
	if c.fast {
		speed = " fast mode"
	}
	scopes := map[accountState]string{
		last: model + speed + " last", lastModel: model + " last", denied: model + " last", lastAll: "account last",
		out: "account out (", outOpus: "opus out (7d_opus)", outFast: "fast mode out (fast)", outMonth: "account out (spend)",
	}
	words := map[accountState]string{lastAll: "overloaded", out: "rate_limited", outMonth: "rate_limited"}
	word := words[state]
	if word == "" {
		word = "active"
	}
	least, most := began, ended
	switch state {
	case last, lastModel, denied, lastAll:
		lasts := c.lasts
		if lasts == 0 {
			lasts = firstDemotion
		}
		least, most = least.Add(lasts), most.Add(lasts)
	case outMonth:
		least, most = monthsEnd(), monthsEnd()
	default: // until a moment that was chosen when the test began
		least, most = least.Add(c.outFor-5*time.Minute), most.Add(c.outFor)
	}
	if got := lines[0].Get("state").Str; got != word {
		c.t.Errorf("the account is %s, want %s", got, word)
	}
	scope, text, _ := strings.Cut(lines[0].Get("marks.0").Str, " until ")
	until, err := time.Parse(time.RFC3339, text)
	c.until = until
	if !strings.HasPrefix(scope, scopes[state]) || err != nil {
		c.t.Errorf("the account has the marks %s, want %s", lines[0].Get("marks"), scopes[state])
	}
	if until.Before(least.Truncate(time.Second)) || until.After(most) {
		c.t.Errorf("%s, want it between %v and %v", lines[0].Get("marks.0"), least.UTC(), most.UTC())
	}
}

// waitAnswered waits until the gateway has asked the account itself and drawn its
// conclusion.
func (c *cell) waitAnswered() {
	c.t.Helper()
	var lines []gjson.Result
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		lines = c.noted()
		asked := false
		for _, line := range lines {
			switch {
			case line.Get("msg").Str == question:
				asked = true
			case !asked:
			case c.refuses == (line.Get("state").Str == "error"):
				return
			}
		}
	}
	c.t.Errorf("the gateway's question had no consequence: %v", lines)
}

// checkState asks again, for what the account should serve and what not. It is
// well by now, if only it is asked; where it comes last and is the only one, it
// is asked before it is well, too, and its answer is the client's.
func (c *cell) checkState() {
	c.t.Helper()
	state := c.becomes()
	if state == denied {
		c.waitAnswered()
		switch {
		case c.refuses:
			state, c.until = inError, time.Now().Add(errorRetry)
		case !c.pair: // the question was answered, so nothing is left of the mark
			c.askAgain(c.sends())
			state = last // and it is not asked again so soon
		default:
			state = in
		}
	}
	if !c.pair && (state == last || state == lastModel || state == lastAll) {
		c.askAgain(1)
	}
	if c.base != "" && !c.pair {
		return
	}
	c.set(spoken)
	switch state {
	case in:
		c.expectServed("opus", c.fast, true)
	case last, lastModel:
		if !c.pair {
			c.expectServed("opus", c.fast, true)
			c.checkBack()
			return
		}
		c.expectServed("opus", c.fast, false)
		c.expectServed("haiku", c.fast, true)
		c.expectServed("opus", !c.fast, state == last)
		c.expectCounted("opus", true)
	case outOpus:
		c.expectServed("opus", c.fast, false)
		c.expectServed("haiku", c.fast, true)
		c.expectCounted("opus", false)
	case outFast:
		c.expectServed("opus", c.fast, false)
		c.expectServed("opus", false, true)
	default:
		c.expectServed("opus", c.fast, false)
		c.expectServed("haiku", false, false)
		c.expectCounted("haiku", false)
	}
}

// askAgain asks with the fault in force: the client gets what it got before, and
// the account is asked so many times.
func (c *cell) askAgain(sends int) {
	c.t.Helper()
	before, _, _ := c.counts()
	a := c.ask("opus", c.fast)
	c.checkAsked(before, sends)
	c.checkAnswer(a)
	c.expectFault(a, sends)
}

// checkBack: nothing is left of the marks.
func (c *cell) checkBack() {
	c.t.Helper()
	lines := c.noted()
	if msg := lines[len(lines)-1].Get("msg").Str; msg != back {
		c.t.Errorf("the account has served a request, the log says last: %s", lines[len(lines)-1])
	}
}

// expectServed asks for a model: its account answers first, or does not at all.
func (c *cell) expectServed(model string, fast, serves bool) {
	c.t.Helper()
	before, _, _ := c.counts()
	a := c.ask(model, fast)
	after, _, _ := c.counts()
	switch asked := after - before; {
	case serves:
		if asked != 1 {
			c.t.Errorf("%s, fast %t: the account was asked %d times more", model, fast, asked)
		}
		c.checkRecovered(a)
	case asked == 1 && time.Now().After(c.until):
		c.t.Log("this machine is slow: the account no longer came last")
		c.checkRecovered(a)
	case asked != 0:
		c.t.Errorf("%s, fast %t: the account was asked, it should not be", model, fast)
	case c.pair:
		c.checkWhole(a, &backup)
		c.expect(a, wantRecord{status: 200, attempts: 1, input: 7000, output: 300})
	default:
		c.checkOut(a)
	}
}

func (c *cell) checkRecovered(a got) {
	c.t.Helper()
	if a.status != 200 || a.kind != "" || a.text != spoken.Text {
		c.t.Errorf("the account answers, the client got %+v", a)
	}
	c.expect(a, wantRecord{status: 200, attempts: 1, input: 1000, output: 100})
}

// expectCounted asks for a count of tokens, which is another endpoint: the
// account answers first, or does not at all.
func (c *cell) expectCounted(model string, serves bool) {
	c.t.Helper()
	_, before, _ := c.counts()
	body := fmt.Sprintf(`{"model":"%s","messages":[{"role":"user","content":"hello"}]}`, c.place()+model)
	request, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, c.g.url+"/v1/messages/count_tokens", strings.NewReader(body))
	request.Header.Set("X-Api-Key", keyOf(c.user))
	response, err := c.g.http.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	noLeak(c.t, response.Header, string(text))
	want, status := 0, http.StatusOK
	if serves {
		want = 1
	} else if !c.pair {
		status = http.StatusServiceUnavailable
	}
	if _, after, _ := c.counts(); after-before != want || response.StatusCode != status {
		c.t.Errorf("a count of tokens reached the account %d times, want %d, and the client got %d %s, want %d", after-before, want, response.StatusCode, text, status)
	}
}
