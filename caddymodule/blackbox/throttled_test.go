package blackbox_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// A 429 that rejects no claim is the request's, and the account is asked again: no
// other user is refused for it.
func TestBurstsTakeNoAccountOut(t *testing.T) {
	const aDate = "a date to come"
	past := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	header := func(after string) simulator.Reply {
		return simulator.Reply{Status: 429, Header: http.Header{"Retry-After": {after}}}
	}
	overage := simulator.Reply{Status: 429, Limits: &simulator.Limits{Status: "rejected", Claim: "overage", Reset: time.Now().Add(time.Hour), Overage: "rejected", OverageReason: "out_of_credits"}}
	allowed := simulator.Reply{Status: 429, Limits: &simulator.Limits{Status: "allowed", Claim: "five_hour", Windows: []simulator.Window{
		{Name: "5h", Status: "allowed_warning", Reset: time.Now().Add(time.Hour), Utilization: 0.99}}}}
	over := simulator.Reply{Status: 429, Limits: &simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{
		{Name: "5h", Status: "rejected", Reset: time.Now().Add(-time.Minute), Utilization: 1}}}}
	for _, test := range []struct {
		name      string
		reply     simulator.Reply
		low, high int           // the client's retry-after, in seconds; 0 = none
		last      time.Duration // how long an account comes last, about; 0 = not at all
	}{
		{"no headers", simulator.Reply{Status: 429}, 0, 0, 5 * time.Second},
		{"no retry", simulator.Reply{Status: 429, Header: http.Header{"X-Should-Retry": {"false"}}}, 0, 0, 5 * time.Second},
		{"retry-after 0", header("0"), 0, 0, 0},
		{"retry-after -5", header("-5"), 0, 0, 0},
		{"a date in the past", header(past), 0, 0, 0},
		{"retry-after 1", header("1"), 1, 1, time.Second},
		{"retry-after 0.5", header("0.5"), 1, 1, 500 * time.Millisecond},
		{"retry-after 120", header("120"), 120, 120, 120 * time.Second},
		{aDate, simulator.Reply{Status: 429}, 95, 100, 99 * time.Second},
		{"beyond the cooldown", header("86400"), 86400, 86400, 5 * time.Minute},
		{"no number", header("soon"), 0, 0, 5 * time.Second},
		{"overage alone", overage, 0, 3600, 5 * time.Second},
		{"claims that are allowed", allowed, 0, 3600, 5 * time.Second},
		{"a claim whose reset has passed", over, 0, 3600, 5 * time.Second},
		{"ramp limit", simulator.Reply{Status: 429, ErrorCode: "ramp_limit_exceeded", RetryAfter: 7 * time.Second}, 7, 7, 7 * time.Second},
		{"overloaded", simulator.Reply{Status: 529}, 0, 0, 5 * time.Second},
		{"unavailable for a minute", simulator.Reply{Status: 503, RetryAfter: time.Minute}, 60, 60, time.Minute},
		{"unavailable for an hour", simulator.Reply{Status: 503, RetryAfter: time.Hour}, 3600, 3600, time.Minute},
	} {
		for _, accounts := range [][]string{{"a"}, {"a", "b", "c"}} {
			t.Run(fmt.Sprintf("%s, %d accounts", test.name, len(accounts)), func(t *testing.T) {
				g := serve(t, simulator.Config{}, accountsInOrder(accounts, "")+alice+bob)
				if test.name == aDate {
					test.reply = header(time.Now().Add(100 * time.Second).UTC().Format(http.TimeFormat))
				}
				for _, account := range accounts {
					g.sim.Queue(upstreamSecret+account, test.reply)
				}
				began := time.Now()
				a := g.do(inNewSession("claude-sonnet-5-5"))
				if a.status < 429 || a.status == 503 {
					t.Errorf("%d %s", a.status, a.body)
				}
				if test.low > 0 {
					wantRetryAfter(t, a, test.low, test.high)
				} else if got := a.header.Get("Retry-After"); test.high == 0 && got != "" && got != "0" {
					t.Errorf("retry-after %q", got)
				}
				if diff := cmp.Diff(accounts, g.asked()); diff != "" {
					t.Errorf("accounts asked: %s", diff)
				}
				for _, account := range accounts {
					g.wantLast(account, "claude-sonnet-5-5", began, test.last)
				}
				// Each is asked again: the one that is back first, and its success makes it
				// the best for those who follow.
				for range 2 {
					from := len(g.sim.Requests())
					if a := g.do(bobsCall("claude-sonnet-5-5")); a.status != 200 {
						t.Errorf("bob got %d %s", a.status, a.body)
					}
					// Of accounts that are back at the same time, any is.
					if asked := g.askedSince(from); len(asked) != 1 || asked[0] != "a" && test.name != aDate {
						t.Errorf("accounts asked: %q", asked)
					}
				}
				for _, account := range accounts {
					if kept := g.accountState("acct-" + account); len(kept.Limits) > 0 {
						t.Errorf("limits of %s: %+v", account, kept.Limits)
					}
				}
			})
		}
	}
}

