package blackbox_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// costly is a request whose answer is as costly as it can be: every byte of it is
// half a token that is written to the cache for an hour, and all of max_tokens is
// used, in the US.
func costly(maxTokens int) (body string, reply simulator.Reply, price billing.USD) {
	body = fmt.Sprintf(`{"model":"claude-sonnet-5-5","max_tokens":%d,"messages":[{"role":"user","content":"%s"}]}`, maxTokens, strings.Repeat("a", 100))
	used := upstream.Usage{CacheWrite1h: int64(len(body)) / 2, Output: int64(maxTokens), Geo: "us"}
	cost, _ := billing.BuiltIn().Cost("claude-sonnet-5-5", billing.Usage{CacheWrite1h: used.CacheWrite1h, Output: used.Output, Geo: "us"}, time.Now())
	return body, simulator.Reply{Usage: &used, HeaderDelay: 10 * time.Millisecond}, cost.Total()
}

// Two hundred requests at once on a balance that pays for twenty of them.
func TestOverdraft(t *testing.T) {
	const requests = 200
	for name, test := range map[string]struct {
		store     string
		words     string
		maxTokens int
		slots     int
		// lowest is the lowest balance that is allowed, in prices of a request.
		lowest billing.USD
	}{
		"max": {"", "hold max", 6000, 0, 0},
		// The answer is longer than an estimate foresees.
		"estimate":           {"", "hold estimate", 6000, 10, -10},
		"off":                {"", "hold off", 6000, 10, -10},
		"max, in Redis":      {redisStore(t), "hold max", 6000, 0, 0},
		"max, few at once":   {"", "hold max", 6000, 10, 0},
		"the same, in Redis": {redisStore(t), "hold max", 6000, 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			body, reply, price := costly(test.maxTokens)
			g := serve(t, simulator.Config{}, test.store+mainAccount+fmt.Sprintf(`
			group default
			user alice {
				balance %s
				concurrency %d
				key %s default
			}
			scheduling {
				user_extra_waiting %d
			}
			billing {
				%s
			}`, 20*price, test.slots, aliceKey, requests, test.words))
			g.sim.Set("", simulator.Always(reply))
			var all sync.WaitGroup
			var mu sync.Mutex
			statuses := map[string]int{}
			for range requests {
				all.Go(func() {
					a := g.do(call{body: body})
					mu.Lock()
					defer mu.Unlock()
					statuses[fmt.Sprint(a.status, " ", gjson.GetBytes(a.body, "error.type").Str)]++
				})
			}
			all.Wait()
			left := g.balance()
			t.Logf("%v, %s of %s is left", statuses, left, 20*price)
			served := statuses["200 "]
			if served+statuses["429 billing_error"] != requests {
				t.Errorf("answers %v", statuses)
			}
			if left != 20*price-billing.USD(served)*price {
				t.Errorf("%s is left after %d answers of %s each", left, served, price)
			}
			if left < test.lowest*price {
				t.Errorf("the balance went down to %s", left)
			}
			if served < 20 {
				t.Errorf("%d were served, and 20 could be paid", served)
			}
			if test.store == "" {
				g.wantIdentity(20 * price)
			}
		})
	}
}

// redisStore is a store in the server that there is for tests, or in a small one.
func redisStore(t *testing.T) string {
	address := os.Getenv("SUB2API_TEST_REDIS")
	if address == "" {
		address = "redis://" + miniredis.RunT(t).Addr()
	}
	// The store's usual timeout is too short for a machine that runs many tests at once.
	return fmt.Sprintf("store redis %s {\nnamespace test-%s\nspool %s\ntimeout 10s\n}\n", address, strings.ToLower(rand.Text()), t.TempDir())
}

// wantIdentity stops the gateway and compares alice's records with her balance.
func (g *gateway) wantIdentity(opening billing.USD) {
	g.t.Helper()
	left := g.balance()
	var charged billing.USD
	for _, r := range g.records() {
		charged = charged.Plus(r.Charged)
	}
	if charged != opening.Plus(-left) {
		g.t.Errorf("%s was charged of %s, and %s is left", charged, opening, left)
	}
}

// A request that needs more than is left is refused at once, and told what to do;
// a cheaper one is served.
func TestMaxRefusesWhatCannotBePaid(t *testing.T) {
	body, reply, price := costly(6000)
	g := serve(t, simulator.Config{}, mainAccount+fmt.Sprintf("group default\nuser alice {\nbalance %s\nkey %s default\n}\nbilling {\nhold max\n}", price-1, aliceKey))
	g.sim.Set("", simulator.Always(reply))
	refusal{429, "billing_error", true, "lower max_tokens"}.check(t, g.do(call{body: body}))
	if a := g.do(call{body: strings.Replace(body, "6000", "5000", 1)}); a.status != http.StatusOK {
		t.Errorf("a cheaper one got %d %s", a.status, a.body)
	}
}

