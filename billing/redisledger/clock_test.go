package redisledger_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
)

// TestOneClockOfThreeIsWrong for a while: no limit is passed, and none refuses for
// longer than its own window, at any node; records stay in the order in which they were
// settled.
func TestOneClockOfThreeIsWrong(t *testing.T) {
	const each, limit = 1000, 20_000
	const day = 24 * time.Hour
	for _, by := range []time.Duration{time.Minute, -time.Minute, day, -day, 40 * day, -40 * day, 400 * day, -400 * day} {
		for _, when := range []string{"at the start", "idle", "under load"} {
			t.Run(fmt.Sprint(by, " ", when), func(t *testing.T) {
				inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
					time.Sleep(time.Until(time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)))
					var wrong atomic.Int64
					if when == "at the start" {
						wrong.Store(int64(by))
					}
					clock := func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
					nodes := []*node{open(t, client), open(t, clientOf(t, mini)), openWith(t, clientOf(t, mini), redisledger.Options{Now: clock})}
					nodes[0].declareAlice(t)
					must(t, nodes[0].AddKey(t.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{limit, limit, limit}}))
					used := billing.USD(0)
					var ids []string // of records, as they were settled
					ask := func(n *node, id string, amount billing.USD) error {
						c := req(id, amount)
						c.KeyID = "k"
						_, err := n.Hold(t.Context(), c)
						return err
					}
					use := func(jump func()) {
						for i, n := range nodes {
							r := exampleOf(fmt.Sprint(used, " at ", i))
							r.Time, r.KeyID, r.Charged, r.Cost = time.Now(), "k", each, each
							if i == 2 {
								r.Time = clock()
							}
							must(t, ask(n, r.ID, each))
							time.Sleep(time.Second)
							jump()
							must(t, n.Settle(t.Context(), r, nil))
							used += each
							ids = append(ids, r.ID)
						}
					}
					stay := func() {}
					use(stay)
					switch when {
					case "idle":
						wrong.Store(int64(by))
						time.Sleep(time.Minute)
						wrong.Store(0)
					case "under load":
						use(func() { wrong.Store(int64(by)) }) // between the request and the record
						use(stay)
						use(func() { wrong.Store(0) })
					}
					use(stay)
					wrong.Store(0)
					use(stay)
					time.Sleep(2 * time.Second)
					for i, n := range nodes {
						var refusal *billing.Refusal
						err := ask(n, fmt.Sprint("more at ", i), limit-used+1)
						if !errors.As(err, &refusal) || refusal.Reason != billing.ReasonKeyLimit || time.Until(refusal.Until) > 31*day {
							t.Errorf("node %d, of which the key has used %s: %v, want a refusal for a month at most", i, used, err)
						}
						id := fmt.Sprint("rest at ", i)
						if err := ask(n, id, limit-used); err != nil {
							t.Errorf("node %d: %v; %s are left", i, err, limit-used)
						}
						n.Release(t.Context(), id)
					}
					settled := make(map[string]time.Time)
					must(t, nodes[1].Records(t.Context(), billing.RecordFilter{}, func(r *billing.Record) bool {
						settled[r.ID] = r.Settled
						return true
					}))
					for i, id := range ids {
						if settled[id].IsZero() || i > 0 && !settled[id].After(settled[ids[i-1]]) {
							t.Errorf("record %s was settled at %v, the one before at %v", id, settled[id], settled[ids[max(0, i-1)]])
						}
					}
					mini.SetTime(time.Date(2026, 4, 30, 0, 1, 0, 0, time.UTC)) // each window has ended
					time.Sleep(2 * time.Second)
					for i, n := range nodes {
						id := fmt.Sprint("all at ", i)
						if err := ask(n, id, limit); err != nil {
							t.Errorf("node %d, a month later: %v", i, err)
						}
						n.Release(t.Context(), id)
					}
				})
			})
		}
	}
}
