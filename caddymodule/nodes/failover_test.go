package nodes_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

const (
	// failoversVariable is how often a test replaces a master, or Redis's data.
	failoversVariable = "SUB2API_TEST_FAILOVERS"
	usualFailovers    = 2

	// unsent is for how long Redis acknowledges what it is about to lose.
	unsent = 1500 * time.Millisecond
	// resettled is how long after the last failover the books must be right: after many
	// that follow each other fast, a Redis that is back is found after 15 s.
	resettled = 20 * time.Second

	// subscriber pays with a subscription of the group plan, which the admin API gives
	// him.
	subscriber = "s0"
)

func failoverCount(t *testing.T) int {
	t.Helper()
	text := os.Getenv(failoversVariable)
	if text == "" {
		return usualFailovers
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		t.Fatalf("%s=%q is no number of failovers", failoversVariable, text)
	}
	return count
}

// loser is a store that can be made to lose what it has acknowledged.
type loser struct {
	plan
	// hold begins what ends with lose: what is acknowledged in between is lost.
	hold, lose func()
}

// losers are the ways to lose.
var losers = map[string]func(*testing.T) loser{
	"Sentinel, planned": func(t *testing.T) loser {
		sentinel := redistest.StartSentinel(t)
		return replicatedLoser(overSentinel(sentinel), sentinel.Master, sentinel.FailOver)
	},
	"Sentinel, planned, in the midst of the load": func(t *testing.T) loser {
		sentinel := redistest.StartSentinel(t)
		return loser{overSentinel(sentinel), func() {}, sentinel.FailOver}
	},
	"Sentinel, killed": func(t *testing.T) loser {
		sentinel := redistest.StartSentinel(t)
		return killedLoser(overSentinel(sentinel), sentinel.Master, sentinel.WaitReplaced, sentinel.Wait)
	},
	"Cluster, planned": func(t *testing.T) loser {
		cluster := redistest.StartCluster(t, 3, 1)
		return replicatedLoser(overCluster(cluster), masterOf(cluster), func() { cluster.FailOver(anyKey, true) })
	},
	"Cluster, planned, in the midst of the load": func(t *testing.T) loser {
		cluster := redistest.StartCluster(t, 3, 1)
		return loser{overCluster(cluster), func() {}, func() { cluster.FailOver(anyKey, false) }}
	},
	"Cluster, killed": func(t *testing.T) loser {
		cluster := redistest.StartCluster(t, 3, 1)
		return killedLoser(overCluster(cluster), masterOf(cluster), func(old *redistest.Server) {
			for masterOf(cluster)() == old {
				time.Sleep(50 * time.Millisecond)
			}
		}, cluster.Wait)
	},
	"restarted from a backup": func(t *testing.T) loser {
		server := redistest.Start(t)
		return loser{plan{urls: []string{server.URL}}, server.Save, server.Restart}
	},
	"restarted with its log": func(t *testing.T) loser {
		// All of it, as the machine does not fail.
		server := redistest.Start(t, redistest.AppendOnly(redistest.EverySecond))
		return loser{plan{urls: []string{server.URL}}, func() {}, server.Restart}
	},
}

// anyKey is in the slot of all keys of a fleet.
const anyKey = "{" + namespace + "}:"

func masterOf(cluster *redistest.Cluster) func() *redistest.Server {
	return func() *redistest.Server { return cluster.MasterOf(anyKey) }
}

func overSentinel(sentinel *redistest.Sentinel) (p plan) {
	for _, addr := range sentinel.Addrs() {
		p.urls = append(p.urls, "redis://"+addr)
	}
	p.words = "sentinel " + sentinel.MasterName + "\n"
	return p
}

func overCluster(cluster *redistest.Cluster) (p plan) {
	for _, addr := range cluster.Addrs() {
		p.urls = append(p.urls, "redis://"+addr)
	}
	return p
}

// replicatedLoser replaces a master that is well, and whose replicas lag.
func replicatedLoser(p plan, master func() *redistest.Server, failOver func()) loser {
	var old *redistest.Server
	return loser{p, func() { old = master(); old.HoldReplicas() }, func() { failOver(); old.ReleaseReplicas() }}
}

// killedLoser has a master die whose replicas lag, and come back as a replica.
func killedLoser(p plan, master func() *redistest.Server, waitReplaced func(old *redistest.Server), wait func()) loser {
	var old *redistest.Server
	return loser{p, func() { old = master(); old.HoldReplicas() }, func() {
		old.Kill()
		waitReplaced(old)
		old.Restart()
		wait()
	}}
}

// TestNothingIsLost: whatever Redis forgets that it has acknowledged, nodes bring
// it back: each answer is on record once, and credits are given once.
func TestNothingIsLost(t *testing.T) {
	redistest.Require(t)
	t.Parallel()
	for name, start := range losers {
		t.Run(name, func(t *testing.T) {
			inLane(t)
			store := start(t)
			store.accounts, store.gateways = accounts("a", 4, 0, sonnet), 2
			store.more = "group plan {\nlimits {\nmonthly 10000\n}\n}\n" +
				"user " + subscriber + " {\nconcurrency 0\nkey sk-gateway-" + subscriber + " plan\n}\n"
			f := launch(t, store.plan)
			m := &meter{}
			f.measure(m.script(20*time.Millisecond, 60*time.Millisecond))
			// A site is served a moment before the admin API knows its config.
			gatewaytest.Within(t, 5*time.Second, "the subscriber has a subscription", func() bool {
				var subscription any
				_, err := f.admin(f.nodes[0], "PUT", "users/"+subscriber+"/subscriptions/plan", struct{}{}, &subscription)
				return err == nil
			})
			giver := f.give()
			load, subscribed := f.begin(3, f.nodes...), f.beginAs("sk-gateway-"+subscriber, 1, f.nodes...)
			time.Sleep(2 * time.Second) // replicas have the subscription, which is not told again
			for range failoverCount(t) {
				held := time.Now()
				store.hold()
				time.Sleep(unsent)
				losing := time.Now()
				store.lose()
				t.Logf("held from %s, lost from %s to %s", held.Format("05.000"), losing.Format("05.000"), time.Now().Format("05.000"))
				time.Sleep(500 * time.Millisecond)
			}
			f.wantRedis(resettled)
			load.end(t)
			subscribed.end(t)
			f.wantBooks(f.nodes[0], resettled, m.totals(), giver.end())
			f.wantWindow(f.nodes[0])
		})
	}
}

