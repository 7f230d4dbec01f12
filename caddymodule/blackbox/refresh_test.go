package blackbox_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	oldAccess  = upstreamSecret + "access"
	oldRefresh = upstreamSecret + "refresh"
	// What the simulator's token endpoint hands out begins so.
	newTokens = "sk-ant-o"
	newAccess = newTokens + "at01-sim-1"
)

// tokenEndpoint is one that answers so. It is an upstream of its own, so that
// it does before the gateway starts, which asks it at once for tokens that end.
func tokenEndpoint(t *testing.T, reply simulator.Reply) *simulator.Server {
	t.Helper()
	endpoint, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endpoint.Close() })
	endpoint.Set(simulator.TokenPath, simulator.Always(reply))
	return endpoint
}

// oauthPool is an account that is refreshed, and a spare one after it.
func oauthPool(endpoint *simulator.Server, expires string) string {
	if expires != "" {
		expires = "expires_at " + expires
	}
	return fmt.Sprintf(`
	account acct-max {
		oauth {
			access_token %s
			refresh_token %s
			%s
			token_url %s
			client_id acct-client
			client_secret sk-upstream-client
		}
		base_url SIM
		priority 1
	}
	account acct-spare {
		api_key sk-upstream-spare
		base_url SIM
	}
`, oldAccess, oldRefresh, expires, endpoint.URL+simulator.TokenPath) + alice
}

// expired is a time in the past, as unix seconds.
func expired() string { return fmt.Sprint(time.Now().Add(-time.Minute).Unix()) }

// soon is a time at which tokens are due for a refresh, and work.
func soon() string { return fmt.Sprint(time.Now().Add(20 * time.Minute).Unix()) }

// wantTokensHidden looks for tokens in Caddy's log, which must have ended.
func (g *gateway) wantTokensHidden() {
	g.t.Helper()
	logged, err := os.ReadFile(g.log)
	if err != nil || bytes.Contains(logged, []byte(newTokens)) {
		g.t.Errorf("a token is in the log (%v)", err)
	}
}

func TestFiftyRequestsAtExpiryAskTheTokenEndpointOnce(t *testing.T) {
	for _, test := range []struct {
		name, expires string
		attempts      int
	}{
		{"known to be expired", expired(), 1},
		{"refused with 401", "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := tokenEndpoint(t, simulator.Reply{HeaderDelay: 300 * time.Millisecond})
			g := serve(t, simulator.Config{}, oauthPool(endpoint, test.expires))
			// All are sent before the first is refused.
			var sent sync.WaitGroup
			sent.Add(50)
			g.sim.Set(oldAccess, func(*simulator.Request) simulator.Reply {
				sent.Done()
				sent.Wait()
				return simulator.Reply{Status: http.StatusUnauthorized}
			})
			var all sync.WaitGroup
			for i := range 50 {
				all.Go(func() {
					if a := g.say("claude-sonnet-5-5", i%2 == 0); a.status != http.StatusOK {
						t.Errorf("%d %s", a.status, a.body)
					}
				})
			}
			all.Wait()
			if asked := endpoint.Account(simulator.TokenPath).Requests; asked != 1 {
				t.Errorf("the token endpoint was asked %d times", asked)
			}
			if served, spare := g.sim.Account(newAccess).Messages, g.sim.Account("sk-upstream-spare").Messages; served != 50 || spare != 0 {
				t.Errorf("%d requests with the new token, %d to the spare account", served, spare)
			}
			for _, r := range g.records() {
				if r.Attempts != test.attempts || r.Account != "acct-max" || r.Status != http.StatusOK {
					t.Fatalf("record %+v", r)
				}
			}
			g.wantTokensHidden()
		})
	}
}

