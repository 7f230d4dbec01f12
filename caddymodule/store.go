package caddymodule

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

// openRetry is how long a store that could not be opened is left alone, so that
// requests fail fast meanwhile.
const openRetry = 5 * time.Second

// storage is a store as a config names it. Its text is what logs and errors call
// it.
type storage interface {
	fmt.Stringer
	// key is the same for every config of one store.
	key() string
	// checkKey tells whether an encryption key is the store's, without opening it.
	// A store that can't be read is none of its business.
	checkKey(ctx context.Context, key sealer) error
	// clash is an error if the store is open in another way, which a config can't
	// change.
	clash(open storage) error
	// outage says whether the store may be out of reach for a while, and what then
	// happens to requests.
	outage() outage
	// backend makes what a runtime works with. It opens nothing.
	backend(logger *slog.Logger) backend
}

// outage is what a gateway does while it can't reach its store.
type outage uint8

const (
	// outageFails: the store is part of this machine. What fails is an error.
	outageFails outage = iota
	// outageServes: requests are served without it.
	outageServes
	// outageRefuses: requests are refused until it is back.
	outageRefuses
)

// backend is a store at work. There is one for each runtime.
type backend interface {
	// state is the scheduler's. It needs not be open.
	state() scheduler.State
	// open opens the ledger and the documents, which the key seals.
	open(ctx context.Context, key sealer) (billing.Ledger, documents, error)
	// documents opens the documents of an open store, with another key.
	documents(ctx context.Context, key sealer) (documents, error)
	// take takes over what a newer config may change.
	take(storage)
	// down is why the store is out of reach, as far as anybody knows; nil: it is not.
	down() error
	// regained has f called each time that the store answers again after an outage,
	// until forget is called. It is out of reach while f fails for want of it.
	regained(f func(context.Context) error) (forget func())
	// close comes last, after state and ledger were closed.
	close() error
}

// store is a store at work: scheduler's state, the ledger and the documents. The latter
// two are opened when they are first needed.
type store struct {
	backend backend

	mu     sync.RWMutex // held for reading while the documents are used
	ledger billing.Ledger
	docs   documents
	err    error
	tried  time.Time
	closed bool
}

var errNotOpen = errors.New("the store is not open")

// newStore opens nothing.
func newStore(config storage, logger *slog.Logger) *store {
	return &store{backend: config.backend(logger)}
}

// state is the scheduler's, which needs not be open.
func (s *store) state() scheduler.State { return s.backend.state() }

// down is why the store is out of reach, as far as anybody knows; nil: it is not.
func (s *store) down() error { return s.backend.down() }

// regained has f called each time that the store answers again after an outage, until
// forget is called. It is out of reach while f fails for want of it.
func (s *store) regained(f func(context.Context) error) (forget func()) { return s.backend.regained(f) }

// take takes over what a newer config may change.
func (s *store) take(config storage) { s.backend.take(config) }

// open returns the ledger, opened at the first call, with the documents. key
// seals these; later calls must have the same one, or add one where there was
// none.
func (s *store) open(ctx context.Context, key sealer) (billing.Ledger, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, billing.ErrClosed
	case s.ledger != nil:
		return s.ledger, s.rekey(ctx, key)
	case s.err != nil && time.Since(s.tried) < openRetry:
		return nil, s.err
	}
	s.tried = time.Now()
	// All wait for it, so it does not fail because the first to ask leaves.
	ledger, docs, err := s.backend.open(context.WithoutCancel(ctx), key)
	if s.err = err; err != nil {
		return nil, err
	}
	s.ledger, s.docs = ledger, docs
	return ledger, nil
}

// rekey takes over the key of another config of an open store.
func (s *store) rekey(ctx context.Context, key sealer) error {
	if subtle.ConstantTimeCompare(s.docs.sealedWith(), key) == 1 {
		return nil
	}
	docs, err := s.backend.documents(ctx, key)
	if err != nil {
		return err
	}
	s.docs = docs
	return nil
}

// use calls f with the documents, unless they are out of reach. A change of the key
// waits for it.
func (s *store) use(f func(documents) error) error {
	return s.withDocuments(func(d documents) error {
		if err := s.backend.down(); err != nil {
			return fmt.Errorf("%w: %w", scheduler.ErrUnavailable, err)
		}
		return f(d)
	})
}

// ready asks for the documents' key, also when they are about to be in reach again.
func (s *store) ready(ctx context.Context) error {
	return s.withDocuments(func(d documents) error { return d.ready(ctx) })
}

func (s *store) withDocuments(f func(documents) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.docs == nil {
		return errNotOpen
	}
	return f(s.docs)
}

// current is the ledger, nil if it is not open.
func (s *store) current() billing.Ledger {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil
	}
	return s.ledger
}

// close ends all of it, for good.
func (s *store) close() error {
	return errors.Join(s.state().Close(), s.closeLedger(), s.backend.close())
}

func (s *store) closeLedger() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.ledger == nil {
		return nil
	}
	return s.ledger.Close()
}
