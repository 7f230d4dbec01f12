package redisledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// TestHoldOvertakenByItsSettle: a request's record comes while its request is on its way,
// before or after Redis hears of that: the record is charged, and nothing stays set
// aside.
func TestHoldOvertakenByItsSettle(t *testing.T) {
	for name, test := range map[string]struct {
		meet func(settle func(), deliver func() error) error
		late bool // what Redis has set aside expires, for nobody knows of it
	}{
		"before Redis hears": {meet: func(settle func(), deliver func() error) error { settle(); return deliver() }},
		"after Redis has met it": {meet: func(settle func(), deliver func() error) error {
			err := deliver()
			settle()
			return err
		}},
		"and the answer is lost": {late: true, meet: func(settle func(), deliver func() error) error {
			_ = deliver()
			settle()
			return errLate
		}},
		"before Redis hears, and the answer is lost": {late: true, meet: func(settle func(), deliver func() error) error {
			settle()
			_ = deliver()
			return errLate
		}},
		"and Redis does not hear": {meet: func(settle func(), _ func() error) error { settle(); return errLate }},
	} {
		t.Run(name, func(t *testing.T) {
			inPhases(t, func(t *testing.T, p *phases) {
				p.wantMet(t, "other", 10)
				p.will(func(deliver func() error) error {
					return test.meet(func() {
						r := exampleOf("a")
						r.Charged = 300
						must(t, p.Settle(t.Context(), r, nil))
					}, deliver)
				})
				if err := p.setAside("a", 600); err != nil && !errors.Is(err, billing.ErrUnavailable) {
					t.Errorf("Hold: %v", err)
				}
				if !test.late {
					p.inRedis(t, "10")
				}
				time.Sleep(holdTTL + 2*time.Second)
				p.inRedis(t, "10")
				p.wantHeld(t, 10)
				p.wantBalance(t, 700)
				p.other.wantBalance(t, 700)
				p.Release(t.Context(), "other")
				p.wantMet(t, "all", 700)
			})
		})
	}
}

// TestSpoolDrainsWhileRedisIsAsked: a hold request that Redis refuses for the sake of records
// which have left the spool meanwhile has to wait, and is not told that it can't be met.
func TestSpoolDrainsWhileRedisIsAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		must(t, l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: 1000}}))
		l.wantMet(t, "known", 1) // Redis learns the script
		l.Release(t.Context(), "known")

		// The record waits, though Redis is up: bringing it there takes its time.
		outage := outageOf(client)
		outage.is.Store(true)
		r := exampleOf("spooled")
		r.Charged = 600
		must(t, l.Settle(t.Context(), r, nil))
		held, asked := make(chan struct{}), atomic.Bool{}
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				switch keys := fmt.Sprint(cmds[0].Args()[min(2, len(cmds[0].Args())-1)]); {
				case isScript(cmds) && keys == "11": // that of settle.lua, of a record without a hold
					select {
					case <-held:
					case <-ctx.Done():
						return fail(cmds, ctx.Err())
					}
				case isScript(cmds[len(cmds)-1:]) && asked.Load(): // the request, on its way
					close(held)
					asked.Store(false)
					l.wantWaiting(t, 0)
				}
				return next(ctx, cmds)
			}
		}))
		outage.is.Store(false)
		for l.link.Down() != nil {
			time.Sleep(time.Millisecond)
		}
		if l.Waiting() != 1 {
			t.Fatalf("%d records wait, want 1", l.Waiting())
		}
		asked.Store(true)
		var refusal *billing.Refusal
		if payer, answered, err := l.holdIn(req("a", 400), redislink.Guard{}, nil); !answered || !errors.As(err, &refusal) || !refusal.Temporary {
			t.Errorf("HoldIn: %+v, %v, %v; want a refusal to wait for", payer, answered, err)
		}
		if asked.Load() {
			t.Error("the record did not overtake the claim")
		}
		l.wantMet(t, "a", 400)
		l.wantHeld(t, 400)
		l.wantRefused(t, "b", 1, true)
	})
}

// TestARecordThatIsRefusedWhileOthersAreBrought to Redis, and which its caller was told
// is not settled, is not charged later.
func TestARecordThatIsRefusedWhileOthersAreBrought(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		r := exampleOf("refused")
		r.User, r.Charged = "bob", 600
		missed, refused := atomic.Bool{}, atomic.Bool{}
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				isOf := func(id string) bool {
					return slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return slices.Contains(c.Args(), any(id)) })
				}
				switch { // this process stands still, so that Redis is not down
				case isOf("missed") && !missed.Swap(true):
					time.Sleep(2 * time.Second)
					return fail(cmds, context.DeadlineExceeded)
				case isOf("refused") && !refused.Swap(true):
					time.Sleep(2 * time.Second)
				}
				return next(context.WithoutCancel(ctx), cmds)
			}
		}))
		both := make(chan error)
		go func() { both <- l.Settle(t.Context(), exampleOf("missed"), nil) }()
		time.Sleep(time.Second)
		go func() { both <- l.Settle(t.Context(), r, nil) }()
		must(t, <-both)
		l.wantWaiting(t, 0)
		if err := <-both; !errors.Is(err, billing.ErrUnknownUser) {
			t.Fatalf("Settle: %v, want ErrUnknownUser", err)
		}
		must(t, l.Declare(t.Context(), []billing.User{{Name: "bob", Balance: 1000}}))
		time.Sleep(time.Minute)
		if b, err := l.Balance(t.Context(), "bob"); err != nil || b.Amount != 1000 {
			t.Errorf("Balance: %v, %v; want 1000", b, err)
		}
	})
}
