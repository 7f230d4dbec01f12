package redisledger_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
)

func benchmarkRedis(b *testing.B) *node {
	b.Helper()
	client := realRedis(b)
	l := openWith(b, client, redisledger.Options{Namespace: namespace(b, client)})
	l.declareAlice(b)
	return l
}

// BenchmarkSettle runs with as many callers as its name says, times GOMAXPROCS.
func BenchmarkSettle(b *testing.B) {
	for _, parallel := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", parallel), func(b *testing.B) {
			l := benchmarkRedis(b)
			benchmark(b, parallel, func() error { return l.Settle(context.Background(), ledgertest.Example(newID()), nil) })
		})
	}
}

// BenchmarkHold sets money aside on a balance and on a key with limits.
func BenchmarkHold(b *testing.B) {
	for _, parallel := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", parallel), func(b *testing.B) {
			l := benchmarkRedis(b)
			must(b, l.AddKey(b.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: opening}}))
			benchmark(b, parallel, func() error {
				c := req(newID(), 1)
				c.KeyID = "k"
				_, err := l.Hold(context.Background(), c)
				return err
			})
		})
	}
}

// BenchmarkHoldAndSettle is what a request costs: of a subscription and of a key with
// limits.
func BenchmarkHoldAndSettle(b *testing.B) {
	l := benchmarkRedis(b)
	must(b, l.AddKey(b.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: opening}}))
	benchmark(b, 8, func() error {
		c := req(newID(), 1)
		c.KeyID, c.Terms = "k", &billing.Terms{Group: "g", Declared: true}
		if _, err := l.Hold(context.Background(), c); err != nil {
			return err
		}
		r := exampleOf(c.ID)
		r.KeyID, r.Group, r.Billing = "k", "g", billing.PaidFromSubscription
		return l.Settle(context.Background(), r, nil)
	})
}

// BenchmarkLogin is answered from memory.
func BenchmarkLogin(b *testing.B) {
	l := benchmarkRedis(b)
	k := keyOf("alice", "secret")
	must(b, l.AddKey(b.Context(), k))
	benchmark(b, 1, func() error {
		_, _, err := l.Login(context.Background(), k.Digest)
		return err
	})
}

// BenchmarkSettleInOutage settles to the spool.
func BenchmarkSettleInOutage(b *testing.B) {
	for _, isSynced := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", isSynced), func(b *testing.B) {
			client := connect(b, &redis.Options{Addr: "127.0.0.1:1", DialTimeout: time.Second})
			l := openWith(b, client, redisledger.Options{Sync: isSynced})
			benchmark(b, 8, func() error { return l.Settle(context.Background(), ledgertest.Example(newID()), nil) })
		})
	}
}

func BenchmarkBalance(b *testing.B) {
	l := benchmarkRedis(b)
	benchmark(b, 8, func() error {
		_, err := l.Balance(context.Background(), "alice")
		return err
	})
}

// benchmark reports how long calls took, and the process's CPU time for each.
func benchmark(b *testing.B, parallel int, call func() error) {
	var mu sync.Mutex
	var waits []time.Duration
	b.ReportAllocs()
	b.SetParallelism(parallel)
	b.ResetTimer()
	before := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		var mine []time.Duration
		for pb.Next() {
			start := time.Now()
			if err := call(); err != nil {
				b.Error(err)
			}
			mine = append(mine, time.Since(start))
		}
		mu.Lock()
		waits = append(waits, mine...)
		mu.Unlock()
	})
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
}
