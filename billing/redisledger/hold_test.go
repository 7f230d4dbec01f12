package redisledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// Of holds: how long Redis keeps them, how often they are renewed, and how many at once.
const (
	holdTTL    = time.Minute
	renewEvery = 20 * time.Second
	renewBatch = 500
)

// TestGuardedHold: a hold request that travels with an ask for a slot sets money aside
// only if the slot was granted.
func TestGuardedHold(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.wantMet(t, "known", 1) // Redis learns the scripts
		l.Release(t.Context(), "known")
		l.wantHeld(t, 0)
		trips := new(roundTrips)
		client.AddHook(pipelineHook(trips.hook))
		for _, granted := range []bool{true, false} {
			lease := fmt.Sprint("lease-", granted)
			payer, answered, err := l.holdIn(req(lease, 100), redislink.Guard{Key: "{n}:held", Field: lease}, func(pipe redis.Pipeliner) {})
			if answered || err != nil {
				t.Errorf("no slot was granted: %+v, %v, %v", payer, answered, err)
			}
			if granted {
				mini.HSet("{n}:held", lease, "dplace")
			}
			trips.count.Store(0)
			payer, answered, err = l.holdIn(req(lease, 100), redislink.Guard{Key: "{n}:held", Field: lease}, nil)
			trips.want(t, "the ask", 1)
			if held := mini.HGet("{n}:user:alice", "held"); held == "100" != granted {
				t.Errorf("granted %v: %q is set aside", granted, held)
			}
			if err != nil || answered != granted || answered && payer.Billing != billing.PaidFromBalance {
				t.Errorf("granted %v: %+v, %v, %v", granted, payer, answered, err)
			}
			l.Release(t.Context(), lease)
			l.wantHeld(t, 0)
			trips.want(t, "giving it back and looking", map[bool]int64{true: 2, false: 1}[granted])
		}
	})
}

// TestHoldThatNobodyAsksAbout: a request that ends before it needs its money gives
// it back as any other.
func TestHoldThatNobodyAsksAbout(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.wantMet(t, "known", 0)
		along, _ := l.HoldIn(req("a", opening))
		l.travel(along, redislink.Guard{}, nil)
		l.wantRefused(t, "b", 1, true)
		l.Release(t.Context(), "a")
		l.wantMet(t, "b", opening)
		l.Release(t.Context(), "b")
		l.wantHeld(t, 0)
	})
}

// TestHoldsLiveAsLongAsTheirProcess: they are renewed while it lives, are gone a
// minute after it was last heard of, and are there again if it only stood still.
func TestHoldsLiveAsLongAsTheirProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		frozen := clientOf(t, mini)
		var thaw atomic.Pointer[chan struct{}]
		before(frozen, func(context.Context) error {
			if until := thaw.Load(); until != nil {
				<-*until
			}
			return nil
		})
		a, b := open(t, frozen), open(t, client)
		a.declareAlice(t)
		a.wantMet(t, "a", opening)
		time.Sleep(10 * time.Minute)
		b.wantRefused(t, "b", 1, true)
		until := make(chan struct{})
		thaw.Store(&until)
		time.Sleep(holdTTL - renewEvery - 2*time.Second)
		b.wantRefused(t, "b", 1, true)
		time.Sleep(renewEvery + 3*time.Second)
		b.wantMet(t, "b", opening)
		thaw.Store(nil)
		close(until)
		time.Sleep(renewEvery + 2*time.Second)
		b.wantHeld(t, 2*opening)
		a.settle(t, "a")
		b.Release(t.Context(), "b")
		b.wantHeld(t, 0)
	})
}

// TestRedisForgetsHolds alone, which nothing that it counts says: they are told again
// when they are renewed.
func TestRedisForgetsHolds(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.wantMet(t, "a", 100)
		client.Del(t.Context(), "{n}:holds:user:alice")
		client.HDel(t.Context(), "{n}:user:alice", "held")
		l.wantHeld(t, 0)
		time.Sleep(renewEvery + 2*time.Second)
		l.wantHeld(t, 100)
		l.Release(t.Context(), "a")
		l.wantHeld(t, 0)
	})
}

