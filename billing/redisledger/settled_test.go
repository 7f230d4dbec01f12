package redisledger_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// TestExportsMeet under load, over borders of days, whatever is done to Redis's clock:
// what is read up to one moment and then from it is all, once, and is settled later and
// later.
func TestExportsMeet(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	start := time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)
	mini.SetTime(start)
	reader := open(t, client)
	reader.declareAlice(t)
	var ids []string
	var mu sync.Mutex
	var running sync.WaitGroup
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()
	for w := range 3 {
		l := open(t, client)
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				r := exampleOf(fmt.Sprint(w, "-", i))
				r.Time = start.Add(time.Duration(i%5-2) * 24 * time.Hour)
				if err := l.Settle(context.Background(), r, nil); err != nil {
					t.Error(err)
				}
				mu.Lock()
				ids = append(ids, r.ID)
				mu.Unlock()
			}
		})
	}
	var exported []string
	var from time.Time
	export := func(to time.Time) {
		var page []*billing.Record
		must(t, reader.Records(t.Context(), billing.RecordFilter{SettledFrom: from, SettledTo: to}, func(r *billing.Record) bool {
			page = append(page, r)
			return true
		}))
		for _, r := range page {
			if r.Settled.Before(from) || !to.IsZero() && !r.Settled.Before(to) {
				t.Errorf("%s was settled at %v, want from %v to %v", r.ID, r.Settled, from, to)
			}
			exported = append(exported, r.ID)
		}
		from = to
	}
	now := start
	for i, step := range []time.Duration{
		time.Second, time.Second, -time.Hour, 2 * time.Hour, 24 * time.Hour, -24 * time.Hour, time.Minute, 25 * time.Hour, -40 * 24 * time.Hour, time.Hour,
	} {
		time.Sleep(10 * time.Millisecond)
		now = now.Add(step)
		mini.SetTime(now)
		if !now.Before(from) && i > 0 {
			export(now)
		}
	}
	end()
	export(time.Time{})
	slices.Sort(ids)
	slices.Sort(exported)
	if !slices.Equal(ids, exported) {
		t.Errorf("%d records were exported, %d were settled", len(exported), len(ids))
	}
	t.Logf("%d records", len(ids))
}

// TestSettledOnlyGrows for who reads them in that order, also over processes, and over a
// Redis that goes back.
func TestSettledOnlyGrows(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		a, b := open(t, client), open(t, clientOf(t, mini))
		a.declareAlice(t)
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		last := time.Time{}
		for i := range 20 {
			now = now.Add([]time.Duration{time.Hour, -25 * time.Hour, time.Microsecond}[i%3])
			mini.SetTime(now)
			n, id := []*node{a, b}[i%2], fmt.Sprint(i)
			n.settle(t, id)
			r, err := n.Record(t.Context(), id)
			must(t, err)
			if !r.Settled.After(last) {
				t.Errorf("%s was settled at %v, after one at %v", id, r.Settled, last)
			}
			last = r.Settled
		}
		useRedis := redistest.Copy(t, client)
		mini.Set("{n}:settled:last", "1") // and it knows nothing of any export
		a.settle(t, "after")
		if r, err := a.Record(t.Context(), "after"); err != nil || !r.Settled.After(last.Add(-time.Hour)) {
			t.Errorf("%+v, %v: this process knew of one settled at %v", r, err, last)
		}
		useRedis()
	})
}

// TestExportWithAWrongClock: requests are of 40 days ahead or before, by the clock of
// their process, and are settled on several days.
func TestExportWithAWrongClock(t *testing.T) {
	for _, wrong := range []time.Duration{40 * 24 * time.Hour, -40 * 24 * time.Hour} {
		mini := miniredis.RunT(t)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		var now atomic.Pointer[time.Time]
		set := func(shows time.Time) {
			mini.SetTime(shows)
			now.Store(&shows)
		}
		begin := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		set(begin)
		clock := func() time.Time { return now.Load().Add(wrong) }
		l := openWith(t, client, redisledger.Options{Now: clock})
		l.declareAlice(t)
		for day := range 4 {
			set(begin.AddDate(0, 0, day))
			r := exampleOf(fmt.Sprint(day))
			r.Time = clock()
			must(t, l.Settle(t.Context(), r, nil))
		}
		for day := range 4 {
			from := begin.AddDate(0, 0, day)
			got := recordsIn(t, l, billing.RecordFilter{SettledFrom: from, SettledTo: from.AddDate(0, 0, 1)})
			if !slices.Equal(got, []string{fmt.Sprint(day)}) {
				t.Errorf("clock %v off: settled on day %d: %v", wrong, day, got)
			}
		}
		if got := recordsIn(t, l, billing.RecordFilter{SettledTo: begin.AddDate(0, 0, 1)}); !slices.Equal(got, []string{"0"}) {
			t.Errorf("clock %v off: settled up to the second day: %v", wrong, got)
		}
		if got := recordsIn(t, l, billing.RecordFilter{SettledFrom: begin.AddDate(-5, 0, 0)}); len(got) != 4 {
			t.Errorf("clock %v off: settled at all: %v", wrong, got)
		}
	}
}
