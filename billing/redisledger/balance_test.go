package redisledger

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// roundTrips counts a client's.
type roundTrips struct{ count atomic.Int64 }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.count.Add(1)
		return next(ctx, cmd)
	}
}

func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.count.Add(1)
		return next(ctx, cmds)
	}
}

func (r *roundTrips) want(t *testing.T, what string, want int64) {
	t.Helper()
	if got := r.count.Swap(0); got != want {
		t.Errorf("%s: %d round trips, want %d", what, got, want)
	}
}

func TestRoundTrips(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l) // which have round trips of their own
	declareAlice(t, l)
	settle(t, l, "first") // Redis learns the scripts
	wantSettled(t, l, 1)
	if err := setAside(l, "first", 1); err != nil {
		t.Fatal(err)
	}
	l.Release(t.Context(), "first")
	trips := new(roundTrips)
	client.AddHook(trips)

	wantSettled(t, l, 1)
	trips.want(t, "Balance", 1)

	var rider *redis.StatusCmd
	ctx := redispipe.WithRider(t.Context(), func(pipe redis.Pipeliner, _ redispipe.Guard) func() {
		rider = pipe.Set(t.Context(), "rider", "came along", 0)
		return nil
	})
	if err := l.Settle(ctx, exampleOf("a"), nil); err != nil {
		t.Fatal(err)
	}
	trips.want(t, "Settle", 1)
	if rider == nil || rider.Err() != nil {
		t.Errorf("the rider was not taken along: %v", rider)
	}

	if err := setAside(l, "b", 100); err != nil {
		t.Error(err)
	}
	trips.want(t, "Hold", 1)
	if err := setAside(l, "b", 100); err != nil {
		t.Error(err)
	}
	trips.want(t, "Hold of what is held", 0)
	l.Release(t.Context(), "b")
	trips.want(t, "Release", 1)
	l.Release(t.Context(), "b")
	trips.want(t, "Release of nothing", 0)

	for i, name := range []string{"ahead", "again"} {
		ctx, ahead := l.HoldAhead(t.Context(), claim(name, 100))
		redispipe.Exec(ctx, client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
		if payer, answered, err := ahead(); err != nil || !answered || payer != billing.PaidFromBalance {
			t.Errorf("HoldAhead: %q, %v, %v", payer, answered, err)
		}
		trips.want(t, "HoldAhead", 1)
		wantHeld(t, l, billing.USD(100*(i+1)))
		trips.want(t, "Balance", 1)
	}
	_, alone := l.HoldAhead(t.Context(), claim("alone", 100))
	if _, answered, err := alone(); answered || err != nil {
		t.Errorf("HoldAhead, not taken along: %v, %v", answered, err)
	}
	trips.want(t, "HoldAhead that nobody took along", 0)

	stranger := claim("stranger", 1)
	stranger.User = "bob"
	ctx, ahead := l.HoldAhead(t.Context(), stranger)
	redispipe.Exec(ctx, client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
	if _, answered, err := ahead(); !answered || !errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("HoldAhead: %v, %v, want ErrUnknownUser", answered, err)
	}
	trips.want(t, "HoldAhead of nobody", 1)
}

// TestNoAnswerIsWaitedForOnce: while Redis is silent, one request pays for
// finding out, and the others are served from what is known.
func TestNoAnswerIsWaitedForOnce(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir(), Timeout: 100 * time.Millisecond})
	declareAlice(t, l)
	var silent atomic.Bool
	hush := func(ctx context.Context) error {
		if silent.Load() {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	client.AddHook(silencer(hush))
	silent.Store(true)
	ctx, ahead := l.HoldAhead(t.Context(), claim("ahead", 100))
	bounded, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	redispipe.Exec(bounded, client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
	start := time.Now()
	if _, answered, err := ahead(); answered || err != nil {
		t.Errorf("HoldAhead: %v, %v", answered, err)
	}
	wantMet(t, l, "ahead", 100)
	for range 20 {
		settle(t, l, newID())
	}
	wantSettled(t, l, 20)
	if _, err := l.Balance(t.Context(), "bob"); err == nil || errors.Is(err, billing.ErrUnknownUser) {
		t.Errorf("balance of somebody not known here: %v, want an error of Redis", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	silent.Store(false)
	wantWaiting(t, l, 0)
	wantSettled(t, l, 20)
}

// silencer is called before each round trip, which its error ends.
type silencer func(context.Context) error

func (silencer) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s silencer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := s(ctx); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (s silencer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := s(ctx); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

// TestCallerLeaves: a request whose client left is no outage, and what it used is
// kept.
func TestCallerLeaves(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	declareAlice(t, l)
	ctx, leave := context.WithCancel(t.Context())
	client.AddHook(silencer(func(trip context.Context) error {
		leave()
		return trip.Err()
	}))
	if err := l.Settle(ctx, exampleOf("a"), nil); err != nil {
		t.Errorf("Settle: %v", err)
	}
	if _, err := l.Balance(ctx, "alice"); !errors.Is(err, context.Canceled) {
		t.Errorf("Balance: %v, want context.Canceled", err)
	}
	if l.down.Load() {
		t.Error("Redis is taken to be gone")
	}
	wantWaiting(t, l, 0)
	checkKept(t, client, "n", []string{"a"})
}

// TestAnswersOvertakeEachOther: whichever comes last, the newest is kept.
func TestAnswersOvertakeEachOther(t *testing.T) {
	at := func(amount billing.USD, version int64) told { return told{billing.Balance{Amount: amount}, version} }
	c := newCache(time.UTC)
	want := func(amount billing.USD) {
		t.Helper()
		if b, _ := c.last("alice"); b.Amount != amount {
			t.Errorf("balance %d, want %d", b.Amount, amount)
		}
	}
	first, second := c.ask(), c.ask()
	c.learn("alice", second, at(90, 2))
	c.learn("alice", first, at(100, 1))
	want(90)

	waits := exampleOf("w")
	waits.Charged = 7
	c.wait(waits, true)
	c.wait(waits, true)
	want(83)
	early := c.ask()
	c.learnSettled(waits, c.ask(), at(83, 3), true)
	want(83)
	if b := c.learn("alice", early, at(90, 2)); b.Amount != 83 {
		t.Errorf("an older answer made the balance %d, want 83", b.Amount)
	}
	c.learn("alice", c.ask(), at(50, 1)) // Redis was restored from an older copy
	want(50)
	if c.waitingRecords() != 0 {
		t.Errorf("%d records wait", c.waitingRecords())
	}
}