// wantLast checks for how long the store says that an account comes last for a
// model since a request that failed.
func (g *gateway) wantLast(account, model string, began time.Time, want time.Duration) {
	g.t.Helper()
	var got []scheduler.Demotion
	if want == 0 {
		time.Sleep(50 * time.Millisecond)
		got = g.accountState("acct-" + account).Demotions
		if len(got) > 0 {
			g.t.Errorf("account %s comes last: %+v", account, got)
		}
		return
	}
	g.eventually("the store knows that "+account+" comes last", func() bool {
		got = g.accountState("acct-" + account).Demotions
		return len(got) > 0
	})
	lasts := got[0].Until.Sub(began)
	if len(got) != 1 || got[0].Model != model || lasts < want-time.Second || lasts > want+2*time.Second {
		g.t.Errorf("account %s comes last for %v, want %v: %+v", account, lasts, want, got)
	}
}

// A failure of one kind of request says nothing of another kind.
func TestWhatAThrottleIsAbout(t *testing.T) {
	const fast = `{"model":"claude-opus-5-5","max_tokens":64,"speed":"fast","messages":[{"role":"user","content":"hi"}]}`
	opus, sonnet := asking("claude-opus-5-5", false), asking("claude-sonnet-5-5", false)
	messages := func(body string) call { return call{body: body} }
	counting := func(body string) call { return call{path: "/v1/messages/count_tokens", body: body} }
	for _, test := range []struct {
		name          string
		failed, other call
		same          bool // they are of one kind
	}{
		{"a message, a count", messages(opus), counting(opus), false},
		{"a count, a message", counting(opus), messages(opus), false},
		{"a count, a count", counting(opus), counting(opus), true},
		{"opus, sonnet", messages(opus), messages(sonnet), false},
		{"opus, opus of a date", messages(opus), messages(asking("claude-opus-5-5-20261001", false)), false},
		{"opus, opus streamed", messages(opus), messages(asking("claude-opus-5-5", true)), true},
		{"opus, opus with a long context", messages(opus), messages(asking("claude-opus-5-5[1m]", false)), true},
		{"fast, slow", messages(fast), messages(opus), false},
		{"slow, fast", messages(opus), messages(fast), false},
		{"fast, fast", messages(fast), messages(fast), true},
	} {
		for _, status := range []int{429, 529, 500} {
			for _, accounts := range [][]string{{"a"}, {"a", "b"}} {
				t.Run(fmt.Sprintf("%s, %d, %d accounts", test.name, status, len(accounts)), func(t *testing.T) {
					g := serve(t, simulator.Config{}, accountsInOrder(accounts, "")+alice)
					ask := func(c call, session string) (answer, []string) {
						from := len(g.sim.Requests())
						c.header = http.Header{"X-Claude-Code-Session-Id": {session}}
						return g.do(c), g.askedSince(from)
					}
					// For its first request no account comes last; a count asks one alone.
					g.sim.Queue(upstreamSecret+"a", simulator.Reply{Status: status})
					first, asked := ask(test.failed, "first")
					if counted := test.failed.path != ""; (counted || len(accounts) == 1) != (first.status != 200) {
						t.Errorf("the first got %d from %q", first.status, asked)
					}
					other, asked := ask(test.other, "other")
					want := []string{"a"}
					if test.same && len(accounts) > 1 {
						want = []string{"b"}
					}
					if other.status != 200 {
						t.Errorf("the other got %d %s", other.status, other.body)
					}
					if diff := cmp.Diff(want, asked); diff != "" {
						t.Errorf("the other was served by: %s", diff)
					}
				})
			}
		}
	}
}

