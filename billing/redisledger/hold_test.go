package redisledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// inBubble runs a test in which time passes at once, over a miniredis without a
// network.
func inBubble(t *testing.T, test func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client)) {
	synctest.Test(t, func(t *testing.T) {
		mini := miniredis.NewMiniRedis()
		t.Cleanup(mini.Close)
		client := connect(t, &redis.Options{
			Addr: "127.0.0.1:6379", Protocol: 2, DisableIdentity: true,
			Dialer: func(context.Context, string, string) (net.Conn, error) { return mini.Dial() },
		})
		test(t, mini, client)
	})
}

// wantHeldRefusal wants a claim refused because of what others have set aside.
func wantHeldRefusal(t *testing.T, l *Ledger, id string, amount billing.USD) {
	t.Helper()
	var refusal *billing.Refusal
	if err := setAside(l, id, amount); !errors.As(err, &refusal) || !refusal.Held {
		t.Errorf("Hold(%s): %v, want a refusal for what is set aside", id, err)
	}
}

func wantMet(t *testing.T, l *Ledger, id string, amount billing.USD) {
	t.Helper()
	if err := setAside(l, id, amount); err != nil {
		t.Errorf("Hold(%s): %v", id, err)
	}
}

// TestGuardedHold: a claim that travels with an ask for a slot sets money aside
// only if the slot was granted.
func TestGuardedHold(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n"})
	stopLoops(l)
	declareAlice(t, l)
	wantMet(t, l, "known", 1) // Redis learns the scripts
	l.Release(t.Context(), "known")
	wantHeld(t, l, 0)
	trips := new(roundTrips)
	client.AddHook(trips)
	for _, granted := range []bool{true, false} {
		lease := fmt.Sprint("lease-", granted)
		ctx, ahead := l.HoldAhead(t.Context(), claim(lease, 100))
		guarded := redispipe.WithGuard(ctx, redispipe.Guard{Key: "{n}:held", Field: lease})
		redispipe.Exec(guarded, client, func(pipe redis.Pipeliner) {
			if granted {
				pipe.HSet(ctx, "{n}:held", lease, "dplace")
			}
		})
		trips.want(t, "the ask", 1)
		held, want := mini.HGet("{n}:user:alice", "held"), "100"
		if want == held != granted {
			t.Errorf("granted %v: %q is set aside", granted, held)
		}
		payer, answered, err := ahead()
		if err != nil || answered != granted || answered && payer != billing.PaidFromBalance {
			t.Errorf("granted %v: %q, %v, %v", granted, payer, answered, err)
		}
		trips.want(t, "what came of it", 0)
		if n := len(l.holds.byID); n != map[bool]int{true: 1}[granted] {
			t.Errorf("granted %v: %d holds are remembered", granted, n)
		}
		l.Release(t.Context(), lease)
		wantHeld(t, l, 0)
		trips.want(t, "giving it back and looking", map[bool]int64{true: 2, false: 1}[granted])
	}
}

// TestClaimThatNobodyAsksAbout: a request that ends before it needs its money gives
// it back as any other.
func TestClaimThatNobodyAsksAbout(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client, Options{Namespace: "n"})
		declareAlice(t, l)
		wantMet(t, l, "known", 0)
		ctx, _ := l.HoldAhead(t.Context(), claim("a", opening))
		redispipe.Exec(ctx, client, func(pipe redis.Pipeliner) { pipe.Ping(ctx) })
		wantHeldRefusal(t, l, "b", 1)
		l.Release(t.Context(), "a")
		wantMet(t, l, "b", opening)
		l.Release(t.Context(), "b")
		wantNothingRemembered(t, l)
	})
}

// wantNothingRemembered wants no trace of holds that have ended.
func wantNothingRemembered(t *testing.T, l *Ledger) {
	t.Helper()
	h := l.holds
	if n := len(h.byID) + len(h.sums) + len(h.untold) + len(h.pending) + len(h.metHere) + len(h.owed); n != 0 {
		t.Errorf("%d things are remembered of nothing", n)
	}
}

// TestHoldsLiveAsLongAsTheirProcess: they are renewed while it lives, are gone a
// minute after it was last heard of, and are there again if it was only frozen.
func TestHoldsLiveAsLongAsTheirProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		a, b := open(t, client, Options{Namespace: "n"}), open(t, client, Options{Namespace: "n"})
		declareAlice(t, a)
		wantMet(t, a, "a", opening)
		time.Sleep(10 * time.Minute)
		wantHeldRefusal(t, b, "b", 1)
		stopLoops(a) // as kill -9 does, and as a machine does that stands still
		time.Sleep(holdTTL - renewEvery - time.Second)
		wantHeldRefusal(t, b, "b", 1)
		time.Sleep(renewEvery + 2*time.Second)
		wantMet(t, b, "b", opening)
		if err := a.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantHeld(t, b, 2*opening)
		settle(t, a, "a")
		b.Release(t.Context(), "b")
		wantHeld(t, b, 0)
	})
}

// TestRedisForgetsHolds as one does that was restarted from an older copy.
func TestRedisForgetsHolds(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client, Options{Namespace: "n"})
		declareAlice(t, l)
		wantMet(t, l, "a", 100)
		client.Del(t.Context(), "{n}:holds:user:alice")
		client.HDel(t.Context(), "{n}:user:alice", "held")
		wantHeld(t, l, 0)
		time.Sleep(renewEvery + 2*time.Second)
		wantHeld(t, l, 100)
		l.Release(t.Context(), "a")
		wantHeld(t, l, 0)
	})
}

