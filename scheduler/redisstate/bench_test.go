package redisstate_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
)

// benchClients are the requests under way at once, as with redis-benchmark -c.
const benchClients = 50

// BenchmarkRedis measures what one server carries: requests, each of which
// takes a user's slot, picks an account with a session and gives both back, in
// three round trips. bare is a script that does nothing, on the same client.
func BenchmarkRedis(b *testing.B) {
	url := os.Getenv("SUB2API_TEST_REDIS")
	if url == "" {
		b.Skip("SUB2API_TEST_REDIS names no server")
	}
	options, err := redis.ParseURL(url)
	if err != nil {
		b.Fatal(err)
	}
	options.PoolSize = benchClients
	client := redis.NewClient(options)
	defer client.Close()
	b.Run("bare", func(b *testing.B) {
		script := redis.NewScript("return 1")
		atOnce(b, func(int) error { return script.Run(context.Background(), client, []string{"{bench}:"}).Err() })
	})
	for _, accounts := range []int{10, 100, 1000} {
		for _, sticky := range []bool{true, false} {
			b.Run(fmt.Sprintf("request/%d accounts/sticky=%t", accounts, sticky), func(b *testing.B) {
				state := stateOver(b, client, redisstate.Options{Namespace: "bench-" + uuid.NewString()}, 10*time.Second)
				defer state.Close()
				set := accountSet(accounts)
				atOnce(b, func(n int) error { return oneRequest(state, set, n, sticky) })
			})
		}
	}
}

func accountSet(n int) *scheduler.Candidates {
	set := &scheduler.Candidates{Pool: "group/default/anthropic"}
	for i := range n {
		set.Places = append(set.Places, scheduler.Place{Name: fmt.Sprint("account/", i), Limit: 2 * benchClients, Priority: 50})
	}
	return set
}

func oneRequest(state *redisstate.State, set *scheduler.Candidates, n int, sticky bool) error {
	ctx := context.Background()
	user := &scheduler.Ask{
		Lease: fmt.Sprintf("req_%032d#1", n), TTL: time.Minute, MaxWaiting: 100, User: fmt.Sprint(n % 100),
		Candidates: &scheduler.Candidates{Pool: "user", Places: []scheduler.Place{{Name: fmt.Sprint("user/", n%100), Limit: 50}}},
	}
	account := &scheduler.Ask{
		Lease: fmt.Sprintf("req_%032d#2", n), TTL: time.Minute, MaxWaiting: 100, StickyMaxWaiting: 3,
		Candidates: set, Model: "claude-sonnet-4-5", BindTTL: time.Hour,
	}
	if sticky {
		account.Session = fmt.Sprint("default//", n%1000)
	}
	for _, ask := range []*scheduler.Ask{user, account} {
		if got, err := state.Acquire(ctx, ask); err != nil || got.Kind != scheduler.Granted {
			return fmt.Errorf("got %+v: %w", got, err)
		}
	}
	return state.Release(ctx, user.Lease, account.Lease)
}

// atOnce calls f b.N times, on benchClients goroutines.
func atOnce(b *testing.B, f func(n int) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range benchClients {
		all.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := f(int(n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per-s")
}
