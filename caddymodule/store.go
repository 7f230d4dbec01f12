package caddymodule

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
)

// openRetry is how long a store that could not be opened is left alone, so that
// requests fail fast meanwhile.
const openRetry = 5 * time.Second

// store is a runtime's ledger and documents, opened when they are first needed.
// The zero value is not open.
type store struct {
	mu        sync.Mutex
	ledger    billing.Ledger
	documents *documents
	err       error
	tried     time.Time
	closed    bool
}

// open returns the ledger in a directory, opened at the first call, with the
// documents, for which it calls began. key seals the documents; later calls must
// have the same one, or add one where there was none.
func (s *store) open(ctx context.Context, dir string, options sqliteledger.Options, key []byte, began func(*documents) error) (billing.Ledger, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, billing.ErrClosed
	case s.ledger != nil:
		return s.ledger, s.rekey(dir, key)
	case s.err != nil && time.Since(s.tried) < openRetry:
		return nil, s.err
	}
	s.tried = time.Now()
	ledger, err := sqliteledger.Open(ctx, dir, options)
	if s.err = err; err != nil {
		return nil, err
	}
	// The directory is this process's now.
	documents, err := openDocuments(dir, key)
	if err == nil {
		err = began(documents)
	}
	if err != nil {
		s.err = errors.Join(err, ledger.Close())
		return nil, s.err
	}
	s.ledger, s.documents = ledger, documents
	return ledger, nil
}

// rekey takes over the key of another config of an open store.
func (s *store) rekey(dir string, key []byte) error {
	if subtle.ConstantTimeCompare(s.documents.key, key) == 1 {
		return nil
	}
	documents, err := openDocuments(dir, key)
	if err != nil {
		return err
	}
	s.documents = documents
	return nil
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
	options := sqliteledger.Options{Logger: slog.New(&g.runtime.logs), Sync: g.syncRecords}
	ledger, err := g.runtime.store.open(ctx, g.storeDir, options, g.encryptionKey, g.runtime.began)
	if err != nil {
		return nil, err
	}
	if err := ledger.Declare(ctx, g.declared); err != nil {
		return nil, err
	}
	if err := g.scheduler.Start(ctx); err != nil {
		return nil, err
	}
	g.ready.Store(&ledger)
	return ledger, nil
}