// TestHoldEndsWhileItIsRenewed: the word that a hold goes on may come to Redis
// after its end.
func TestHoldEndsWhileItIsRenewed(t *testing.T) {
	for _, end := range []string{"settled", "released"} {
		mini := miniredis.RunT(t)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		l := open(t, client, Options{Namespace: "n"})
		stopLoops(l)
		declareAlice(t, l)
		wantMet(t, l, "a", 100)
		wantMet(t, l, "b", 10)
		var overtaken atomic.Bool
		client.AddHook(silencer(func(ctx context.Context) error {
			if !overtaken.Swap(true) {
				if end == "settled" {
					settle(t, l, "a")
				} else {
					l.Release(ctx, "a")
				}
			}
			return nil
		}))
		if err := l.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantHeld(t, l, 10)
	}
}

// TestRenewalIsHeardOfTooLate: after the end of the hold, which Redis has heard of
// before, or with an answer that is lost.
func TestRenewalIsHeardOfTooLate(t *testing.T) {
	for _, answer := range []string{"early", "lost"} {
		mini := miniredis.RunT(t)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		lost := new(loser)
		client.AddHook(pipelineHook(lost.hook))
		l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
		stopLoops(l)
		declareAlice(t, l)
		wantMet(t, l, "a", 100)
		must(t, l.renew(t.Context()))
		settle(t, open(t, client, Options{Namespace: "n"}), "a")
		told := l.holds.all()
		_, err := l.tellHolds(t.Context(), told, 0) // as the settle does
		must(t, err)
		lost.next.Store(answer == "lost")
		if err := l.renew(t.Context()); (err != nil) != (answer == "lost") {
			t.Fatal(err)
		}
		l.holds.end("a") // its settle's answer comes now
		if answer == "lost" && !l.recovered(t.Context()) {
			t.Fatal("Redis is not taken to be back")
		}
		must(t, l.endHolds(t.Context(), l.holds.debts()))
		wantHeld(t, l, 0)
		wantNothingRemembered(t, l)
	}
}

func TestManyHoldsAreRenewedInBatches(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n"})
	stopLoops(l)
	declareAlice(t, l)
	for i := range 2*renewBatch + 1 {
		wantMet(t, l, fmt.Sprint(i), 1)
	}
	if err := l.renew(t.Context()); err != nil { // Redis learns the script
		t.Fatal(err)
	}
	mini.SetTime(time.Now().Add(holdTTL - time.Second))
	trips := new(roundTrips)
	client.AddHook(trips)
	if err := l.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	trips.want(t, "renewing", 3)
	mini.SetTime(time.Now().Add(2*holdTTL - 2*time.Second))
	wantHeld(t, l, 2*renewBatch+1)
	mini.SetTime(time.Now().Add(2*holdTTL + time.Second))
	wantHeld(t, l, 0)
}

// TestHoldWithoutMemory: a server that takes nothing more lets no sum go wrong.
func TestHoldWithoutMemory(t *testing.T) {
	server := realServer(t)
	full := connect(t, &redis.Options{Addr: server.address})
	m := open(t, full, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(m)
	declareAlice(t, m)
	wantMet(t, m, "a", 100)
	wantMet(t, m, "b", 10)
	if err := full.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	m.Release(t.Context(), "a")
	settle(t, m, "b") // to the spool
	wantMet(t, m, "c", 1000)
	if err := full.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if err := m.drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, m.endHolds(t.Context(), m.holds.debts()))
	wantHeld(t, m, 0)
	must(t, m.renew(t.Context()))
	wantHeld(t, m, 1000)
	wantSettled(t, m, 1)
	m.Release(t.Context(), "c")
	wantHeld(t, m, 0)
}

// TestMoreIsSetAsideThanCanBeCounted, which passes: it is a refusal to wait for.
func TestMoreIsSetAsideThanCanBeCounted(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n"})
	stopLoops(l)
	declareAlice(t, l)
	mini.HSet("{n}:user:alice", "held", "1000000000000000000")
	c := claim("a", 1)
	c.Least = 0
	var refusal *billing.Refusal
	if _, err := l.Hold(t.Context(), c); !errors.As(err, &refusal) || !refusal.Held {
		t.Errorf("Hold: %v, want a refusal for what is set aside", err)
	}
	wantNothingRemembered(t, l)
}

// TestManyNodesHold: of several ledgers over one Redis, all together promise what
// there is, while those who settle and those who die give back what they can.
func TestManyNodesHold(t *testing.T) {
	const balance, price = 20_000, 100
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	var nodes sync.WaitGroup
	var paid atomic.Int64
	first := open(t, client, Options{Namespace: "n"})
	must(t, first.Declare(t.Context(), []billing.User{{Name: "alice", Balance: balance}}))
	for n := range 3 {
		l := open(t, client, Options{Namespace: "n"})
		for w := range 4 {
			nodes.Go(func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("%d-%d-%d", n, w, i)
					err := setAside(l, id, price)
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
					case errors.As(err, &refusal) && refusal.Held:
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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
