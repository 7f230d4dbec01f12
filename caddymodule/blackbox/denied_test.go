package blackbox_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// bob is another user of the group, and of the same accounts.
const (
	bobKey = gatewaySecret + "bob"
	bob    = `
	user bob {
		balance 100
		concurrency 0
		key ` + bobKey + ` default
	}
`
)

const creditTooLow = "Your credit balance is too low"

// bobsCall is an ordinary request of bob's, in a session of its own.
func bobsCall(model string) call {
	c := inNewSession(model)
	c.key = bobKey
	return c
}

// denyAlice is an upstream that answers so whatever alice says "MISBEHAVE" in, and
// everybody else as it should.
func denyAlice(reply func(*simulator.Request) simulator.Reply) func(*simulator.Request) simulator.Reply {
	return func(r *simulator.Request) simulator.Reply {
		if strings.Contains(string(r.Body), "MISBEHAVE") || strings.Contains(r.Header.Get("Anthropic-Beta"), creditTooLow) {
			return reply(r)
		}
		return simulator.Reply{}
	}
}

// A user can have upstream say nearly anything in a refusal. It is the user's, and
// takes no account from the others: the gateway asks the account itself, and is
// answered well.
func TestWordsThatAUserPutsIntoARefusalHurtNobodyElse(t *testing.T) {
	const model = "claude-sonnet-5-5"
	echo := func(r *simulator.Request) simulator.Reply {
		return simulator.Reply{Status: 400, Message: "Unexpected value(s) `" + r.Header.Get("Anthropic-Beta") + "` for the `anthropic-beta` header"}
	}
	says := func(text string) string {
		return `{"model":"` + model + `","max_tokens":64,"messages":[{"role":"user","content":"MISBEHAVE ` + text + `"}]}`
	}
	quote := func(r *simulator.Request) simulator.Reply {
		return simulator.Reply{Status: 400, Message: "messages.0: " + gjson.GetBytes(r.Body, "messages.0.content").Str}
	}
	always := func(reply simulator.Reply) func(*simulator.Request) simulator.Reply { return simulator.Always(reply) }
	for _, test := range []struct {
		name     string
		call     call
		reply    func(*simulator.Request) simulator.Reply
		status   int  // alice's
		question bool // the gateway asks the accounts itself
	}{
		{"in a header", call{header: http.Header{"Anthropic-Beta": {creditTooLow}}, body: asking(model, false)}, echo, 502, true},
		{"in a header, streamed", call{header: http.Header{"Anthropic-Beta": {creditTooLow}}, body: asking(model, true)}, echo, 502, true},
		{"in other case", call{header: http.Header{"Anthropic-Beta": {creditTooLow}}, body: asking(model, false)},
			func(*simulator.Request) simulator.Reply {
				return simulator.Reply{Status: 400, Message: strings.ToUpper(creditTooLow)}
			}, 502, true},
		{"in a message", call{body: says(creditTooLow)}, quote, 502, true},
		{"of an organization", call{body: says("This organization has been disabled.")}, quote, 502, true},
		{"of an organization on hold", call{body: says("x")}, always(simulator.Reply{Status: 400, ErrorCode: "organization_on_hold"}), 502, true},
		{"in an error's type", call{body: says("x")}, always(simulator.Reply{Status: 400, ErrorType: "billing_error"}), 502, true},
		{"in the model's name", call{body: strings.Replace(says("x"), model, creditTooLow, 1)},
			func(r *simulator.Request) simulator.Reply {
				return simulator.Reply{Status: 400, Message: "model: " + r.Model}
			}, 502, true},
		{"a 401 of this request", call{body: says("x")}, always(simulator.Reply{Status: 401}), 502, true},
		{"a 402 of this request", call{body: says("x")}, always(simulator.Reply{Status: 402}), 502, true},
		{"a 403 of this request", call{body: says("x")}, always(simulator.Reply{Status: 403}), 502, true},
		{"a 403 page", call{body: says("x")}, always(simulator.Reply{Status: 403, Body: []byte("<html>blocked</html>")}), 502, true},
		{"counted", call{path: "/v1/messages/count_tokens", header: http.Header{"Anthropic-Beta": {creditTooLow}}, body: asking(model, false)}, echo, 502, true},
		{"a 403 of a count", call{path: "/v1/messages/count_tokens", body: says("x")}, always(simulator.Reply{Status: 403}), 502, true},
		{"in a 404", call{body: says(creditTooLow)},
			func(r *simulator.Request) simulator.Reply { return simulator.Reply{Status: 404, Message: creditTooLow} }, 404, false},
		{"in a 413", call{body: says(creditTooLow)}, always(simulator.Reply{Status: 413, Message: creditTooLow}), 413, false},
		{"in a 500", call{body: says(creditTooLow)}, always(simulator.Reply{Status: 500, Message: creditTooLow}), 502, false},
		{"other words about money", call{body: says("x")}, always(simulator.Reply{Status: 400, Message: "credit is due"}), 400, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice+bob)
			g.sim.Set("", denyAlice(test.reply))
			if a := g.do(test.call); a.status != test.status {
				t.Errorf("alice got %d %s, want %d", a.status, a.body, test.status)
			}
			asked := g.asked()
			if test.question {
				for _, account := range asked { // whoever was asked for alice
					g.waitQuestion(upstreamSecret + account)
				}
			}
			g.eventually("account a serves bob", func() bool {
				from := len(g.sim.Requests())
				a := g.do(bobsCall(model))
				if a.status != 200 {
					t.Errorf("bob got %d %s", a.status, a.body)
				}
				return cmp.Equal(g.askedSince(from), []string{"a"})
			})
			for _, account := range asked {
				n := g.questionsTo(upstreamSecret + account)
				if want := map[bool]int{true: 1, false: 0}[test.question]; n != want {
					t.Errorf("account %s was asked %d questions, want %d", account, n, want)
				}
			}
			if n := g.logged(`"state":"error"`); n != 0 {
				t.Errorf("an account came into error")
			}
			g.restart()
			if a := g.do(bobsCall(model)); a.status != 200 {
				t.Errorf("after a restart bob got %d %s", a.status, a.body)
			}
			for _, account := range []string{"acct-a", "acct-b"} {
				if kept := g.accountState(account); kept.Error != "" || len(kept.Limits) > 0 {
					t.Errorf("kept of %s: %+v", account, kept)
				}
			}
		})
	}
}

