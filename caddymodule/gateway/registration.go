package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

const (
	// startRetry is how long a shared store that could not be told of the config is
	// left alone, so that requests fail fast meanwhile.
	startRetry = time.Second
	// startTimeout bounds one try.
	startTimeout = 10 * time.Second
	// startReminder is how often the log says the same of it.
	startReminder = time.Minute
)

// registration is what it takes until a config is known to its store. Requests try, and
// where the store was out of reach, it is tried before the store counts as back.
type registration struct {
	ready atomic.Pointer[billing.Ledger] // from then on

	mu     sync.Mutex     // held by a try
	opened billing.Ledger // it knows the users; nil until then
	failed error          // why the last try failed
	tried  time.Time      // when that was
	logged time.Time      // when failed was last in the log
	forget func()         // ends the tries after an outage; nil: there are none
	over   bool           // the config is no longer in force
}

// Ledger returns the ledger, open and knowing this config's users. After the
// first call it costs nothing. While a store that others share is out of reach
// it fails with scheduler.ErrUnavailable, unless requests are to be served
// meanwhile: then the ledger goes by what it was told to declare.
func (g *Gateway) Ledger(ctx context.Context) (billing.Ledger, error) {
	if ready := g.registration.ready.Load(); ready != nil {
		return *ready, nil
	}
	s := &g.registration
	s.mu.Lock()
	defer s.mu.Unlock()
	if ready := s.ready.Load(); ready != nil {
		return *ready, nil
	}
	down := g.runtime.store.Down()
	tryNow := s.failed == nil || g.Config.Storage.Outage() == store.OutageFails || down == nil && time.Since(s.tried) >= startRetry
	if tryNow && g.try(ctx, func() error { return g.runtime.store.Down() }) == nil {
		return s.opened, nil
	}
	if s.opened != nil && g.Config.Storage.Outage() == store.OutageServes {
		return s.opened, nil
	}
	return nil, s.failed
}

// tellAgain tells the store of the config where that failed: it is back, as soon as
// that has worked.
func (g *Gateway) tellAgain(ctx context.Context) error {
	s := &g.registration
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.ready.Load() != nil {
		return nil
	}
	return g.try(ctx, func() error { return nil })
}

// try tells the store of the config, and notes what comes of it. start.mu is held.
func (g *Gateway) try(ctx context.Context, down func() error) error {
	s := &g.registration
	// All wait for it, so it does not fail because the first to ask leaves.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	err := g.tell(bounded, down)
	before := s.failed
	s.failed, s.tried = err, time.Now()
	switch {
	case err == nil:
		s.ready.Store(&s.opened)
	case g.Config.Storage.Outage() == store.OutageFails || errors.Is(err, scheduler.ErrUnavailable): // it is told elsewhere
	case before == nil || before.Error() != err.Error() || time.Since(s.logged) >= startReminder:
		s.logged = s.tried
		g.logger.Error("the store could not be told of the config; the next requests try again", "store", g.Config.Storage.String(), "error", err)
	}
	return err
}

// tell opens the store and tells it of users and credentials. What fails because
// of an outage is scheduler.ErrUnavailable.
func (g *Gateway) tell(ctx context.Context, down func() error) error {
	s, store := &g.registration, g.runtime.store
	if s.opened == nil {
		ledger, err := store.Open(ctx, g.Config.EncryptionKey)
		if err != nil {
			return err
		}
		if wrap := g.runtime.hooks.Ledger; wrap != nil {
			ledger = wrap(ledger)
		}
		if s.forget == nil && !s.over {
			s.forget = store.Regained(g.tellAgain)
		}
		if err := ledger.Declare(ctx, g.Config.Declared); err != nil {
			return err
		}
		s.opened = ledger
	}
	// By itself, this node goes by it too.
	if err := g.Scheduler.Start(ctx); err != nil {
		return err
	}
	if err := down(); err != nil {
		return fmt.Errorf("telling the store of the config: %w: %w", scheduler.ErrUnavailable, err)
	}
	return store.Ready(ctx)
}

// giveUp is called when the config is no longer in force.
func (s *registration) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.forget != nil {
		s.forget()
	}
}
