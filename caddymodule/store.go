package caddymodule

import (
	"context"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
)

// openRetry is how long a store that could not be opened is left alone, so that
// requests fail fast meanwhile.
const openRetry = 5 * time.Second

// store is a runtime's ledger, opened when it is first needed. The zero value
// is not open.
type store struct {
	mu     sync.Mutex
	ledger billing.Ledger
	err    error
	tried  time.Time
	closed bool
}

// open returns the ledger in a directory, opened at the first call.
func (s *store) open(ctx context.Context, dir string, options sqliteledger.Options) (billing.Ledger, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, billing.ErrClosed
	case s.ledger != nil:
		return s.ledger, nil
	case s.err != nil && time.Since(s.tried) < openRetry:
		return nil, s.err
	}
	s.tried = time.Now()
	ledger, err := sqliteledger.Open(ctx, dir, options)
	if s.err = err; err != nil {
		return nil, err
	}
	s.ledger = ledger
	return ledger, nil
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.ledger == nil {
		return nil
	}
	return s.ledger.Close()
}

// ledger returns the ledger, open and knowing this config's users. After the
// first call it costs nothing.
func (g *gateway) ledger(ctx context.Context) (billing.Ledger, error) {
	if ready := g.ready.Load(); ready != nil {
		return *ready, nil
	}
	ledger, err := g.runtime.store.open(ctx, g.storeDir, sqliteledger.Options{Logger: g.logger, Sync: g.syncRecords})
	if err != nil {
		return nil, err
	}
	if err := ledger.Declare(ctx, g.declared); err != nil {
		return nil, err
	}
	g.ready.Store(&ledger)
	return ledger, nil
}