// A 429 with a rejected claim is the account's own word.
func TestRejectedClaimsTakeAnAccountOut(t *testing.T) {
	soon, later := time.Now().Add(time.Hour), time.Now().Add(3*time.Hour)
	window := func(name string, reset time.Time) simulator.Window {
		return simulator.Window{Name: name, Status: "rejected", Reset: reset, Utilization: 1}
	}
	limits := func(claim string, windows ...simulator.Window) *simulator.Limits {
		return &simulator.Limits{Claim: claim, Windows: windows}
	}
	rfc := limits("five_hour", window("5h", soon))
	rfc.RFC3339 = true
	for _, test := range []struct {
		name      string
		limits    *simulator.Limits
		opus, son int // retry-after of those that are refused, in seconds, about; 0 = served
	}{
		{"5h", limits("five_hour", window("5h", soon)), 3600, 3600},
		{"5h without a claim", limits("", window("5h", soon)), 3600, 3600},
		{"5h, RFC 3339", rfc, 3600, 3600},
		{"7d", limits("seven_day", window("7d", later)), 3 * 3600, 3 * 3600},
		{"5h and 7d", limits("five_hour", window("5h", soon), window("7d", later)), 3 * 3600, 3 * 3600},
		{"7d_opus", limits("seven_day_opus", window("7d_opus", soon)), 3600, 0},
		{"7d_opus without windows", &simulator.Limits{Status: "rejected", Claim: "seven_day_opus", Reset: soon}, 3600, 0},
		{"five_hour without windows", &simulator.Limits{Status: "rejected", Claim: "five_hour", Reset: soon}, 3600, 3600},
		{"no claim, no windows", &simulator.Limits{Status: "rejected", Reset: soon}, 3600, 3600},
		{"5h beside overage", &simulator.Limits{Status: "rejected", Claim: "five_hour", Windows: []simulator.Window{window("5h", soon)}, Overage: "rejected", OverageReason: "out_of_credits"}, 3600, 3600},
		{"7d_opus and 5h", limits("five_hour", window("5h", soon), window("7d_opus", later)), 3 * 3600, 3600},
		{"in a month, by mistake", limits("seven_day", window("7d", time.Now().Add(31*24*time.Hour))), 8 * 24 * 3600, 8 * 24 * 3600},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a"}, "")+alice+bob)
			g.sim.Queue(upstreamSecret+"a", simulator.Reply{Status: 429, Limits: test.limits, RetryAfter: 30 * time.Second})
			a := g.say("claude-opus-5-5", false)
			wantError(t, a, 429, "rate_limit_error")
			wantRetryAfter(t, a, test.opus-5, 31*24*3600)
			check := func() {
				t.Helper()
				for model, after := range map[string]int{"claude-opus-5-5": test.opus, "claude-sonnet-5-5": test.son} {
					for _, path := range []string{"", "/v1/messages/count_tokens"} {
						c := bobsCall(model)
						c.path = path
						before := len(g.asked())
						a := g.do(c)
						if after == 0 {
							if a.status != 200 {
								t.Errorf("%s%s: %d %s", model, path, a.status, a.body)
							}
							continue
						}
						refusal{503, "overloaded_error", true, ""}.check(t, a)
						wantRetryAfter(t, a, after-10, after)
						if len(g.asked()) != before {
							t.Errorf("%s%s: an account that is out was asked", model, path)
						}
					}
				}
			}
			check()
			g.restart()
			check()
		})
	}
}

// A spend limit is the whole account's until the month ends.
func TestSpendLimitsTakeAnAccountOut(t *testing.T) {
	for _, code := range []string{"enforced_spend_limit_reached", "contract_spend_limit_reached"} {
		g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
		g.sim.Queue(upstreamSecret+"a", simulator.Reply{Status: 429, ErrorCode: code})
		if a := g.say("claude-sonnet-5-5", false); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		g.restart()
		if a := g.do(inNewSession("claude-opus-5-5")); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if got := strings.Join(g.asked(), " "); got != "a b b" {
			t.Errorf("%s: asked %s", code, got)
		}
		year, month, _ := time.Now().UTC().Date()
		kept := g.accountState("acct-a").Limits
		if len(kept) != 1 || !kept[0].Until.Equal(time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: kept %+v", code, kept)
		}
		g.stop()
	}
}

// Fast mode's own limit is about fast requests, and only where one was asked for.
func TestFastModesOwnLimit(t *testing.T) {
	const fast = `{"model":"claude-opus-5-5","max_tokens":64,"speed":"fast","messages":[{"role":"user","content":"hi"}]}`
	slow := asking("claude-opus-5-5", false)
	spent := simulator.Reply{Status: 429, Limits: &simulator.Limits{Status: "allowed", FastReset: time.Now().Add(time.Hour)}}
	for _, test := range []struct {
		name, failed string
		out          bool // fast requests
	}{{"a fast request", fast, true}, {"a slow one", slow, false}} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a"}, "")+alice)
			g.sim.Queue("sk-upstream-a", spent)
			wantError(t, g.do(inSession("first", test.failed)), 429, "rate_limit_error")
			for range 2 {
				if a := g.do(inSession("slow", slow)); a.status != 200 {
					t.Errorf("a slow request got %d %s", a.status, a.body)
				}
				a := g.do(inSession("fast", fast))
				if !test.out && a.status != 200 {
					t.Errorf("a fast request got %d %s", a.status, a.body)
				} else if test.out {
					refusal{503, "overloaded_error", true, ""}.check(t, a)
					wantRetryAfter(t, a, 3590, 3600)
				}
				g.restart()
			}
		})
	}
}
