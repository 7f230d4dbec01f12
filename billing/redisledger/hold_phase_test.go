package redisledger_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// phases is a ledger whose next round trip with a script goes as a test says.
type phases struct {
	*node
	mini  *miniredis.Miniredis
	other *node // another process's

	mu sync.Mutex
	// meet is what becomes of the next round trip; nil: what is usual.
	meet func(deliver func() error) error
	gone bool // Redis is
}

// will sets what becomes of the next round trip.
func (p *phases) will(meet func(deliver func() error) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meet = meet
}

// goes has Redis be gone, or back.
func (p *phases) goes(gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = gone
}

// next returns what becomes of this round trip.
func (p *phases) next() (meet func(deliver func() error) error, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	meet, p.meet = p.meet, nil
	return meet, p.gone
}

// inPhases runs a test over alice, who has 1000, of which the other process knows.
func inPhases(t *testing.T, test func(t *testing.T, p *phases)) {
	t.Helper()
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		p := &phases{mini: mini, other: open(t, clientOf(t, mini))}
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				if !isScript(cmds) {
					return next(ctx, cmds)
				}
				meet, gone := p.next()
				switch {
				case gone && meet == nil:
					return fail(cmds, errLate)
				case meet == nil:
					return next(ctx, cmds)
				}
				if err := meet(func() error { return next(ctx, cmds) }); err != nil {
					return fail(cmds, err)
				}
				return nil
			}
		}))
		p.node = open(t, client)
		must(t, p.Declare(t.Context(), []billing.User{{Name: "alice", Balance: 1000}}))
		p.wantMet(t, "known", 1) // Redis learns the scripts
		p.Release(t.Context(), "known")
		test(t, p)
	})
}

// lost has Redis hear, and nobody hear of it.
func lost(deliver func() error) error {
	_ = deliver()
	return errLate
}

// unheard has Redis hear of nothing.
func unheard(func() error) error { return errLate }

// inRedis checks what Redis has set aside of alice's balance.
func (p *phases) inRedis(t *testing.T, want string) {
	t.Helper()
	_, _ = p.other.Balance(t.Context(), "alice") // which ends what has expired
	if held := p.mini.HGet("{n}:user:alice", "held"); held != want && (want != "0" || held != "") {
		t.Errorf("Redis has %q set aside, want %s", held, want)
	}
}

func TestAskedThenKept(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		p.wantMet(t, "a", 600)
		p.inRedis(t, "600")
		p.wantRefused(t, "b", 401, true)
		p.goes(true)
		p.wantRefused(t, "c", 401, true) // it counts here as well
		p.wantMet(t, "d", 400)
	})
}

func TestAskedThenRefused(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		p.wantRefused(t, "a", 1001, false)
		p.inRedis(t, "0")
		p.wantMet(t, "b", 1000)
	})
}

// TestAskedThenInDoubt: it is set aside here; where Redis has it, it has it once.
func TestAskedThenInDoubt(t *testing.T) {
	for name, meet := range map[string]func(func() error) error{"lost": lost, "unheard": unheard} {
		inPhases(t, func(t *testing.T, p *phases) {
			p.will(meet)
			p.wantMet(t, "a", 600)
			if p.link.Down() == nil {
				t.Errorf("%s: Redis is not taken to be down", name)
			}
			p.wantRefused(t, "b", 401, true)
			time.Sleep(time.Second) // Redis is back, and was told
			p.inRedis(t, "600")
			p.other.wantRefused(t, "c", 401, true)
			r := exampleOf("a")
			r.Charged = 600
			must(t, p.Settle(t.Context(), r, nil))
			p.inRedis(t, "0")
			p.other.wantBalance(t, 400)
		})
	}
}

// TestAskedThenInDoubtAndNotEnough: what Redis may have is given back within a minute.
func TestAskedThenInDoubtAndNotEnough(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		if _, _, err := p.other.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 1000}); err != nil {
			t.Fatal(err)
		}
		p.will(lost) // this process has not heard of the credit
		p.wantRefused(t, "a", 1500, false)
		time.Sleep(holdTTL + 2*time.Second)
		p.other.wantHeld(t, 0)
		p.inRedis(t, "0")
		p.wantMet(t, "b", 2000)
	})
}

func TestAskedThenAbandoned(t *testing.T) {
	for name, meet := range map[string]func(func() error) error{
		"and met": func(deliver func() error) error { return deliver() }, "and the answer is lost": lost, "and unheard of": unheard,
	} {
		inPhases(t, func(t *testing.T, p *phases) {
			p.will(func(deliver func() error) error {
				p.Release(t.Context(), "a")
				return meet(deliver)
			})
			if err := p.setAside("a", 1000); err != nil && !errors.Is(err, billing.ErrUnavailable) {
				t.Errorf("%s: Hold: %v", name, err)
			}
			p.wantMet(t, "b", 0)
			time.Sleep(holdTTL + 2*time.Second)
			p.inRedis(t, "0")
			p.other.wantMet(t, "c", 1000)
		})
	}
}

