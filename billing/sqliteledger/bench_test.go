package sqliteledger

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func benchmarkSettle(b *testing.B, opts Options, parallel int, id func() string) {
	l, err := Open(b.Context(), b.TempDir(), opts)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if err := l.Declare(b.Context(), []billing.User{{Name: "alice", Balance: 1e15}}); err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var waits []time.Duration
	b.ReportAllocs()
	b.SetParallelism(parallel)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var mine []time.Duration
		for pb.Next() {
			start := time.Now()
			if err := l.Settle(context.Background(), ledgertest.Example(id())); err != nil {
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
	b.ReportMetric(float64(waits[len(waits)-1].Microseconds()), "max-µs")
}

// BenchmarkSettle runs with as many callers as its name says, times GOMAXPROCS.
func BenchmarkSettle(b *testing.B) {
	for _, sync := range []bool{false, true} {
		for _, parallel := range []int{8, 32} {
			b.Run(fmt.Sprintf("sync=%v/callers=%d", sync, parallel), func(b *testing.B) {
				benchmarkSettle(b, Options{Sync: sync}, parallel, newID)
			})
		}
	}
	b.Run("random-ids/callers=8", func(b *testing.B) { benchmarkSettle(b, Options{}, 8, uuid.NewString) })
}

func BenchmarkSettleAlone(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			l, err := Open(b.Context(), b.TempDir(), Options{Sync: sync})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			if err := l.Declare(b.Context(), []billing.User{{Name: "alice", Balance: 1e15}}); err != nil {
				b.Fatal(err)
			}
			var waits []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				if err := l.Settle(context.Background(), ledgertest.Example(newID())); err != nil {
					b.Fatal(err)
				}
				waits = append(waits, time.Since(start))
			}
			slices.Sort(waits)
			b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
		})
	}
}

func BenchmarkBalance(b *testing.B) {
	l, err := Open(b.Context(), b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if err := l.Declare(b.Context(), []billing.User{{Name: "alice", Balance: 1e15}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Balance(context.Background(), "alice"); err != nil {
				b.Error(err)
			}
		}
	})
}