// One user asks for several models, and upstream denies each to that user alone.
func TestDenialsOfSeveralModelsHurtNobodyElse(t *testing.T) {
	models := []string{"claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"}
	for _, status := range []int{401, 402, 403} {
		for _, accounts := range [][]string{{"a"}, {"a", "b"}, {"a", "b", "c", "d"}} {
			t.Run(fmt.Sprintf("%d, %d accounts", status, len(accounts)), func(t *testing.T) {
				g := serve(t, simulator.Config{}, accountsInOrder(accounts, "")+alice+bob)
				g.sim.Set("", denyAlice(simulator.Always(simulator.Reply{Status: status})))
				for range 3 {
					for _, model := range models {
						a := g.do(call{body: strings.Replace(asking(model, true), "Say hello", "MISBEHAVE", 1)})
						refusal{502, "api_error", true, ""}.check(t, a)
					}
				}
				for _, model := range append(models, "claude-fable-5") {
					if a := g.do(bobsCall(model)); a.status != 200 {
						t.Errorf("%s: bob got %d %s", model, a.status, a.body)
					}
				}
				for _, account := range accounts {
					if n := g.questionsTo(upstreamSecret + account); n > 1 {
						t.Errorf("account %s was asked %d questions within 30 s", account, n)
					}
				}
				if n := g.logged(`"state":"error"`); n != 0 {
					t.Errorf("an account came into error")
				}
			})
		}
	}
}

// inErrorNow is a gateway whose only account is in error, which one question has
// found.
func inErrorNow(t *testing.T, status int, words string) *gateway {
	g := serve(t, simulator.Config{}, mainAccount+alice+words)
	g.sim.Set("", simulator.Always(simulator.Reply{Status: status}))
	refusal{502, "api_error", true, ""}.check(t, g.say("claude-sonnet-5-5", false))
	g.waitLogged(`"account state changed","account":"acct-main","state":"error"`)
	return g
}

