package redisstate

import (
	"context"
	"errors"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var errDown = errors.New("no answer from Redis a moment ago")

// heldPool is the line of slots that were held when an outage began: nobody
// waits in it.
const heldPool = "held"

func (s *State) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// fail takes note that Redis is out of reach, and tells whether there is a State
// that serves on. The gate must not be held.
func (s *State) fail(err error) bool {
	s.mu.Lock()
	s.suspect = s.joined
	if s.options.Fallback == nil {
		if !s.down && !s.closed {
			s.options.Logger.Error("Redis is out of reach; requests are refused until it answers", "error", err)
		}
		s.down = true
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.local == nil && !s.isClosed() {
		s.goLocal(err)
	}
	return true
}

// goLocal puts the fallback in force, with what this node knows. The gate is
// held for writing.
func (s *State) goLocal(why error) {
	local := s.options.Fallback()
	ctx := context.Background() // nothing here waits
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for place, known := range s.standings.places {
		known.before = known.standing
		_, _ = local.Change(ctx, place, func(st *scheduler.Standing) { *st = known.standing.Clone() })
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
	s.changeOver(local)
	s.options.Logger.Error("Redis is out of reach; this node serves on by itself, with its share of the slots",
		"nodes", s.nodes, "error", why)
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
		if local != nil && len(s.owed) < maxOwed { // the place in line at Redis is given up
			s.owed[lease] = struct{}{}
		}
		w.wake()
	}
}

// tryBack looks whether Redis answers, and if so puts it in force again.
func (s *State) tryBack() {
	ctx, cancel := context.WithTimeout(s.ctx, s.options.Timeout)
	err := s.client.Exists(ctx, s.prefix+"nodes").Err()
	cancel()
	if err != nil {
		return
	}
	s.gate.Lock()
	local := s.local
	changed, err := s.goBack(local)
	s.gate.Unlock()
	if err != nil {
		if why := err.Error(); s.reluctance != why {
			s.reluctance = why
			s.options.Logger.Warn("Redis answers, but does not take this node back yet", "error", err)
		}
		return
	}
	s.reluctance = ""
	_ = local.Close() // who waits there puts the ask to Redis
	for place, standing := range changed {
		s.merge(place, standing)
	}
	s.options.Logger.Info("Redis is back; slots are shared again")
}

// goBack puts Redis in force again, and returns the standings that have changed
// meanwhile. The gate is held for writing: nobody is given a slot.
func (s *State) goBack(local scheduler.State) (changed map[string]scheduler.Standing, err error) {
	if err := s.join(s.ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = map[string]scheduler.Standing{}
	for place, known := range s.standings.places {
		if now := local.Standing(place); !now.Equal(&known.before) {
			changed[place] = now.Clone()
		}
	}
	s.changeOver(nil)
	return changed, nil
}

// merge brings what was learnt of an account during an outage back to Redis:
// what bars it, in addition to what others have learnt.
func (s *State) merge(place string, learnt scheduler.Standing) {
	ctx, cancel := context.WithTimeout(s.ctx, releaseTimeout)
	defer cancel()
	s.mu.Lock()
	before := s.standings.get(place).before
	s.mu.Unlock()
	_, err := s.Change(ctx, place, func(st *scheduler.Standing) {
		if st.Equal(&before) || st.Equal(&scheduler.Standing{}) {
			*st = learnt.Clone()
			return
		}
		st.Merge(&learnt, &before, time.Now())
	})
	if err != nil && s.ctx.Err() == nil {
		s.options.Logger.Error("what was learnt of an account while Redis was out of reach could not be kept", "place", place, "error", err)
	}
}