func TestTokensThatExpireSoonAreRefreshedInTheBackground(t *testing.T) {
	endpoint := tokenEndpoint(t, simulator.Reply{})
	serve(t, simulator.Config{}, oauthPool(endpoint, soon()))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := endpoint.Wait(ctx, func() bool { return len(endpoint.Requests()) == 1 }); err != nil {
		t.Fatal(err)
	}
	r := endpoint.Requests()[0]
	if want := "client_id=acct-client&client_secret=sk-upstream-client&grant_type=refresh_token&refresh_token=" + oldRefresh; string(r.Body) != want || r.Path != simulator.TokenPath {
		t.Errorf("asked %s with %s", r.Path, r.Body)
	}
}

func TestARequestDoesNotWaitForARefreshWhileItsTokenWorks(t *testing.T) {
	endpoint := tokenEndpoint(t, simulator.Reply{HeaderDelay: time.Hour})
	g := serve(t, simulator.Config{}, oauthPool(endpoint, soon()))
	if a := g.say("claude-sonnet-5-5", true); a.status != http.StatusOK || g.sim.Account(oldAccess).Messages != 1 {
		t.Errorf("%d %s", a.status, a.body)
	}
	endpoint.Close()
}

func TestARefusedRefreshTokenMovesTrafficOn(t *testing.T) {
	for _, test := range []struct {
		name, expires string
		attempts      int
	}{
		{"before the request", expired(), 1},
		{"after a 401", "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := tokenEndpoint(t, simulator.Reply{Status: 400, ErrorType: "invalid_grant", Message: "gone"})
			g := serve(t, simulator.Config{}, oauthPool(endpoint, test.expires))
			g.sim.Set(oldAccess, simulator.Always(simulator.Reply{Status: http.StatusUnauthorized}))
			for range 3 {
				if a := g.say("claude-sonnet-5-5", true); a.status != http.StatusOK {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
			if asked := endpoint.Account(simulator.TokenPath).Requests; asked != 1 {
				t.Errorf("the token endpoint was asked %d times", asked)
			}
			records := g.records()
			for i, r := range records {
				if attempts := []int{test.attempts, 1, 1}[i]; r.Account != "acct-spare" || r.Attempts != attempts {
					t.Errorf("record %d: %+v", i, r)
				}
			}
			logged, err := os.ReadFile(g.log)
			if err != nil || strings.Count(string(logged), `"account state changed"`) != 1 || !strings.Contains(string(logged), "invalid_grant gone") {
				t.Errorf("the log does not say once why the account is out (%v)", err)
			}
		})
	}
}

func TestANewTokenThatIsRefusedPutsTheAccountInError(t *testing.T) {
	endpoint := tokenEndpoint(t, simulator.Reply{})
	g := serve(t, simulator.Config{}, oauthPool(endpoint, ""))
	g.sim.Set("", simulator.Always(simulator.Reply{Status: http.StatusUnauthorized}))
	g.sim.Set("sk-upstream-spare", simulator.Always(simulator.Reply{}))
	if a := g.say("claude-sonnet-5-5", false); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if old, fresh := g.askedBy(oldAccess), g.askedBy(newAccess); old != 1 || fresh != 1 {
		t.Errorf("%d requests with the old token, %d with the new one", old, fresh)
	}
	// The gateway's own question is asked with the new token, and with one newer
	// still.
	g.waitLogged(`"account state changed","account":"acct-max","state":"error"`)
	if n := endpoint.Account(simulator.TokenPath).Requests; n != 2 {
		t.Errorf("the token endpoint was asked %d times", n)
	}
	from := len(g.sim.Requests())
	for _, model := range []string{"claude-sonnet-5-5", "claude-opus-5-5"} {
		if a := g.say(model, true); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if diff := cmp.Diff([]string{"spare", "spare"}, g.askedSince(from)); diff != "" {
		t.Errorf("accounts asked: %s", diff)
	}
}

// A token that was refused for one request, and that upstream takes again when the
// gateway asks.
func TestATokenThatIsRefusedOnceIsNoAccountError(t *testing.T) {
	g := serve(t, simulator.Config{}, oauthPool(tokenEndpoint(t, simulator.Reply{}), ""))
	for _, token := range []string{oldAccess, newAccess} {
		g.sim.Queue(token, simulator.Reply{Status: http.StatusUnauthorized})
	}
	if a := g.say("claude-sonnet-5-5", false); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	g.waitQuestion(newAccess)
	g.eventually("the account serves again", func() bool {
		from := len(g.sim.Requests())
		g.do(inNewSession("claude-sonnet-5-5"))
		return cmp.Equal(g.askedSince(from), []string{strings.TrimPrefix(newAccess, upstreamSecret)})
	})
}

func TestAnUnreachableTokenEndpointIsNoAccountError(t *testing.T) {
	endpoint := tokenEndpoint(t, simulator.Reply{Status: http.StatusServiceUnavailable})
	g := serve(t, simulator.Config{}, oauthPool(endpoint, ""))
	g.sim.Queue(oldAccess, simulator.Reply{Status: http.StatusUnauthorized})
	// The first puts the account last for its model, and for no other.
	for _, model := range []string{"claude-sonnet-5-5", "claude-sonnet-5-5", "claude-opus-5-5"} {
		if a := g.do(inNewSession(model)); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	var accounts []string
	for _, r := range g.records() {
		accounts = append(accounts, r.Account)
	}
	if got := strings.Join(accounts, " "); got != "acct-spare acct-spare acct-max" {
		t.Errorf("served by %s", got)
	}
}

func TestAClientThatLeavesDuringARefresh(t *testing.T) {
	endpoint := tokenEndpoint(t, simulator.Reply{HeaderDelay: 300 * time.Millisecond})
	g := serve(t, simulator.Config{}, oauthPool(endpoint, expired()))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	g.leaving(ctx, asking("claude-sonnet-5-5", true))
	if a := g.say("claude-sonnet-5-5", true); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if asked := endpoint.Account(simulator.TokenPath).Requests; asked != 1 {
		t.Errorf("the token endpoint was asked %d times", asked)
	}
	g.wantOneRecord(func(r *billing.Record) {
		if r.Account != "acct-max" || r.Attempts != 1 {
			t.Errorf("record %+v", r)
		}
	})
}

func TestCountTokensRefreshes(t *testing.T) {
	for _, expires := range []string{"", expired()} {
		g := serve(t, simulator.Config{}, oauthPool(tokenEndpoint(t, simulator.Reply{}), expires))
		g.sim.Set(oldAccess, simulator.Always(simulator.Reply{Status: http.StatusUnauthorized}))
		a := g.do(call{path: "/v1/messages/count_tokens", body: asking("claude-sonnet-5-5", false)})
		if a.status != http.StatusOK || !strings.Contains(string(a.body), "input_tokens") || g.sim.Account(newAccess).Requests != 1 {
			t.Errorf("%d %s", a.status, a.body)
		}
		g.stop()
	}
}

func TestWhatClientsGetWhenNoTokenCanBeHad(t *testing.T) {
	for _, test := range []struct {
		name         string
		reply        simulator.Reply
		first, later int
	}{
		{"refused", simulator.Reply{Status: 400, ErrorType: "invalid_grant"}, http.StatusBadGateway, http.StatusServiceUnavailable},
		{"unreachable", simulator.Reply{Fault: simulator.Fault{Kind: simulator.Reset, After: simulator.BeforeHeader}}, http.StatusBadGateway, http.StatusBadGateway},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := tokenEndpoint(t, test.reply)
			pool, _, _ := strings.Cut(oauthPool(endpoint, expired()), "account acct-spare")
			g := serve(t, simulator.Config{}, pool+alice)
			first := g.say("claude-sonnet-5-5", true)
			if first.status != test.first && first.status != test.later { // the background may have been there first
				t.Errorf("%d %s", first.status, first.body)
			}
			if a := g.say("claude-sonnet-5-5", true); a.status != test.later {
				t.Errorf("%d %s", a.status, a.body)
			}
			if asked := len(g.sim.Requests()); asked != 0 {
				t.Errorf("%d requests went upstream without a token", asked)
			}
			for _, r := range g.records() {
				if r.Attempts != 0 || r.Charged != 0 || r.Billing != billing.PaidByNobody {
					t.Errorf("record %+v", r)
				}
			}
		})
	}
}
