package blackbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// isQuestion reports whether a request is the gateway's own, by which it finds
// out whether an account is in error: no client of these tests asks for so little.
func isQuestion(r *simulator.Request) bool {
	body := gjson.ParseBytes(r.Body)
	return r.Path == "/v1/messages" && body.Get("max_tokens").Int() == 1 && body.Get("messages.#").Int() == 1 &&
		body.Get("messages.0.content").Str == "Hi"
}

// asked is which accounts the clients' requests went to, in order, without the
// beginning of the secrets.
func (g *gateway) asked() (names []string) { return g.askedSince(0) }

// askedSince is asked, from the given one of all requests on.
func (g *gateway) askedSince(from int) (names []string) {
	for _, r := range g.sim.Requests()[from:] {
		if !isQuestion(&r) {
			names = append(names, strings.TrimPrefix(r.Credential, upstreamSecret))
		}
	}
	return names
}

// askedBy is how many of the clients' requests went upstream with a credential.
func (g *gateway) askedBy(credential string) (n int) {
	for _, r := range g.sim.Requests() {
		if r.Credential == credential && !isQuestion(&r) {
			n++
		}
	}
	return n
}

// questionsTo is how many questions of its own the gateway asked the account with
// a credential.
func (g *gateway) questionsTo(credential string) (n int) {
	for _, r := range g.sim.Requests() {
		if r.Credential == credential && isQuestion(&r) {
			n++
		}
	}
	return n
}

// waitQuestion waits until a question of the gateway's own has been answered.
func (g *gateway) waitQuestion(credential string) {
	g.t.Helper()
	g.waitUpstream("the gateway asks "+credential+" itself", func() bool {
		for _, r := range g.sim.Requests() {
			if r.Credential == credential && isQuestion(&r) && !r.Done.IsZero() {
				return true
			}
		}
		return false
	})
}

// eventually waits for something that the gateway does in the background.
func (g *gateway) eventually(what string, done func() bool) {
	g.t.Helper()
	g.eventuallyIn(5*time.Second, what, done)
}

func (g *gateway) eventuallyIn(limit time.Duration, what string, done func() bool) {
	g.t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("waited %v in vain until %s", limit, what)
		}
	}
}

// waitLogged waits until a line of Caddy's log holds the text.
func (g *gateway) waitLogged(text string) {
	g.t.Helper()
	g.eventually("the log says "+text, func() bool { return g.logged(text) > 0 })
}

// logged is how many lines of Caddy's log hold the text.
func (g *gateway) logged(text string) (n int) {
	g.t.Helper()
	log, err := os.ReadFile(g.log)
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.Count(string(log), text)
}

var sessionNumber atomic.Int64

// inNewSession is a request of a session that no account is bound to.
func inNewSession(model string) call {
	return inSession(fmt.Sprintf("new-%d", sessionNumber.Add(1)), asking(model, false))
}

// inSession is a request of a session.
func inSession(session, body string) call {
	return call{header: http.Header{"X-Claude-Code-Session-Id": {session}}, body: body}
}

// accountState is what the embedded store has kept of an account.
func (g *gateway) accountState(account string) (kept scheduler.AccountState) {
	g.t.Helper()
	file := g.accountStateFile(account)
	if file == "" {
		return kept
	}
	content, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(content, &kept)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return kept
}

// standingFile is where the embedded store keeps that; "" before it does.
func (g *gateway) accountStateFile(account string) string {
	g.t.Helper()
	files, err := filepath.Glob(filepath.Join(g.store, "documents", "standings", "*"+account+".json"))
	if err != nil || len(files) > 1 {
		g.t.Fatalf("%q, %v", files, err)
	}
	return strings.Join(files, "")
}

// waitInError waits until the only account for what ask asks is in error, which
// takes one question of the gateway's own.
func (g *gateway) waitInError(credential string, ask func() answer) {
	g.t.Helper()
	g.waitQuestion(credential)
	var a answer
	g.eventually("the account is in error", func() bool {
		a = ask()
		return a.status == 503
	})
	refusal{503, "overloaded_error", true, ""}.check(g.t, a)
	wantRetryAfter(g.t, a, 1, 600) // error_retry
	before := g.askedBy(credential)
	ask()
	if g.askedBy(credential) != before {
		g.t.Errorf("an account in error was asked")
	}
	if n := g.questionsTo(credential); n != 1 {
		g.t.Errorf("the gateway asked %d questions of its own", n)
	}
}

// accountsInOrder is the words for accounts that are tried in the order of the names, each
// with the same further words.
func accountsInOrder(names []string, words string) string {
	var out strings.Builder
	for i, name := range names {
		fmt.Fprintf(&out, "account acct-%[1]s {\napi_key sk-upstream-%[1]s\nbase_url SIM\npriority %[2]d\n%[3]s\n}\n", name, i, words)
	}
	return out.String()
}