// TestAbandonedThenMet: Redis is told at once that it has ended.
func TestAbandonedThenMet(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		p.will(func(deliver func() error) error {
			p.Release(t.Context(), "a")
			return deliver()
		})
		p.wantMet(t, "a", 1000)
		p.inRedis(t, "0")
		p.wantMet(t, "b", 1000)
	})
}

// TestTwoAskForOneRequest: there is one hold of it in the end.
func TestTwoAskForOneRequest(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		p.will(func(deliver func() error) error {
			p.wantMet(t, "a", 300)
			return deliver()
		})
		p.wantMet(t, "a", 300)
		p.inRedis(t, "300")
		p.Release(t.Context(), "a")
		p.inRedis(t, "0")
	})
}

// TestNoneThenInDoubtThenKept: made while Redis is down.
func TestNoneThenInDoubtThenKept(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		p.goes(true)
		p.wantMet(t, "a", 600)
		p.wantMet(t, "b", 300)
		p.wantRefused(t, "c", 101, true)
		p.Release(t.Context(), "b")
		p.wantRefused(t, "c", 401, true)
		p.inRedis(t, "0")
		p.goes(false)
		time.Sleep(time.Second)
		p.inRedis(t, "600")
		p.other.wantRefused(t, "d", 401, true)
		p.Release(t.Context(), "a")
		p.inRedis(t, "0")
	})
}

// TestInDoubtEndsWhileItIsTold: it ends where Redis was told of it too.
func TestInDoubtEndsWhileItIsTold(t *testing.T) {
	for _, end := range []string{"settled", "released"} {
		inPhases(t, func(t *testing.T, p *phases) {
			p.goes(true)
			p.wantMet(t, "a", 600)
			ends := false
			var told func(deliver func() error) error
			told = func(deliver func() error) error {
				p.will(told)
				err := deliver()
				if held := p.mini.HGet("{n}:user:alice", "held"); held == "600" && !ends {
					ends = true
					if end == "settled" {
						r := exampleOf("a")
						r.Charged = 600
						must(t, p.Settle(t.Context(), r, nil))
					} else {
						p.Release(t.Context(), "a")
					}
				}
				return err
			}
			p.will(told)
			p.goes(false)
			time.Sleep(3 * time.Second)
			p.will(nil)
			if !ends {
				t.Fatal("Redis was not told of it")
			}
			time.Sleep(holdTTL + time.Second) // for what Redis did not hear of
			p.inRedis(t, "0")
			p.other.wantHeld(t, 0)
		})
	}
}

// TestInDoubtIsToldWithOtherClaims: Redis, which may not have it, counts it.
func TestInDoubtIsToldWithOtherHolds(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		// A standstill of this process: the answer comes too late, and Redis is not down.
		p.will(func(deliver func() error) error {
			_ = deliver()
			time.Sleep(2 * time.Second)
			return context.DeadlineExceeded
		})
		p.wantMet(t, "a", 600)
		if p.link.Down() != nil {
			t.Fatal("Redis is taken to be down")
		}
		p.wantRefused(t, "b", 401, true) // at once: it is told with it, and Redis has it
		time.Sleep(2 * time.Second)
		p.inRedis(t, "600")
		p.wantMet(t, "c", 400)
	})
}

// TestKeptThenEndedUnheard: what Redis does not hear of expires.
func TestKeptThenEndedUnheard(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		p.wantMet(t, "a", 600)
		p.will(unheard)
		p.Release(t.Context(), "a")
		p.wantMet(t, "b", 1000) // here it has ended
		time.Sleep(holdTTL + 2*time.Second)
		p.inRedis(t, "1000")
	})
}

// TestRequestThatIsGoneHoldsNothing: one whose client left while Redis was silent.
func TestRequestThatIsGoneHoldsNothing(t *testing.T) {
	inPhases(t, func(t *testing.T, p *phases) {
		ctx, leave := context.WithCancel(t.Context())
		p.will(func(deliver func() error) error {
			leave()
			return lost(deliver)
		})
		_, err := p.Hold(ctx, req("a", 1000))
		if err == nil { // then it is the caller's to give back
			p.Release(t.Context(), "a")
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("Hold: %v", err)
		}
		time.Sleep(holdTTL + 2*time.Second)
		p.inRedis(t, "0")
	})
}