// TestHoldEndsWhileItIsRenewed: the word that a hold goes on may come to Redis
// after its end.
func TestHoldEndsWhileItIsRenewed(t *testing.T) {
	for _, end := range []string{"settled", "released"} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			l := open(t, client)
			l.declareAlice(t)
			l.wantMet(t, "a", 100)
			l.wantMet(t, "b", 10)
			var overtaken atomic.Bool
			client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
				return func(ctx context.Context, cmds []redis.Cmder) error {
					if isScript(cmds) && fmt.Sprint(cmds[0].Args()[2]) == "6" && !overtaken.Swap(true) { // two holds are told
						if end == "settled" {
							l.settle(t, "a")
						} else {
							l.Release(ctx, "a")
						}
					}
					return next(ctx, cmds)
				}
			}))
			time.Sleep(renewEvery + 2*time.Second)
			if !overtaken.Load() {
				t.Error("nothing was renewed")
			}
			l.wantHeld(t, 10)
		})
	}
}

func TestManyHoldsAreRenewedInBatches(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		for i := range 2*renewBatch + 1 {
			l.wantMet(t, fmt.Sprint(i), 1)
		}
		time.Sleep(renewEvery + time.Second) // Redis learns the script
		var mu sync.Mutex
		var batches []string // how many keys each has, three for a hold
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				if keys := fmt.Sprint(cmds[0].Args()[2]); keys != "2" { // no heartbeat
					mu.Lock()
					batches = append(batches, keys)
					mu.Unlock()
				}
				return next(ctx, cmds)
			}
		}))
		time.Sleep(renewEvery)
		mu.Lock()
		if want := []string{"1500", "1500", "3"}; !slices.Equal(batches, want) {
			t.Errorf("batches of %v keys, want %v", batches, want)
		}
		mu.Unlock()
		time.Sleep(5 * holdTTL)
		l.wantHeld(t, 2*renewBatch+1)
	})
}

// TestHoldWithoutMemory: a server that takes nothing more lets no sum go wrong.
func TestHoldWithoutMemory(t *testing.T) {
	server := redistest.Start(t)
	full := connect(t, &redis.Options{Addr: server.Addr})
	l := open(t, full)
	l.declareAlice(t)
	l.wantMet(t, "a", 100)
	l.wantMet(t, "b", 10)
	must(t, full.ConfigSet(t.Context(), "maxmemory", "1").Err())
	l.settle(t, "b") // to the spool
	l.Release(t.Context(), "a")
	l.wantMet(t, "c", 1000)
	must(t, full.ConfigSet(t.Context(), "maxmemory", "0").Err())
	l.wantWaiting(t, 0)
	l.wantSettled(t, 1)
	// What ended meanwhile and Redis did not hear of counts for a minute at most.
	if b, err := l.Balance(t.Context(), "alice"); err != nil || b.Held < 1000 || b.Held > 1110 {
		t.Errorf("%s is set aside, %v; want 1000, or what has ended too", b.Held, err)
	}
	l.Release(t.Context(), "c")
}

// TestMoreIsSetAsideThanCanBeCounted, which passes: it is a refusal to wait for.
func TestMoreIsSetAsideThanCanBeCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		mini.HSet("{n}:user:alice", "held", "1000000000000000000")
		c := req("a", 1)
		var refusal *billing.Refusal
		if _, err := l.Hold(t.Context(), c); !errors.As(err, &refusal) || !refusal.Temporary {
			t.Errorf("Hold: %v, want a refusal for what is set aside", err)
		}
		mini.HSet("{n}:user:alice", "held", "0")
		l.wantMet(t, "a", opening)
	})
}

// TestManyNodesHold: of several ledgers over one Redis, all together promise what
// there is, while those who settle and those who end give back what they can.
func TestManyNodesHold(t *testing.T) {
	const balance, price = 20_000, 100
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	var nodes sync.WaitGroup
	var paid atomic.Int64
	first := open(t, client)
	must(t, first.Declare(t.Context(), []billing.User{{Name: "alice", Balance: balance}}))
	for n := range 3 {
		l := open(t, client)
		for w := range 4 {
			nodes.Go(func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("%d-%d-%d", n, w, i)
					err := l.setAside(id, price)
					var refusal *billing.Refusal
					switch {
					case err == nil && i%3 == 0:
						l.Release(context.Background(), id)
						continue
					case err == nil:
						r := exampleOf(id)
						r.Charged = price
						if err := l.Settle(context.Background(), r, nil); err != nil {
							t.Error(err)
						}
						paid.Add(1)
					case errors.As(err, &refusal) && refusal.Temporary:
					case refusal != nil:
						return
					default:
						t.Error(err)
						return
					}
				}
			})
		}
	}
	nodes.Wait()
	if b, err := first.Balance(t.Context(), "alice"); err != nil || b != (billing.Balance{}) || paid.Load() != balance/price {
		t.Errorf("%+v, %v are left after %d requests of %d; want nothing after %d", b, err, paid.Load(), price, balance/price)
	}
}
