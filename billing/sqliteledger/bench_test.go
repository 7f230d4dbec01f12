//go:build unix

package sqliteledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// benchmarkUsers is how many users, each with a limited key, there are besides alice.
const benchmarkUsers = 1000

// openForBenchmark opens a ledger with users whose balance pays for everything.
func openForBenchmark(b *testing.B, opts Options) *Ledger {
	l := open(b, b.TempDir(), opts)
	users := []billing.User{{Name: "alice", Balance: 1e15}}
	for i := range benchmarkUsers {
		users = append(users, billing.User{Name: fmt.Sprintf("user-%04d", i), Balance: 1e15})
	}
	if err := l.Declare(b.Context(), users); err != nil {
		b.Fatal(err)
	}
	for i, u := range users[1:] {
		k := billing.Key{ID: fmt.Sprintf("%012x", i), User: u.Name, Limits: billing.Limits{billing.Daily: 1e15}}
		binary.LittleEndian.PutUint64(k.Digest[:], uint64(i))
		if err := l.AddKey(b.Context(), k); err != nil {
			b.Fatal(err)
		}
	}
	return l
}

// ofAlice is the record of somebody whose requests come in a row.
func ofAlice(int64) *billing.Record { return ledgertest.Example(newID()) }

// ofMany is that of one user after the other: the worst for what is summed up.
func ofMany(n int64) *billing.Record {
	r := ledgertest.Example(newID())
	r.User, r.KeyID = fmt.Sprintf("user-%04d", n%benchmarkUsers), fmt.Sprintf("%012x", n%benchmarkUsers)
	r.Account = fmt.Sprintf("account-%02d", n%50)
	return r
}

func withRandomID(n int64) *billing.Record { return ledgertest.Example(uuid.NewString()) }

// benchmarkSettle has that many callers times GOMAXPROCS. CPU is all that the
// process used until the database had everything.
func benchmarkSettle(b *testing.B, l *Ledger, parallel int, hold bool, record func(n int64) *billing.Record) {
	defer l.Close()
	var mu sync.Mutex
	var waits []time.Duration
	var turn atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(parallel)
	used := cpuTime()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var mine []time.Duration
		for pb.Next() {
			r := record(turn.Add(1))
			if hold {
				req := &billing.HoldRequest{ID: r.ID, User: r.User, KeyID: r.KeyID, Amount: 2 * r.Charged, MinAvailable: r.Charged}
				if _, err := l.Hold(context.Background(), req); err != nil {
					b.Error(err)
				}
			}
			start := time.Now()
			if err := l.Settle(context.Background(), r, nil); err != nil {
				b.Error(err)
			}
			mine = append(mine, time.Since(start))
		}
		mu.Lock()
		waits = append(waits, mine...)
		mu.Unlock()
	})
	b.StopTimer()
	if err := l.flush(); err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64((cpuTime()-used).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	reportWaits(b, waits)
}

func reportWaits(b *testing.B, waits []time.Duration) {
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
				benchmarkSettle(b, openForBenchmark(b, Options{Sync: sync}), parallel, false, ofAlice)
			})
		}
	}
	b.Run("random-ids/callers=8", func(b *testing.B) {
		benchmarkSettle(b, openForBenchmark(b, Options{}), 8, false, withRandomID)
	})
	b.Run("many-users/callers=8", func(b *testing.B) {
		benchmarkSettle(b, openForBenchmark(b, Options{}), 8, false, ofMany)
	})
	b.Run("many-users/hold/callers=8", func(b *testing.B) {
		benchmarkSettle(b, openForBenchmark(b, Options{}), 8, true, ofMany)
	})
}

// BenchmarkHold holds and releases.
func BenchmarkHold(b *testing.B) {
	l := openForBenchmark(b, Options{})
	defer l.Close()
	for name, req := range map[string]billing.HoldRequest{
		"balance":              {User: "alice"},
		"balance-and-key":      {User: "user-0007", KeyID: fmt.Sprintf("%012x", 7)},
		"subscription-and-key": {User: "user-0007", KeyID: fmt.Sprintf("%012x", 7), Terms: &billing.Terms{Group: "g", Declared: true, Limits: billing.Limits{1e15, 1e15, 1e15}}},
	} {
		b.Run(name, func(b *testing.B) {
			req.ID, req.Amount, req.MinAvailable = newID(), 1000, 1000
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Hold(context.Background(), &req); err != nil {
					b.Fatal(err)
				}
				l.Release(context.Background(), req.ID)
			}
		})
	}
}

// BenchmarkSettleBesidePrune settles, 2,000 times a second, while old records are
// deleted.
func BenchmarkSettleBesidePrune(b *testing.B) {
	l := openForBenchmark(b, Options{})
	defer l.Close()
	old := make([]*settled, 100_000)
	for i := range old {
		r := ofMany(int64(i))
		r.Time = r.Time.AddDate(0, -2, -i%30)
		old[i] = &settled{Record: *r}
		l.directory.meetPayer(old[i])
		l.enter(old[i])
	}
	l.writing.Lock()
	err := l.write(old, func() {})
	l.writing.Unlock()
	if err != nil {
		b.Fatal(err)
	}
	var waits []time.Duration
	var pruned sync.WaitGroup
	var isDone atomic.Bool
	start := time.Now()
	pruned.Go(func() {
		defer isDone.Store(true)
		all := 0
		for range 30 { // days
			n, err := l.Prune(context.Background(), time.Now().AddDate(0, -1, 0))
			if err != nil {
				b.Error(err)
			}
			all += n
		}
		if all != len(old) {
			b.Errorf("%d records were deleted", all)
		}
	})
	for n := int64(0); !isDone.Load(); n++ {
		time.Sleep(time.Until(start.Add(time.Duration(n) * 500 * time.Microsecond)))
		r, begin := ofMany(n), time.Now()
		if err := l.Settle(context.Background(), r, nil); err != nil {
			b.Fatal(err)
		}
		waits = append(waits, time.Since(begin))
	}
	pruned.Wait()
	b.ReportMetric(time.Since(start).Seconds()*1e6/float64(len(old)), "µs/deleted")
	b.ReportMetric(0, "ns/op")
	reportWaits(b, waits)
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
				if err := l.Settle(context.Background(), ledgertest.Example(newID()), nil); err != nil {
					b.Fatal(err)
				}
				waits = append(waits, time.Since(start))
			}
			reportWaits(b, waits)
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
