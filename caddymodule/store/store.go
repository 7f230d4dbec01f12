// Package store is one handle on what a gateway keeps: the scheduler's state, the ledger
// and the documents, embedded in this process or in Redis.
package store

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// OpenRetry is how long a store that could not be opened is left alone, so that
// requests fail fast meanwhile.
const OpenRetry = 5 * time.Second

// Config is a store as a config names it. Its text is what logs and errors call
// it.
type Config interface {
	fmt.Stringer
	// Key is the same for every config of one store.
	Key() string
	// CheckKey reports whether an encryption key is the store's, without opening it.
	// A store that can't be read is none of its business.
	CheckKey(ctx context.Context, key EncryptionKey) error
	// Clash is an error if the store is open in another way, which a config can't
	// change.
	Clash(open Config) error
	// Outage says whether the store may be out of reach for a while, and what then
	// happens to requests.
	Outage() Outage
	// Backend makes what a runtime works with. It opens nothing.
	Backend(logger *slog.Logger) Backend
}

// Outage is what a gateway does while it can't reach its store.
type Outage uint8

const (
	// OutageFails: the store is part of this machine. What fails is an error.
	OutageFails Outage = iota
	// OutageServes: requests are served without it.
	OutageServes
	// OutageRefuses: requests are refused until it is back.
	OutageRefuses
)

// Backend is a store at work. There is one for each runtime.
type Backend interface {
	// State is the scheduler's. It needs not be open.
	State() scheduler.State
	// Open opens the ledger and the documents, which the key seals.
	Open(ctx context.Context, key EncryptionKey) (billing.Ledger, Documents, error)
	// Documents opens the documents of an open store, with another key.
	Documents(ctx context.Context, key EncryptionKey) (Documents, error)
	// Take takes over what a newer config may change.
	Take(Config)
	// Down is why the store is out of reach, as far as anybody knows; nil: it is not.
	Down() error
	// Regained has f called each time that the store answers again after an outage,
	// until forget is called. It is out of reach while f fails for want of it.
	Regained(f func(context.Context) error) (forget func())
	// Close comes last, after state and ledger were closed.
	Close() error
}

// Store is a store at work: scheduler's state, the ledger and the documents. The latter
// two are opened when they are first needed.
type Store struct {
	backend Backend

	mu     sync.RWMutex // held for reading while the documents are used
	ledger billing.Ledger
	docs   Documents
	err    error
	tried  time.Time
	closed bool
}

var ErrNotOpen = errors.New("the store is not open")

// New opens nothing.
func New(config Config, logger *slog.Logger) *Store {
	return &Store{backend: config.Backend(logger)}
}

// State is the scheduler's, which needs not be open.
func (s *Store) State() scheduler.State { return s.backend.State() }

// Down is why the store is out of reach, as far as anybody knows; nil: it is not.
func (s *Store) Down() error { return s.backend.Down() }

// Regained has f called each time that the store answers again after an outage, until
// forget is called. It is out of reach while f fails for want of it.
func (s *Store) Regained(f func(context.Context) error) (forget func()) { return s.backend.Regained(f) }

// Take takes over what a newer config may change.
func (s *Store) Take(config Config) { s.backend.Take(config) }

// Open returns the ledger, opened at the first call, with the documents. key
// seals these; later calls must have the same one, or add one where there was
// none.
func (s *Store) Open(ctx context.Context, key EncryptionKey) (billing.Ledger, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, billing.ErrClosed
	case s.ledger != nil:
		return s.ledger, s.rekey(ctx, key)
	case s.err != nil && time.Since(s.tried) < OpenRetry:
		return nil, s.err
	}
	s.tried = time.Now()
	// All wait for it, so it does not fail because the first to ask leaves.
	ledger, docs, err := s.backend.Open(context.WithoutCancel(ctx), key)
	if s.err = err; err != nil {
		return nil, err
	}
	s.ledger, s.docs = ledger, docs
	return ledger, nil
}

// rekey takes over the key of another config of an open store.
func (s *Store) rekey(ctx context.Context, key EncryptionKey) error {
	if subtle.ConstantTimeCompare(s.docs.sealedWith(), key) == 1 {
		return nil
	}
	docs, err := s.backend.Documents(ctx, key)
	if err != nil {
		return err
	}
	s.docs = docs
	return nil
}

// Use calls f with the documents, unless they are out of reach. A change of the key
// waits for it.
func (s *Store) Use(f func(Documents) error) error {
	return s.withDocuments(func(d Documents) error {
		if err := s.backend.Down(); err != nil {
			return fmt.Errorf("%w: %w", scheduler.ErrUnavailable, err)
		}
		return f(d)
	})
}

// Ready asks for the documents' key, also when they are about to be in reach again.
func (s *Store) Ready(ctx context.Context) error {
	return s.withDocuments(func(d Documents) error { return d.Ready(ctx) })
}

func (s *Store) withDocuments(f func(Documents) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.docs == nil {
		return ErrNotOpen
	}
	return f(s.docs)
}

// Current is the ledger, nil if it is not open.
func (s *Store) Current() billing.Ledger {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil
	}
	return s.ledger
}

// Close ends all of it, for good.
func (s *Store) Close() error {
	return errors.Join(s.State().Close(), s.closeLedger(), s.backend.Close())
}

func (s *Store) closeLedger() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.ledger == nil {
		return nil
	}
	return s.ledger.Close()
}
