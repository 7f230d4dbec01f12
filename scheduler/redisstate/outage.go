package redisstate

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// heldPool is the line of slots that were held when an outage began: nobody
// waits in it.
const heldPool = "held"

// out is why Redis is not to be asked; nil: it is.
func (s *State) out() error {
	down := s.link.Down()
	s.mu.Lock()
	defer s.mu.Unlock()
	if down == s.over {
		return nil
	}
	return down
}

// inForce calls f with the State in force: nil for Redis. When Redis turns out to
// be out of reach, f is called again with the fallback; where there is none, and
// for what else Redis says, the error is scheduler.ErrUnavailable. When Redis is
// not known to be out of reach, because this process stood still, f is called once
// more with Redis, so that no share of the slots is given away which all others
// believe to be shared.
func (s *State) inForce(f func(local scheduler.State) error) error {
	s.begin()
	for again := false; ; again = true {
		if s.isClosed() {
			return scheduler.ErrClosed
		}
		s.gate.RLock()
		err := s.out()
		asked := s.local != nil || err == nil
		if asked {
			err = f(s.local)
		}
		s.gate.RUnlock()
		var outage *redislink.Outage
		switch {
		case !errors.As(err, &outage):
			return refused(err)
		case s.link.Down() == nil && !(asked && again):
		case s.options.Fallback == nil || s.link.Down() == nil:
			s.relapse()
			return fmt.Errorf("%w: %w", scheduler.ErrUnavailable, outage)
		default:
			s.useFallback()
		}
	}
}

// relapse forgets that Redis was put in force again.
func (s *State) relapse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = nil
}

// refused makes what Redis says of a command an error that callers know.
func refused(err error) error {
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return fmt.Errorf("%w: Redis says: %w", scheduler.ErrUnavailable, reply)
	}
	return err
}

// Lost implements redislink.Member: those in line are served by this node from here
// on, if it serves by itself.
func (s *State) Lost() {
	if s.options.Fallback != nil && s.begun.Load() {
		s.useFallback()
	}
}

// useFallback puts the fallback in force, with what this node knows, unless it is
// already or Redis is back. The gate must not be held.
func (s *State) useFallback() {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.local != nil || s.isClosed() || s.link.Down() == nil {
		return
	}
	local := s.options.Fallback(s.clock())
	ctx := context.Background() // nothing here waits
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for place, known := range s.accountStates.places {
		known.before = known.accountState
		_, _ = local.Change(ctx, place, func(st *scheduler.AccountState) { *st = known.accountState.Clone() })
	}
	if b, ok := local.(binder); ok {
		s.sessions.bindAll(b, now)
	}
	for lease, h := range s.held {
		if ttl := h.until.Sub(now); ttl > 0 {
			seed := &scheduler.Ask{Lease: lease, TTL: ttl, Candidates: only(h.place)}
			_, _ = local.Acquire(ctx, seed)
		}
	}
	s.over = nil
	s.changeOver(local)
}

// only is a place that takes what comes.
func only(place string) *scheduler.Candidates {
	return &scheduler.Candidates{Pool: heldPool, Places: []scheduler.Place{{Name: place}}}
}

// changeOver puts another State in force, and has those in line put their asks
// to it. The gate is held for writing, and s.mu.
func (s *State) changeOver(local scheduler.State) {
	s.local = local
	s.epoch++
	s.shares = map[*scheduler.Candidates]*scheduler.Candidates{}
	for lease, w := range s.waiters {
		if w.over {
			continue
		}
		if local != nil && len(s.unreleased) < maxUnreleased { // the place in line at Redis is given up
			s.unreleased[lease] = struct{}{}
		}
		w.wake()
	}
}

// share divides the slots of candidates among the nodes that were alive when
// Redis was last heard. Each node gets one at least, so small limits may be
// passed by all nodes together while this lasts.
func (s *State) share(c *scheduler.Candidates) *scheduler.Candidates {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.shares[c]; known != nil {
		return known
	}
	shared := &scheduler.Candidates{Pool: c.Pool, Places: append([]scheduler.Place(nil), c.Places...)}
	for i := range shared.Places {
		p := &shared.Places[i]
		p.Limit = (p.Limit + s.nodes - 1) / s.nodes
	}
	if len(c.Places) > 1 { // those of one place are made for one request
		s.shares[c] = shared
	}
	return shared
}

// Regain implements redislink.Member: it puts Redis in force again, with what this
// node holds and has learnt.
func (s *State) Regain(ctx context.Context) error {
	s.gate.Lock()
	local, changed, err := s.useRedis(ctx)
	s.gate.Unlock()
	if err != nil || local == nil {
		return err
	}
	_ = local.Close() // who waits there puts the ask to Redis
	for place, accountState := range changed {
		s.merge(place, accountState)
	}
	return s.out() // it may be gone again
}

// useRedis puts Redis in force again, and returns what was, with the account states that
// have changed meanwhile. The gate is held for writing: nobody is given a slot.
func (s *State) useRedis(ctx context.Context) (local scheduler.State, changed map[string]scheduler.AccountState, err error) {
	down := s.link.Down()
	if s.begun.Load() && !s.isClosed() {
		if err := s.join(ctx); err != nil {
			return nil, nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = down
	local = s.local
	if local == nil {
		return nil, nil, nil
	}
	changed = map[string]scheduler.AccountState{}
	for place, known := range s.accountStates.places {
		if now := local.AccountState(place); !now.Equal(&known.before) {
			changed[place] = now.Clone()
		}
	}
	s.changeOver(nil)
	return local, changed, nil
}

// merge brings what was learnt of an account during an outage back to Redis:
// what bars it, in addition to what others have learnt.
func (s *State) merge(place string, learnt scheduler.AccountState) {
	ctx, cancel := context.WithTimeout(s.ctx, releaseTimeout)
	defer cancel()
	s.mu.Lock()
	before := s.accountStates.get(place).before
	s.mu.Unlock()
	_, err := s.Change(ctx, place, func(st *scheduler.AccountState) {
		if st.Equal(&before) || st.Equal(&scheduler.AccountState{}) {
			*st = learnt.Clone()
			return
		}
		st.Merge(&learnt, &before, s.Now())
	})
	if err != nil && s.ctx.Err() == nil {
		s.options.Logger.Error("what was learnt of an account while Redis was out of reach could not be kept", "place", place, "error", err)
	}
}
