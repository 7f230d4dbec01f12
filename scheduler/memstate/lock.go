package memstate

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// lock is a lock that is held. free is closed when it is free again.
type lock struct {
	name  string
	free  chan struct{}
	alarm alarm
}

// Lock implements scheduler.State.
func (s *State) Lock(ctx context.Context, name string, ttl time.Duration) (unlock func(), err error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		held, err := s.tryLock(name, ttl)
		if err != nil {
			return nil, err
		}
		if held.mine {
			return func() { s.unlock(held.lock) }, nil
		}
		select {
		case <-held.free:
		case <-ctx.Done():
		}
	}
}

type holding struct {
	*lock
	mine bool
}

// tryLock returns the lock of a name, made for the caller if nobody holds it.
func (s *State) tryLock(name string, ttl time.Duration) (holding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return holding{}, scheduler.ErrClosed
	}
	if l := s.locks[name]; l != nil {
		return holding{l, false}, nil
	}
	l := &lock{name: name, free: make(chan struct{})}
	s.locks[name] = l
	now := s.instant(s.now())
	s.alarms.set(&l.alarm, l, now+instant(ttl), now)
	return holding{l, true}, nil
}

func (s *State) unlock(l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[l.name] == l {
		s.alarms.unset(&l.alarm)
		l.ring(s, 0)
	}
}

// ring is called when the lock's holder has had it for long enough.
func (l *lock) ring(s *State, _ instant) {
	delete(s.locks, l.name)
	close(l.free)
}
