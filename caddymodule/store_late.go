package caddymodule

import (
	"context"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// lateState is a scheduler.State that begins when it is first used. The state in
// Redis speaks to its server from then on, and a config that is only looked at
// must not.
type lateState struct {
	begin func() scheduler.State

	once  sync.Once
	begun scheduler.State
}

func (s *lateState) get() scheduler.State {
	s.once.Do(func() { s.begun = s.begin() })
	return s.begun
}

// Acquire implements scheduler.State.
func (s *lateState) Acquire(ctx context.Context, ask *scheduler.Ask) (scheduler.Answer, error) {
	return s.get().Acquire(ctx, ask)
}

// Await implements scheduler.State.
func (s *lateState) Await(ctx context.Context, lease string) (scheduler.Answer, error) {
	return s.get().Await(ctx, lease)
}

// Release implements scheduler.State.
func (s *lateState) Release(ctx context.Context, leases ...string) error {
	return s.get().Release(ctx, leases...)
}

// ReleaseAlong implements scheduler.State.
func (s *lateState) ReleaseAlong(ctx context.Context, leases ...string) (context.Context, func()) {
	return s.get().ReleaseAlong(ctx, leases...)
}

// Renew implements scheduler.State.
func (s *lateState) Renew(ctx context.Context, leases []string, ttl time.Duration) ([]string, error) {
	return s.get().Renew(ctx, leases, ttl)
}

// Mark implements scheduler.State.
func (s *lateState) Mark(ctx context.Context, session string, marks scheduler.Marks, ttl time.Duration) error {
	return s.get().Mark(ctx, session, marks, ttl)
}

// Change implements scheduler.State.
func (s *lateState) Change(ctx context.Context, place string, f func(*scheduler.Standing)) (scheduler.Standing, error) {
	return s.get().Change(ctx, place, f)
}

// Standing implements scheduler.State.
func (s *lateState) Standing(place string) scheduler.Standing { return s.get().Standing(place) }

// Load implements scheduler.State.
func (s *lateState) Load(ctx context.Context, place string) (scheduler.Load, error) {
	return s.get().Load(ctx, place)
}

// Loads implements scheduler.State.
func (s *lateState) Loads(ctx context.Context, places []string) ([]scheduler.Load, error) {
	return s.get().Loads(ctx, places)
}

// Lock implements scheduler.State.
func (s *lateState) Lock(ctx context.Context, name string, ttl time.Duration) (func(), error) {
	return s.get().Lock(ctx, name, ttl)
}

// Close implements scheduler.State. A state that was never used does not begin
// for it.
func (s *lateState) Close() error {
	s.once.Do(func() {})
	if s.begun == nil {
		return nil
	}
	return s.begun.Close()
}
