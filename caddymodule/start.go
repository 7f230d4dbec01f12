package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

const (
	// startRetry is how often a store that is out of reach is told of the config.
	startRetry = time.Second
	// startTimeout bounds one try.
	startTimeout = 10 * time.Second
	// startReminder is how often the log says that it is out of reach still.
	startReminder = time.Minute
)

// start is what it takes until a config is known to its store.
type start struct {
	ready atomic.Pointer[billing.Ledger] // from then on

	mu sync.Mutex // held by the first try
	// failed is why the store is told in the background; nil = it is not.
	failed error
	cancel context.CancelFunc // of that
	over   bool               // the config is no longer in force
}

// ledger returns the ledger, open and knowing this config's users. After the
// first call it costs nothing. While a store that others share is out of reach
// it fails with scheduler.ErrUnavailable, or, where requests are to be served
// meanwhile, takes what the config says of users for the truth.
func (g *gateway) ledger(ctx context.Context) (billing.Ledger, error) {
	if ready := g.start.ready.Load(); ready != nil {
		return *ready, nil
	}
	g.start.mu.Lock()
	defer g.start.mu.Unlock()
	if ready := g.start.ready.Load(); ready != nil {
		return *ready, nil
	}
	if g.start.failed != nil {
		return nil, g.start.failed
	}
	ledger, err := g.runtime.store.open(ctx, g.encryptionKey)
	if err != nil {
		return nil, err
	}
	if g.storage.outage() == outageFails {
		if err := g.declare(ctx, ledger); err != nil {
			return nil, err
		}
		g.start.ready.Store(&ledger)
		return ledger, nil
	}
	told := &declaring{Ledger: ledger, gateway: g}
	ledger = told
	err = g.declare(ctx, ledger)
	switch {
	case err == nil:
		g.start.ready.Store(&ledger)
		return ledger, nil
	case ctx.Err() != nil:
		return nil, err
	}
	return g.startLater(told, err)
}

// declare tells the store of the config.
func (g *gateway) declare(ctx context.Context, ledger billing.Ledger) error {
	if err := ledger.Declare(ctx, g.declared); err != nil {
		return err
	}
	if err := g.scheduler.Start(ctx); err != nil {
		return err
	}
	return g.runtime.store.use(func(d documents) error { return d.ready(ctx) })
}

// startLater goes on telling the store in the background.
func (g *gateway) startLater(ledger *declaring, err error) (billing.Ledger, error) {
	if g.start.over || g.runtime.ctx.Err() != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(g.runtime.ctx)
	g.start.cancel = cancel
	g.start.failed = fmt.Errorf("%w: %w", scheduler.ErrUnavailable, err)
	serve := g.storage.outage() == outageServes
	what := "requests are refused until then"
	if serve {
		what = "requests are served with what the config says of users until then"
	}
	g.logger.Error("the store could not be told of the config; it is tried again every second", "store", g.storage.String(), "so", what, "error", err)
	g.runtime.background.Go(func() { g.keepStarting(ctx, ledger) })
	if !serve {
		return nil, g.start.failed
	}
	var early billing.Ledger = newUndeclared(ledger)
	g.start.ready.Store(&early)
	return early, nil
}

// keepStarting ends when the store was told, or ctx.
func (g *gateway) keepStarting(ctx context.Context, ledger billing.Ledger) {
	ticker := time.NewTicker(startRetry)
	defer ticker.Stop()
	logged, wrongKey := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		bounded, cancel := context.WithTimeout(ctx, startTimeout)
		err := g.declare(bounded, ledger)
		cancel()
		if err == nil {
			g.start.ready.Store(&ledger)
			g.logger.Info("the store was told of the config", "store", g.storage.String())
			return
		}
		if ctx.Err() == nil && (time.Since(logged) >= startReminder || isKeyError(err) != wrongKey) {
			logged, wrongKey = time.Now(), isKeyError(err)
			g.logger.Error("the store could still not be told of the config", "store", g.storage.String(), "error", err)
		}
	}
}

// giveUp is called when the config is no longer in force.
func (s *start) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.cancel != nil {
		s.cancel()
	}
}

// storeFailed answers a request that could not do something for the store's
// sake.
func (x *exchange) storeFailed(doing string, err error) {
	if errors.Is(err, scheduler.ErrUnavailable) || errors.Is(err, billing.ErrUnwritable) {
		x.failStore(doing, err)
		return
	}
	x.internal(doing, err)
}
