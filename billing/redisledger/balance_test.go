package redisledger_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

func TestRoundTrips(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.settle(t, "first") // Redis learns the scripts
		l.wantSettled(t, 1)
		l.wantMet(t, "first", 1)
		l.Release(t.Context(), "first")
		trips := new(roundTrips)
		client.AddHook(pipelineHook(trips.hook))

		l.wantSettled(t, 1)
		trips.want(t, "Balance", 1)

		var passenger *redis.StatusCmd
		along := roundtrip.Batch{redislink.Operation(func(pipe redis.Pipeliner, _ redislink.Guard) func() {
			passenger = pipe.Set(t.Context(), "passenger", "came along", 0)
			return nil
		})}
		must(t, l.Settle(t.Context(), exampleOf("a"), along))
		trips.want(t, "Settle", 1)
		if passenger == nil || passenger.Err() != nil {
			t.Errorf("what was to come along did not: %v", passenger)
		}

		l.wantMet(t, "b", 100)
		trips.want(t, "Hold", 1)
		l.wantMet(t, "b", 100)
		trips.want(t, "Hold of what is held", 0)
		l.Release(t.Context(), "b")
		trips.want(t, "Release", 1)
		l.Release(t.Context(), "b")
		trips.want(t, "Release of nothing", 0)

		for i, name := range []string{"ahead", "again"} {
			payer, answered, err := l.holdIn(req(name, 100), redislink.Guard{}, nil)
			if err != nil || !answered || payer.Billing != billing.PaidFromBalance || payer.UserNumber != 1 {
				t.Errorf("HoldIn: %+v, %v, %v", payer, answered, err)
			}
			trips.want(t, "HoldIn", 1)
			l.wantHeld(t, billing.USD(100*(i+1)))
			trips.want(t, "Balance", 1)
		}
		_, answer := l.HoldIn(req("alone", 100))
		if _, answered, err := answer(); answered || err != nil {
			t.Errorf("HoldIn, not taken along: %v, %v", answered, err)
		}
		trips.want(t, "HoldIn that nobody took along", 0)

		stranger := req("stranger", 1)
		stranger.User = "bob"
		if _, answered, err := l.holdIn(stranger, redislink.Guard{}, nil); answered || err != nil { // Hold says why
			t.Errorf("HoldIn of nobody: %v, %v", answered, err)
		}
		trips.want(t, "HoldIn of nobody", 1)
	})
}

// TestNoAnswerIsWaitedForOnce: while Redis is silent, one request pays for
// finding out, and the others are served from what is known.
func TestNoAnswerIsWaitedForOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		var silent atomic.Bool
		before(client, func(ctx context.Context) error {
			if silent.Load() {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		silent.Store(true)
		began := time.Now()
		if _, answered, err := l.holdIn(req("ahead", 100), redislink.Guard{}, nil); answered || err != nil {
			t.Errorf("HoldIn: %v, %v", answered, err)
		}
		l.wantMet(t, "ahead", 100)
		for range 20 {
			l.settle(t, newID())
		}
		l.wantSettled(t, 20)
		if _, err := l.Balance(t.Context(), "bob"); !errors.Is(err, billing.ErrUnavailable) || errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("balance of somebody not known here: %v, want ErrUnavailable", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v, want the second that the first waited", took)
		}
		silent.Store(false)
		time.Sleep(3 * time.Second)
		l.wantWaiting(t, 0)
		l.wantSettled(t, 20)
		l.logs.want(t, "ERROR Redis is out of reach", 1)
		l.logs.want(t, "Redis is back", 1)
		l.logs.want(t, "WARN", 0)
	})
}

// TestCallerLeaves: a request whose client left is no outage, and what it used is
// kept.
func TestCallerLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		ctx, leave := context.WithCancel(t.Context())
		before(client, func(trip context.Context) error {
			leave()
			return trip.Err()
		})
		must(t, l.Settle(ctx, exampleOf("a"), nil))
		if _, err := l.Balance(ctx, "alice"); !errors.Is(err, context.Canceled) {
			t.Errorf("Balance: %v, want context.Canceled", err)
		}
		if err := l.link.Down(); err != nil || l.Waiting() != 0 {
			t.Errorf("Redis is taken to be gone, or the record waits: %v, %d", err, l.Waiting())
		}
		checkKept(t, client, []string{"a"})
	})
}

// TestClientThatLeftHoldsNothing: what Redis met for one who has left by then is given
// back at once.
func TestClientThatLeftHoldsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.wantMet(t, "known", 1)
		ctx, leave := context.WithCancel(t.Context())
		before(client, func(context.Context) error { leave(); return nil })
		if _, err := l.Hold(ctx, req("a", 100)); !errors.Is(err, context.Canceled) {
			t.Errorf("Hold: %v, want context.Canceled", err)
		}
		l.wantHeld(t, 1)
	})
}

// TestAnswersOvertakeEachOther: whichever comes last, the newest is believed, and
// nobody takes Redis to have lost anything.
func TestAnswersOvertakeEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.settle(t, "first")
		var mu sync.Mutex
		wait := 900 * time.Millisecond
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				err := next(ctx, cmds)
				if isScript(cmds) {
					mu.Lock()
					pause := wait
					wait = max(wait-100*time.Millisecond, 0) // who asks first hears last
					mu.Unlock()
					time.Sleep(pause)
				}
				return err
			}
		}))
		var all sync.WaitGroup
		for range 9 {
			all.Go(func() { l.settle(t, newID()) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		outage := outageOf(client)
		outage.is.Store(true)
		l.wantSettled(t, 10) // which is from memory
		if l.link.Down() == nil {
			t.Error("the outage went unnoticed")
		}
		l.logs.want(t, wentBack, 0)
	})
}

// TestBalanceIsNeverTooHigh: a record whose answer is lost counts twice until Redis
// says that it has it, and once from then on.
func TestBalanceIsNeverTooHigh(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		lost := new(loser)
		client.AddHook(pipelineHook(lost.hook))
		l.settle(t, "a")
		lost.next.Store(true)
		l.settle(t, "b")
		if l.Waiting() != 1 {
			t.Errorf("%d records wait, want 1", l.Waiting())
		}
		l.wantSettled(t, 2)
		time.Sleep(time.Second)
		l.wantWaiting(t, 0)
		l.wantSettled(t, 2)
		checkKept(t, client, []string{"a", "b"})
	})
}

var errLate = os.ErrDeadlineExceeded
