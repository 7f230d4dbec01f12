package redisledger

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func benchmarkRedis(b *testing.B, options Options) *Ledger {
	b.Helper()
	url := os.Getenv("SUB2API_TEST_REDIS")
	if url == "" {
		b.Skip("SUB2API_TEST_REDIS names no server")
	}
	parsed, err := redis.ParseURL(url)
	if err != nil {
		b.Fatal(err)
	}
	client := connect(b, parsed)
	options.Namespace = namespace(b, client)
	l := open(b, client, options)
	declareAlice(b, l)
	return l
}

// BenchmarkSettle runs with as many callers as its name says, times GOMAXPROCS.
func BenchmarkSettle(b *testing.B) {
	for _, parallel := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", parallel), func(b *testing.B) {
			l := benchmarkRedis(b, Options{})
			benchmark(b, parallel, func() error { return l.Settle(context.Background(), ledgertest.Example(newID()), nil) })
		})
	}
}

// BenchmarkHold sets money aside on a balance and on a key with limits.
func BenchmarkHold(b *testing.B) {
	for _, parallel := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", parallel), func(b *testing.B) {
			l := benchmarkRedis(b, Options{})
			must(b, l.AddKey(b.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: opening}}))
			benchmark(b, parallel, func() error {
				c := claim(newID(), 1)
				c.KeyID = "k"
				_, err := l.Hold(context.Background(), c)
				return err
			})
		})
	}
}

// BenchmarkSettleHeld ends holds with records, of a subscription and of a key with
// limits.
func BenchmarkSettleHeld(b *testing.B) {
	l := benchmarkRedis(b, Options{})
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
		r := exampleOf(<-ids)
		r.KeyID, r.Group, r.Billing = "k", "g", billing.PaidFromSubscription
		return l.Settle(context.Background(), r, nil)
	})
}

// BenchmarkLogin is answered from memory.
func BenchmarkLogin(b *testing.B) {
	l := benchmarkRedis(b, Options{})
	k := keyOf("alice", "secret")
	must(b, l.AddKey(b.Context(), k))
	benchmark(b, 1, func() error {
		_, _, err := l.Login(context.Background(), k.Digest)
		return err
	})
}

// BenchmarkSettleInOutage settles to the spool.
func BenchmarkSettleInOutage(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			client := connect(b, &redis.Options{Addr: "127.0.0.1:1", DialTimeout: time.Second})
			l := New(client, Options{Spool: b.TempDir(), Sync: sync})
			l.adopt()
			benchmark(b, 8, func() error { return l.Settle(context.Background(), ledgertest.Example(newID()), nil) })
			b.StopTimer()
			stopLoops(l) // Redis will not be back
			if err := l.spool.close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkDrain brings a spool to Redis.
func BenchmarkDrain(b *testing.B) {
	l := benchmarkRedis(b, Options{Spool: b.TempDir()})
	l.adopt()
	stopLoops(l)
	for range b.N {
		if err := l.spool.keep(ledgertest.Example(newID()), true); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	if err := l.drain(context.Background()); err != nil || l.Waiting() != 0 {
		b.Errorf("%d records wait, error %v", l.Waiting(), err)
	}
}

func BenchmarkBalance(b *testing.B) {
	l := benchmarkRedis(b, Options{})
	benchmark(b, 8, func() error {
		_, err := l.Balance(context.Background(), "alice")
		return err
	})
}

func benchmark(b *testing.B, parallel int, call func() error) {
	var mu sync.Mutex
	var waits []time.Duration
	b.ReportAllocs()
	b.SetParallelism(parallel)
	b.ResetTimer()
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
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
}
