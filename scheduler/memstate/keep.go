package memstate

import (
	"context"
	"sync"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// Keeper keeps account states beyond the process.
type Keeper interface {
	// Load returns what was saved, by place.
	Load() (map[string]scheduler.AccountState, error)
	// Save replaces the account state of a place. It is never called concurrently, and
	// reports its failures by itself: the place's next change saves it again.
	Save(place string, accountState scheduler.AccountState)
}

// keeping is the saving of account states, on one goroutine, so that no older one
// ever replaces a newer.
type keeping struct {
	keeper Keeper
	// dirty are the places whose account state is not saved yet; guarded by State.mu.
	dirty map[*place]struct{}
	// saved is closed when nothing is dirty or being saved any more; nil = nothing
	// is. Guarded by State.mu.
	saved chan struct{}
	wake  chan struct{} // holds one
	end   chan struct{}
	done  sync.WaitGroup
}

// Keep takes over the account states of a Keeper, but for places that have changed
// before, and saves every change from now on, a moment after it. It is called
// once. Close saves what is left.
func (s *State) Keep(keeper Keeper) error {
	saved, err := keeper.Load()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return scheduler.ErrClosed
	}
	k := &keeping{keeper: keeper, dirty: map[*place]struct{}{}, wake: make(chan struct{}, 1), end: make(chan struct{})}
	now := s.now()
	for _, p := range s.places {
		if !p.accountState.Equal(&scheduler.AccountState{}) {
			k.markDirty(p)
		}
	}
	for name, accountState := range saved {
		p := s.place(name)
		if _, newer := k.dirty[p]; !newer {
			s.setAccountState(p, accountState, now)
		}
	}
	s.keeping = k
	k.done.Go(func() { s.keep(k) })
	return nil
}

// markDirty marks a place whose account state must be saved.
func (k *keeping) markDirty(p *place) {
	k.dirty[p] = struct{}{}
	if k.saved == nil {
		k.saved = make(chan struct{})
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (s *State) keep(k *keeping) {
	for ended := false; !ended; {
		select {
		case <-k.wake:
		case <-k.end:
			ended = true
		}
		for p, accountState := s.takeDirty(k); p != nil; p, accountState = s.takeDirty(k) {
			k.keeper.Save(p.name, accountState)
		}
	}
}

// takeDirty takes one place, with its account state as it is now; nil if none is
// left.
func (s *State) takeDirty(k *keeping) (*place, scheduler.AccountState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range k.dirty {
		delete(k.dirty, p)
		return p, p.accountState
	}
	if k.saved != nil {
		close(k.saved)
		k.saved = nil
	}
	return nil, scheduler.AccountState{}
}

// Saved waits until the Keeper has been given every change made so far. Without a
// Keeper it does not wait. The error is context.Cause(ctx).
func (s *State) Saved(ctx context.Context) error {
	s.mu.Lock()
	var saved chan struct{}
	if s.keeping != nil {
		saved = s.keeping.saved
	}
	s.mu.Unlock()
	if saved == nil {
		return nil
	}
	select {
	case <-saved:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *keeping) close() {
	close(k.end)
	k.done.Wait()
}
