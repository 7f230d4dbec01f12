//go:build unix

package redisledger_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
)

// benchmarkRedis opens a ledger over the server that the tests are given.
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

// BenchmarkHoldSettle is what a request costs: money is set aside on a balance and on a
// key with limits, and a record ends that.
func BenchmarkHoldSettle(b *testing.B) {
	for _, parallel := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", parallel), func(b *testing.B) {
			l := benchmarkRedis(b)
			must(b, l.AddKey(b.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: opening}}))
			benchmark(b, parallel, func() error {
				c := claim(newID(), charge)
				c.KeyID = "k"
				if _, err := l.Hold(context.Background(), c); err != nil {
					return err
				}
				r := ledgertest.Example(c.ID)
				r.KeyID = "k"
				return l.Settle(context.Background(), r, nil)
			})
		})
	}
}

// BenchmarkHold sets money aside on a balance and on a key with limits.
func BenchmarkHold(b *testing.B) {
	l := benchmarkRedis(b)
	must(b, l.AddKey(b.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: opening}}))
	benchmark(b, 8, func() error {
		c := claim(newID(), 1)
		c.KeyID = "k"
		_, err := l.Hold(context.Background(), c)
		return err
	})
}

// BenchmarkSettleHeld ends holds with records, of a subscription and of a key with
// limits.
func BenchmarkSettleHeld(b *testing.B) {
	l := benchmarkRedis(b)
	must(b, l.AddKey(b.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: opening}}))
	ids := make(chan string, b.N)
	for range b.N {
		c := claim(newID(), 1)
		c.KeyID, c.Terms = "k", &billing.Terms{Group: "g", Declared: true}
		if _, err := l.Hold(b.Context(), c); err != nil {
			b.Fatal(err)
		}
		ids <- c.ID
	}
	benchmark(b, 8, func() error {
		r := ledgertest.Example(<-ids)
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

func BenchmarkBalance(b *testing.B) {
	l := benchmarkRedis(b)
	benchmark(b, 8, func() error {
		_, err := l.Balance(context.Background(), "alice")
		return err
	})
}

// BenchmarkSettleInOutage settles to the spool.
func BenchmarkSettleInOutage(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			client := connect(b, &redis.Options{Addr: "127.0.0.1:1", DialTimeout: time.Second})
			l := openWith(b, client, redisledger.Options{Sync: sync})
			l.settle(b, "first") // which finds out
			benchmark(b, 8, func() error { return l.Settle(context.Background(), ledgertest.Example(newID()), nil) })
		})
	}
}

// BenchmarkDrain brings a spool to Redis.
func BenchmarkDrain(b *testing.B) {
	client := realRedis(b)
	outage := outageOf(client)
	l := openWith(b, client, redisledger.Options{Namespace: namespace(b, client)})
	l.declareAlice(b)
	outage.is.Store(true)
	for range b.N {
		must(b, l.Settle(b.Context(), ledgertest.Example(newID()), nil))
	}
	outage.is.Store(false)
	eventually(b, "Redis is back", func() bool { return l.link.Down() == nil })
	b.ResetTimer() // the drain may have begun up to 10 ms ago
	must(b, l.Records(b.Context(), billing.RecordFilter{Limit: 1}, func(*billing.Record) bool { return true }))
	if l.Waiting() != 0 {
		b.Errorf("%d records wait", l.Waiting())
	}
}

// benchmark reports, besides how long a call takes, the CPU time of this process for
// each, without the server's.
func benchmark(b *testing.B, parallel int, call func() error) {
	var mu sync.Mutex
	var waits []time.Duration
	b.ReportAllocs()
	b.SetParallelism(parallel)
	b.ResetTimer()
	before := cpuTime(b)
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
	used := cpuTime(b) - before
	b.StopTimer()
	slices.Sort(waits)
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
}

// cpuTime is what this process has used so far, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