// What is set aside comes back, however a request ends.
func TestWhatIsSetAsideComesBack(t *testing.T) {
	body, reply, price := costly(2000)
	g := serve(t, simulator.Config{}, mainAccount+fmt.Sprintf("group default\nuser alice {\nbalance %s\nkey %s default\n}\nbilling {\nhold max\n}\nretry {\nmax_switches 0\n}", price, aliceKey))
	cutAtOnce := simulator.Reply{Fault: simulator.Fault{Kind: simulator.Cut, After: simulator.BeforeHeader}}
	for _, test := range []struct {
		name    string
		replies []simulator.Reply
	}{
		{"refused", []simulator.Reply{{Status: 400}}},
		{"cut at once, and on a new connection too", []simulator.Reply{cutAtOnce, cutAtOnce}},
		{"failed", []simulator.Reply{{Status: 500}}},
		{"cut in its body", []simulator.Reply{{Fault: simulator.Fault{Kind: simulator.Cut, Bytes: 20}}}},
		{"no JSON at all", []simulator.Reply{{Body: []byte("<html>")}}},
		{"no message", []simulator.Reply{{Body: []byte("{}")}}},
	} {
		before := len(g.sim.Requests())
		g.sim.Queue("sk-upstream-main", test.replies...)
		if a := g.do(call{body: body}); a.status == http.StatusOK {
			t.Errorf("%s: %d", test.name, a.status)
		}
		if n := len(g.sim.Requests()) - before; n != len(test.replies) {
			t.Errorf("%s: asked %d times", test.name, n)
		}
	}
	g.sim.Set("", simulator.Always(reply))
	if a := g.do(call{body: body}); a.status != http.StatusOK {
		t.Errorf("after them: %d %s", a.status, a.body)
	}
	if left := g.balance(); left != 0 {
		t.Errorf("%s is left", left)
	}
}

func TestSubscriptions(t *testing.T) {
	body, reply, price := costly(1000)
	limit := 2 * price
	tomorrow := time.Now().UTC().Add(24 * time.Hour).Format(time.RFC3339)
	g := serve(t, simulator.Config{}, mainAccount+fmt.Sprintf(`
	group pro {
		limits {
			daily %s
			monthly %s
		}
	}
	user alice {
		key %s pro
		subscribe pro until %s
	}
	user former {
		balance 100
		key sk-gateway-former pro
		subscribe pro until 2020-01-01
	}
	user stranger {
		balance 100
		key sk-gateway-stranger pro
	}`, limit, 10*limit, aliceKey, tomorrow))
	g.sim.Set("", simulator.Always(reply))
	usage := func(key string) gjson.Result {
		return gjson.ParseBytes(g.do(call{method: http.MethodGet, path: "/v1/usage", key: key}).body)
	}
	if left := usage(aliceKey); left.Get("planName").Str != "pro" || left.Get("remaining").Raw != limit.String() {
		t.Errorf("usage %s", left.Raw)
	}
	for range 2 {
		if a := g.do(call{body: body}); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	spent := g.do(call{body: body})
	refusal{429, "billing_error", true, "the daily limit of " + limit.String() + " USD of the subscription of pro is used up until "}.check(t, spent)
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	for name, want := range map[string]string{
		"Status": "rejected", "Reset": strconv.FormatInt(midnight.Unix(), 10), "Overage-Reset": strconv.FormatInt(midnight.Unix(), 10),
		"Overage-Period": "daily", "Overage-Utilization": "1",
	} {
		if got := spent.header.Get("Anthropic-Ratelimit-Unified-" + name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if after, _ := strconv.Atoi(spent.header.Get("Retry-After")); after < 1 || after > 86400 {
		t.Errorf("retry-after %d", after)
	}
	if left := usage(aliceKey).Get("remaining").Raw; left != "0.000000000" && left != "0" {
		t.Errorf("%s is left", left)
	}
	refusal{429, "billing_error", true, "the subscription of pro ended at 2020-01-01T00:00:00Z"}.check(t, g.do(call{key: "sk-gateway-former", body: body}))
	refusal{429, "billing_error", true, "no subscription of pro"}.check(t, g.do(call{key: "sk-gateway-stranger", body: body}))
	records := g.records()
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	for _, r := range records {
		if r.Billing != billing.PaidFromSubscription || r.Cost != price || r.Charged != 0 || r.RateMultiplier != 0 {
			t.Errorf("record %+v", r)
		}
	}
}

func TestWrongKeysOfAnAddressAreLimited(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice+"request {\nwrong_key_limit 5\n}")
	for i := range 5 {
		refusal{401, "authentication_error", true, "invalid gateway key"}.check(t, g.do(call{key: fmt.Sprint("sk-guess-", i), body: asking("claude-sonnet-5-5", false)}))
	}
	a := g.do(call{key: "sk-guess-6", body: asking("claude-sonnet-5-5", false)})
	refusal{429, "rate_limit_error", false, "wrong gateway keys"}.check(t, a)
	wantRetryAfter(t, a, 1, 60)
	if a := g.say("claude-sonnet-5-5", false); a.status != http.StatusOK {
		t.Errorf("a key of the config got %d", a.status)
	}
}

func TestPricesOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prices.json")
	content := `{"glm-4.6": {"input_cost_per_token": 1e-06, "output_cost_per_token": 3e-06, "litellm_provider": "zai", "mode": "chat"}}`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	g := serve(t, simulator.Config{}, mainAccount+alice+"billing {\nprices "+file+"\n}")
	g.sim.Set("", simulator.Always(simulator.Reply{Usage: &upstream.Usage{Input: 1000, Output: 100}}))
	for _, model := range []string{"glm-4.6", "claude-sonnet-5-5"} {
		g.say(model, false)
	}
	records := g.records()
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	for i, want := range []billing.USD{1_300_000, 3_000_000} {
		if records[i].Charged != want || records[i].Unpriced {
			t.Errorf("%s: charged %s, want %s", records[i].Model, records[i].Charged, want)
		}
	}
}
