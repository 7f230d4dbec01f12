package redisstate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// Lock implements scheduler.State. No fallback locks: what excludes this node's
// requests alone excludes nobody.
func (s *State) Lock(ctx context.Context, name string, ttl time.Duration) (unlock func(), err error) {
	s.begin()
	token := uuid.NewString()
	for {
		free, down := s.whenUnlocked(name), s.out()
		switch {
		case s.isClosed():
			return nil, scheduler.ErrClosed
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case down != nil:
			return nil, fmt.Errorf("%w: %w", scheduler.ErrUnavailable, down)
		}
		reply, err := s.run(ctx, lockScript, name, token, milliseconds(ttl))
		switch {
		case err != nil:
			s.unlock(name, token) // the answer may be what was lost
			return nil, fmt.Errorf("%w: %w", scheduler.ErrUnavailable, err)
		case reply == int64(1):
			return sync.OnceFunc(func() { s.unlock(name, token) }), nil
		}
		timer := time.NewTimer(heartbeatEvery)
		select {
		case <-free:
		case <-timer.C:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

// unlock frees the lock if it is the token's still.
func (s *State) unlock(name, token string) {
	_, _ = s.run(context.Background(), unlockScript, name, token) // if it fails, the lock is free after its ttl
}

// whenUnlocked returns a channel that is closed when the lock may be free.
func (s *State) whenUnlocked(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := s.unlocked[name]
	if free == nil {
		free = make(chan struct{})
		s.unlocked[name] = free
	}
	return free
}

func (s *State) wakeLockers(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if free := s.unlocked[name]; free != nil {
		close(free)
		delete(s.unlocked, name)
	}
}