func TestAnErrorEnds(t *testing.T) {
	t.Run("by a success of a request that was under way", func(t *testing.T) {
		g := serve(t, simulator.Config{}, mainAccount+alice)
		g.sim.Set("", func(r *simulator.Request) simulator.Reply {
			if strings.Contains(string(r.Body), "SLOW") {
				return simulator.Reply{HeaderDelay: 500 * time.Millisecond}
			}
			return simulator.Reply{Status: 403}
		})
		slow := make(chan answer)
		go func() {
			slow <- g.do(call{body: strings.Replace(asking("claude-opus-5-5", false), "Say hello", "SLOW", 1)})
		}()
		g.waitUpstream("the slow one is there", func() bool { return len(g.sim.Requests()) == 1 })
		g.say("claude-sonnet-5-5", false)
		g.waitLogged(`"state":"error"`)
		if a := <-slow; a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		// It was sent before the account came into error, and says nothing of that.
		refusal{503, "overloaded_error", true, ""}.check(t, g.say("claude-opus-5-5", false))
	})
	t.Run("by a new credential", func(t *testing.T) {
		g := inErrorNow(t, 401, "")
		refusal{503, "overloaded_error", true, ""}.check(t, g.say("claude-sonnet-5-5", true))
		g.sim.Set("sk-upstream-new", simulator.Always(simulator.Reply{}))
		g.reload("sk-upstream-main", "sk-upstream-new")
		g.eventually("the new credential serves", func() bool { return g.say("claude-sonnet-5-5", false).status == 200 })
	})
	t.Run("not by a reload with the same credential", func(t *testing.T) {
		g := inErrorNow(t, 402, "")
		g.sim.Set("", simulator.Always(simulator.Reply{}))
		g.reload("balance 100", "balance 101")
		time.Sleep(200 * time.Millisecond)
		refusal{503, "overloaded_error", true, ""}.check(t, g.say("claude-sonnet-5-5", true))
	})
	t.Run("not by itself", func(t *testing.T) {
		g := inErrorNow(t, 403, "scheduling {\nerror_retry 0\n}\n")
		a := g.say("claude-sonnet-5-5", false)
		refusal{503, "overloaded_error", true, ""}.check(t, a)
		if after := a.header.Get("Retry-After"); after != "" || a.header.Get("X-Should-Retry") != "false" {
			t.Errorf("retry-after %q, x-should-retry %q", after, a.header.Get("X-Should-Retry"))
		}
		g.eventually("the store has kept that", func() bool {
			kept := g.accountState("acct-main")
			return kept.Error != "" && kept.ErrorNext.IsZero()
		})
	})
	t.Run("by error_retry", func(t *testing.T) {
		g := inErrorNow(t, 403, "scheduling {\nerror_retry 45s\n}\n")
		a := g.say("claude-sonnet-5-5", false)
		refusal{503, "overloaded_error", false, ""}.check(t, a)
		wantRetryAfter(t, a, 40, 45)
		g.sim.Set("", simulator.Always(simulator.Reply{}))
		g.stop()
		// A minute goes by while the gateway is down.
		g.setBack("acct-main", time.Minute)
		g.load()
		before := len(g.asked())
		refusal{503, "overloaded_error", false, ""}.check(t, g.say("claude-sonnet-5-5", false))
		g.eventuallyIn(10*time.Second, "the account is asked again", func() bool { return g.questionsTo("sk-upstream-main") == 2 })
		g.eventually("the account serves", func() bool { return g.say("claude-sonnet-5-5", false).status == 200 })
		if n := len(g.asked()) - before; n != 1 {
			t.Errorf("%d requests of clients went to an account in error", n-1)
		}
		g.eventually("the store has kept that", func() bool {
			kept := g.accountState("acct-main")
			return kept.Error == "" && kept.ErrorTimes == 0
		})
	})
}

// setBack makes an account's state older, while Caddy is down.
func (g *gateway) setBack(account string, by time.Duration) {
	g.t.Helper()
	file := g.accountStateFile(account)
	content, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatal(err)
	}
	text := string(content)
	for _, name := range []string{"asked", "error_since", "error_next"} {
		field := gjson.Get(text, name)
		at, err := time.Parse(time.RFC3339Nano, field.Str)
		if err != nil {
			g.t.Fatalf("%s in %s: %v", name, text, err)
		}
		text = strings.Replace(text, field.Raw, `"`+at.Add(-by).Format(time.RFC3339Nano)+`"`, -1)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}
