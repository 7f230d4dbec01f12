package redisstate

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

const (
	// perBeat is how many asks in line one command speaks for.
	perBeat = 500
	// perJoin is how many leases one command brings back.
	perJoin = 500
)

// live beats until the State is closed.
func (s *State) live() {
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	for {
		s.tick()
		select {
		case <-ticker.C:
		case <-s.kick:
		case <-s.ctx.Done():
			return
		}
	}
}

// tick beats while Redis is in force. What stops a heartbeat is known to the link, or
// is what Redis said of it.
func (s *State) tick() {
	s.gate.RLock()
	local, out := s.local, s.out()
	var err error
	if local == nil && out == nil {
		s.prune()
		err = s.heartbeats()
	}
	s.gate.RUnlock()
	if local != nil && s.link.Down() == nil { // it was put in force just before Redis was back
		err = s.Regain(s.ctx)
	}
	why := ""
	if reply, ok := errors.AsType[redis.Error](err); ok && !isOutage(err) {
		why = reply.Error()
	}
	s.mu.Lock()
	isNew := why != s.trouble
	s.trouble = why
	s.mu.Unlock()
	if isNew && why != "" && s.ctx.Err() == nil {
		s.options.Logger.Error("Redis refuses this node's sign of life; those in line may wait in vain", "error", why)
	}
}

func isOutage(err error) bool {
	_, ok := errors.AsType[*redislink.Outage](err)
	return ok
}

// doubt has the next heartbeat bring back what Redis may have lost.
func (s *State) doubt() {
	s.mu.Lock()
	s.suspect = s.joined
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// prune forgets what nobody asked for.
func (s *State) prune() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for lease, m := range s.early {
		if now.Sub(m.at) > 10*heartbeatEvery {
			delete(s.early, lease)
		}
	}
	for lease, w := range s.waiters {
		if !w.awaited && now.After(w.until) {
			delete(s.waiters, lease)
		}
	}
	for lease, h := range s.held { // served in line, and nobody came for the slot
		if now.After(h.until) {
			delete(s.held, lease)
		}
	}
}

// beats says that this node lives, and that its asks in line are awaited. The
// gate is held.
func (s *State) heartbeats() error {
	s.mu.Lock()
	suspect := s.suspect
	leases := make([]any, 0, len(s.waiters))
	for lease, w := range s.waiters {
		if w.awaited && !w.over && w.epoch == s.epoch {
			leases = append(leases, lease)
		}
	}
	s.mu.Unlock()
	if suspect {
		if err := s.join(s.ctx); err != nil {
			return err
		}
	}
	for {
		n := min(len(leases), perBeat)
		more, err := s.heartbeatOnce(leases[:n])
		if err != nil {
			return err
		}
		leases = leases[n:]
		if len(leases) == 0 && !more {
			return nil
		}
	}
}

// heartbeatOnce reports whether there are more account states to fetch.
func (s *State) heartbeatOnce(leases []any) (more bool, err error) {
	for {
		s.mu.Lock()
		before, version := s.heartbeat, s.accountStates.version
		s.mu.Unlock()
		sent, joins := s.now(), s.joins.Load()
		reply, err := s.run(s.ctx, heartbeatScript, append([]any{s.options.Node, before, version}, leases...)...)
		if err != nil {
			return false, err
		}
		r := list(reply)
		if text(r, 0) == "unknown node" {
			if err := s.joinAfter(s.ctx, joins); err != nil {
				return false, err
			}
			continue
		}
		s.mu.Lock()
		s.hearTime(text(r, 1))
		s.nodes = max(1, int(integer(r, 3)))
		s.mu.Unlock()
		if integer(r, 2) == 1 { // Redis went back in time, as a failover can have it
			s.doubt()
		}
		if len(r) == 7 {
			more = s.accountStates.take(s, list(r[5]), integer(r, 4))
			s.answers(leases, list(r[6]), sent)
		}
		return more, nil
	}
}

// answers takes in what a heartbeat brought for asks in line.
func (s *State) answers(leases, answers []any, sent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, lease := range leases {
		w := s.waiters[lease.(string)]
		if w == nil || w.over {
			continue
		}
		switch answer := text(answers, i); answer {
		case "":
			w.heard = sent
		case "gone":
			w.epoch = -1
			w.wake()
		default:
			var m message
			if json.Unmarshal([]byte(answer), &m) == nil {
				w.heard = sent
				s.deliver(w, &m)
			}
		}
	}
}

// join makes this node known to Redis, which hears what the node holds and what
// it has given back. A Redis that has lost its memory gets it from its nodes,
// and gives no slot until they have all had the time. The gate is held.
func (s *State) join(ctx context.Context) error {
	s.joining.Lock()
	defer s.joining.Unlock()
	return s.joinNow(ctx)
}

// joinAfter is join, for who heard that Redis does not know this node, unless it has
// joined since: joins is how often it had when Redis was asked. A slot that is given back
// meanwhile would be taken again for a moment.
func (s *State) joinAfter(ctx context.Context, joins int64) error {
	s.joining.Lock()
	defer s.joining.Unlock()
	if s.joins.Load() != joins {
		return nil
	}
	return s.joinNow(ctx)
}

// joinNow is for who holds joining.
func (s *State) joinNow(ctx context.Context) error {
	s.mu.Lock()
	known := "0"
	if s.joined {
		known = "1"
	}
	now := s.now()
	var held, unreleased []any
	var told []string
	for lease, h := range s.held {
		if now.Before(h.until) {
			held = append(held, lease, h.place, milliseconds(h.until.Sub(now)))
			told = append(told, lease)
		}
	}
	for lease := range s.unreleased {
		unreleased = append(unreleased, lease)
	}
	s.forgetReleases(s.now())
	for _, r := range s.released {
		if s.held[r.lease] == nil && s.waiters[r.lease] == nil { // or it is in use again
			unreleased = append(unreleased, r.lease)
		}
	}
	s.mu.Unlock()
	lost := false
	for first := true; first || len(held)+len(unreleased) > 0; first = false {
		n, m := min(len(unreleased), perJoin), min(len(held), 3*perJoin)
		if n > 0 {
			m = 0 // what was given back goes first: an id may be in use again
		}
		args := append([]any{s.options.Node, known, n}, unreleased[:n]...)
		reply, err := s.run(ctx, joinScript, append(args, held[:m]...)...)
		if err != nil {
			return err
		}
		r := list(reply)
		lost = lost || integer(r, 1) == 1
		s.mu.Lock()
		s.hearTime(text(r, 0))
		for _, lease := range unreleased[:n] {
			delete(s.unreleased, lease.(string))
		}
		s.mu.Unlock()
		unreleased, held = unreleased[n:], held[m:]
	}
	s.mu.Lock()
	s.joined, s.suspect = true, false
	s.joins.Add(1)
	if lost {
		clear(s.defined)
	}
	s.mu.Unlock()
	if lost {
		s.options.Logger.Warn("Redis had lost its memory; slots and account states are brought back from the nodes that knew them")
		if err := s.restoreAccountStates(ctx); err != nil {
			return err
		}
	}
	return s.releaseAgain(ctx, told)
}
