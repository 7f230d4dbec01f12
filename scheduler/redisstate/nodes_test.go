package redisstate_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
	"github.com/sub2api/caddy-sub2api/scheduler/statetest"
)

// nodes are States of one store that act as one: each ask goes to another node,
// and stays there.
type nodes struct {
	states []*redisstate.State
	turn   atomic.Int64
	of     sync.Map // lease → *redisstate.State
}

func (n *nodes) any() *redisstate.State {
	return n.states[int(n.turn.Add(1))%len(n.states)]
}

func (n *nodes) at(lease string) *redisstate.State {
	state, _ := n.of.LoadOrStore(lease, n.any())
	return state.(*redisstate.State)
}

func (n *nodes) Acquire(ctx context.Context, ask *scheduler.Ask) (scheduler.Answer, error) {
	return n.at(ask.Lease).Acquire(ctx, ask)
}

func (n *nodes) Await(ctx context.Context, lease string) (scheduler.Answer, error) {
	return n.at(lease).Await(ctx, lease)
}

func (n *nodes) Release(ctx context.Context, leases ...string) (err error) {
	for _, lease := range leases {
		err = errors.Join(err, n.at(lease).Release(ctx, lease))
	}
	return err
}

func (n *nodes) ReleaseAlong(leases ...string) (along roundtrip.Batch, done func(context.Context)) {
	var all []func(context.Context)
	for _, lease := range leases {
		batch, done := n.at(lease).ReleaseAlong(lease)
		along, all = append(along, batch...), append(all, done)
	}
	return along, func(ctx context.Context) {
		for _, done := range all {
			done(ctx)
		}
	}
}

func (n *nodes) Renew(ctx context.Context, leases []string, ttl time.Duration) (lost []string, err error) {
	for _, lease := range leases {
		gone, err := n.at(lease).Renew(ctx, []string{lease}, ttl)
		if err != nil {
			return nil, err
		}
		lost = append(lost, gone...)
	}
	return lost, nil
}

func (n *nodes) Mark(ctx context.Context, session string, marks scheduler.Marks, ttl time.Duration) error {
	return n.any().Mark(ctx, session, marks, ttl)
}

func (n *nodes) Change(ctx context.Context, place string, f func(*scheduler.AccountState)) (scheduler.AccountState, error) {
	return n.any().Change(ctx, place, f)
}

func (n *nodes) AccountState(place string) scheduler.AccountState { return n.any().AccountState(place) }

func (n *nodes) Now() time.Time { return n.states[0].Now() }

func (n *nodes) Load(ctx context.Context, place string) (scheduler.Load, error) {
	return n.any().Load(ctx, place)
}

func (n *nodes) Loads(ctx context.Context, places []string) ([]scheduler.Load, error) {
	return n.any().Loads(ctx, places)
}

func (n *nodes) Lock(ctx context.Context, name string, ttl time.Duration) (func(), error) {
	return n.any().Lock(ctx, name, ttl)
}

func (n *nodes) Close() (err error) {
	for _, state := range n.states {
		err = errors.Join(err, state.Close())
	}
	return err
}

func (n *nodes) skew(d time.Duration) {
	for _, state := range n.states {
		state.Skew(d)
	}
}

func (n *nodes) heartbeat() {
	for _, state := range n.states {
		state.Heartbeat()
	}
}

// TestThreeNodes runs the suite with every ask at another node than the one
// before.
func TestThreeNodes(t *testing.T) {
	statetest.Run(t, statetest.Harness{
		New: func(t *testing.T) scheduler.State {
			server := startMini(t)
			all := &nodes{}
			for range 3 {
				all.states = append(all.states, stateOver(t, pipeClient(t, server), redisstate.Options{}, time.Second))
			}
			return all
		},
		Bubble: synctest.Test,
		Advance: func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		},
		Settle: synctest.Wait,
	})
}

// startMini starts a server in this process, whose clock is the bubble's.
func startMini(t *testing.T) *miniredis.Miniredis {
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true)
	t.Cleanup(server.Close)
	return server
}
