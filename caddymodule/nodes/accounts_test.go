package nodes_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	oldAccess = "sk-upstream-access"
	// newAccess is the first token that the simulator's endpoint hands out.
	newAccess = "sk-ant-oat01-sim-1"
)

// oauthAccount is an account that is refreshed at endpoint.
func oauthAccount(endpoint *simulator.Server, expires string) string {
	return fmt.Sprintf(`account max {
	oauth {
		access_token %s
		refresh_token sk-upstream-refresh
		%s
		token_url %s
		client_id some-client
	}
	base_url SIM
}
`, oldAccess, expires, endpoint.URL+simulator.TokenPath)
}

// startEndpoint starts a token endpoint: an upstream of its own, as gateways may
// ask it while they start.
func startEndpoint(t *testing.T, script func(*simulator.Request) simulator.Reply) *simulator.Server {
	t.Helper()
	endpoint, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endpoint.Close() })
	endpoint.Set(simulator.TokenPath, script)
	return endpoint
}

// askAll sends n requests to all gateways at once; all must be answered.
func (f *fleet) askAll(n int) {
	f.t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if a := f.ask(f.nodes[i%len(f.nodes)], question{stream: i%2 == 0}); !a.whole() {
				f.t.Errorf("request %d: %v", i, a)
			}
		})
	}
	all.Wait()
}

func TestTokensAreRefreshedByOneNode(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	server := redistest.Start(t)
	t.Run("known to be expired", func(t *testing.T) {
		// The gateways look after such a token as soon as they start; the endpoint
		// answers when all requests wait for it.
		asked := make(chan struct{})
		release := sync.OnceFunc(func() { close(asked) })
		endpoint := startEndpoint(t, func(*simulator.Request) simulator.Reply {
			<-asked
			return simulator.Reply{}
		})
		t.Cleanup(release)
		f := launch(t, over(t, server, oauthAccount(endpoint, fmt.Sprintf("expires_at %d", time.Now().Add(-time.Minute).Unix()))))
		timer := time.AfterFunc(time.Second, release)
		defer timer.Stop()
		f.askAll(50)
		wantOneRefresh(t, f, endpoint, 50, 0)
	})
	t.Run("refused with 401", func(t *testing.T) {
		server := redistest.Start(t)
		endpoint := startEndpoint(t, simulator.Always(simulator.Reply{HeaderDelay: 300 * time.Millisecond}))
		f := launch(t, over(t, server, oauthAccount(endpoint, "")))
		var sent sync.WaitGroup // all go before the first is refused
		sent.Add(50)
		f.sim.Set(oldAccess, func(*simulator.Request) simulator.Reply {
			sent.Done()
			sent.Wait()
			return simulator.Reply{Status: http.StatusUnauthorized}
		})
		f.askAll(50)
		wantOneRefresh(t, f, endpoint, 50, 50)
	})
	t.Run("refreshed elsewhere", func(t *testing.T) {
		server := redistest.Start(t)
		endpoint := startEndpoint(t, simulator.Always(simulator.Reply{}))
		f := launch(t, over(t, server, oauthAccount(endpoint, "")))
		f.sim.Set(oldAccess, simulator.Always(simulator.Reply{Status: http.StatusUnauthorized}))
		for _, n := range []*gatewaytest.Gateway{f.nodes[0], f.nodes[1], f.nodes[2], f.nodes[1], f.nodes[2]} {
			if a := f.ask(n, question{}); !a.whole() {
				t.Error(a)
			}
		}
		// Each gateway learns of it by its own first 401, at the latest.
		if refused := f.sim.Account(oldAccess).Messages; refused > len(f.nodes) {
			t.Errorf("%d requests were sent with the old token", refused)
		}
		wantOneRefresh(t, f, endpoint, 5, f.sim.Account(oldAccess).Messages)
	})
}

// wantOneRefresh fails the test unless the endpoint was asked once, and the
// requests were served with the token that it gave, after so many that were
// refused with the old one.
func wantOneRefresh(t *testing.T, f *fleet, endpoint *simulator.Server, served, refused int) {
	t.Helper()
	if asked := endpoint.Account(simulator.TokenPath).Requests; asked != 1 {
		t.Errorf("the token endpoint was asked %d times", asked)
	}
	if got := f.sim.Account(newAccess).Messages; got != served {
		t.Errorf("%d requests with the new token, want %d", got, served)
	}
	if got := f.sim.Account(oldAccess).Messages; got != refused {
		t.Errorf("%d requests with the old token, want %d", got, refused)
	}
	f.wantLedger(time.Time{})
}

func TestALimitThatOneNodeSeesStopsAll(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	f := launch(t, over(t, redistest.Start(t), accounts("a", 2, 0, sonnet)))
	limited := credential("a", 0)
	var struck atomic.Bool
	var strike atomic.Int64 // when, in nanoseconds since 1970
	reset := time.Now().Add(time.Hour)
	load := f.begin(12, f.nodes...)
	time.Sleep(time.Second)
	usual := lasting(50*time.Millisecond, 150*time.Millisecond)
	f.sim.Set(limited, func(r *simulator.Request) simulator.Reply {
		if !struck.CompareAndSwap(false, true) {
			return usual(r)
		}
		strike.Store(time.Now().UnixNano())
		return simulator.Reply{Status: http.StatusTooManyRequests, Limits: &simulator.Limits{
			Claim: "five_hour", Windows: []simulator.Window{{Name: "5h", Status: "rejected", Reset: reset, Utilization: 1}},
		}}
	})
	gatewaytest.Within(t, 10*time.Second, "the account has said that it is limited", struck.Load)
	time.Sleep(2 * time.Second)
	load.end(t)
	at := time.Unix(0, strike.Load())
	var late []string
	before := 0
	for _, r := range f.sim.Requests() {
		if r.Credential != limited {
			continue
		}
		before++
		if after := r.Time.Sub(at); after > time.Second {
			late = append(late, after.String())
		}
	}
	if !struck.Load() || before == 0 {
		t.Fatal("the account was never asked")
	}
	if len(late) > 0 {
		t.Errorf("the account was asked %d times later than a second after it said that it is limited:%s", len(late), gatewaytest.List(late))
	}
	f.wantFree(places("a", 2)...)
	f.wantLedger(time.Time{})
}