// TestNothingOfTheLastMinuteIsLost: a Redis that keeps nothing and is restarted
// has what its nodes did in the last minute.
func TestNothingOfTheLastMinuteIsLost(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	server := redistest.Start(t)
	f := launch(t, plan{urls: []string{server.URL}, accounts: accounts("a", 4, 0, sonnet), gateways: 2})
	m := &meter{}
	f.measure(m.script(20*time.Millisecond, 60*time.Millisecond))
	giver := f.give()
	load := f.begin(3, f.nodes...)
	for range min(failoverCount(t), 10) { // within the minute
		time.Sleep(unsent)
		server.Restart()
	}
	f.wantRedis(resettled)
	load.end(t)
	f.wantBooks(f.nodes[0], resettled, m.totals(), giver.end())
}

// giver credits users through the admin API, and repeats what was not acknowledged.
type giver struct {
	f       *fleet
	done    chan struct{}
	stop    sync.Once // closes done
	running sync.WaitGroup
	given   map[string]billing.USD
	late    int
}

// give has a giver begin.
func (f *fleet) give() *giver {
	g := &giver{f: f, done: make(chan struct{}), given: map[string]billing.USD{}}
	f.t.Cleanup(func() {
		g.stop.Do(func() { close(g.done) })
		g.running.Wait()
	})
	g.running.Go(func() {
		for {
			select {
			case <-g.done:
				return
			case <-time.After(50 * time.Millisecond):
				g.credit()
			}
		}
	})
	return g
}

// credit gives one credit, until it is acknowledged.
func (g *giver) credit() {
	user := fmt.Sprintf("u%d", rand.IntN(users))
	amount := billing.USD(1 + rand.Int64N(1_000_000_000))
	in := map[string]any{"amount_usd": amount, "id": fmt.Sprintf("credit-%d", serial.Add(1)), "note": "a gift"}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && !g.f.t.Failed(); time.Sleep(50 * time.Millisecond) {
		var out struct{ Credited bool }
		at := g.f.nodes[rand.IntN(len(g.f.nodes))]
		status, err := g.f.admin(at, "POST", "users/"+user+"/credit", in, &out)
		if err == nil {
			g.given[user] += amount
			return
		}
		g.late++
		if status == http.StatusInternalServerError || status == http.StatusNotFound {
			g.f.t.Errorf("a credit: %v", err)
		}
	}
	if !g.f.t.Failed() {
		g.f.t.Errorf("a credit of %s to %s was not taken", amount, user)
	}
}

// end ends the giving, and returns what each user was given.
func (g *giver) end() map[string]billing.USD {
	g.stop.Do(func() { close(g.done) })
	g.running.Wait()
	if len(g.given) == 0 {
		g.f.t.Error("no credit was given")
	}
	g.f.t.Logf("credits %v; %d times one had to be repeated", g.given, g.late)
	return g.given
}

// wantRedis waits until a record that each gateway makes from now on is in Redis.
func (f *fleet) wantRedis(limit time.Duration) {
	f.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		ids := map[string]bool{}
		for _, n := range f.nodes {
			if a := f.ask(n, question{}); a.whole() {
				ids[a.header.Get("Request-Id")] = true
			}
		}
		records, err := f.entries(f.nodes[0])
		for id := range ids {
			if _, ok := records[id]; !ok {
				delete(ids, id)
			}
		}
		if err == nil && len(ids) == len(f.nodes) {
			return
		}
		if time.Now().After(end) {
			f.t.Errorf("requests do not go through Redis within %v: %v", limit, err)
			return
		}
	}
}

// wantWindow compares what is used of the subscription with what its records cost.
func (f *fleet) wantWindow(at *gatewaytest.Gateway) {
	f.t.Helper()
	records, err := f.entries(at)
	if err != nil {
		f.t.Error(err)
		return
	}
	var cost billing.USD
	for _, e := range records {
		if e.User == subscriber {
			cost += e.Cost
		}
	}
	var user struct {
		Subscriptions []struct {
			Windows struct {
				Monthly struct {
					Used billing.USD `json:"used_usd"`
				} `json:"monthly"`
			} `json:"windows"`
		} `json:"subscriptions"`
	}
	if _, err := f.admin(at, "GET", "users/"+subscriber, nil, &user); err != nil || len(user.Subscriptions) != 1 {
		f.t.Errorf("the subscriptions are %+v, %v", user, err)
		return
	}
	if used := user.Subscriptions[0].Windows.Monthly.Used; used != cost || cost == 0 {
		f.t.Errorf("of the subscription %s is used, its records cost %s", used, cost)
	}
}
