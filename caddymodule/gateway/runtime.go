package gateway

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

const (
	// shutdownGrace is how long relays that are cut at exit have to settle.
	shutdownGrace = 2 * time.Second
	// shutdownRetryAfter is when a refused client may find the next process.
	shutdownRetryAfter = time.Second
)

// Hooks are what a gateway asks of the server that it is part of.
type Hooks struct {
	// ClientAddress is where a request comes from, "" if that is not known.
	ClientAddress func(*http.Request) string
	// IsTooLarge reports whether reading a body failed for a limit of the server's own.
	IsTooLarge func(error) bool
	// Exiting reports whether the process is shutting down.
	Exiting func() bool

	// Ledger, if it is not nil, makes what is used in place of a store's ledger.
	Ledger func(billing.Ledger) billing.Ledger
	// PaidAfter and answeringAfter, if they are not 0, stand in place of mayBePaid and of
	// the constant.
	PaidAfter, AnsweringAfter time.Duration
}

// Runtime is what outlives a config: slots, bindings, connections and the
// ledger of one store. Handlers share it by reference count; requests in flight
// keep it from closing.
type Runtime struct {
	Key        string
	Storage    store.Config // as the config had it that made the runtime
	hooks      Hooks
	store      *store.Store
	State      scheduler.State
	tokens     *oauth.Tokens
	transports upstream.Transports
	identities anthropic.Identities
	// Context ends when the relays must.
	Context context.Context
	cancel  context.CancelCauseFunc
	leases  *scheduler.Leases
	renewed chan struct{} // closed when leases are renewed no more
	Logs    currentLogger
	// unpriced are the models that a warning was logged of.
	unpriced warnedModels
	money    balanceQueue
	throttle keyThrottle
	// questions are those that the gateway asks accounts itself.
	questions questions

	mu      sync.Mutex
	changed sync.Cond // active fell to 0, or dropped changed
	active  int       // requests in flight
	refuse  bool      // no new requests
	dropped bool      // no handler refers to it
	drops   int       // how often it was dropped
	closed  chan struct{}
	// gateways are the configs in force.
	gateways []*Gateway

	// background is what runs from the first config's start on.
	background sync.WaitGroup
	looking    sync.Once
}

var (
	// dropped holds the runtimes that no handler refers to and that still serve
	// requests. A config that names the same store adopts them: two of them on
	// one store would be two ledgers.
	dropped   = map[string]*Runtime{}
	droppedMu sync.Mutex
)

// AdoptRuntime takes back a runtime that was dropped and has not closed yet, or
// makes a new one.
func AdoptRuntime(key string, named store.Config, hooks Hooks) *Runtime {
	for {
		droppedMu.Lock()
		rt := dropped[key]
		droppedMu.Unlock()
		if rt == nil {
			break
		}
		if rt.adopt() {
			return rt
		}
		<-rt.closed
	}
	if hooks.PaidAfter == 0 {
		hooks.PaidAfter = mayBePaid
	}
	if hooks.AnsweringAfter == 0 {
		hooks.AnsweringAfter = answeringAfter
	}
	rt := &Runtime{Key: key, Storage: named, hooks: hooks, closed: make(chan struct{})}
	rt.changed.L = &rt.mu
	rt.questions.rt = rt
	rt.Context, rt.cancel = context.WithCancelCause(context.Background())
	logger := slog.New(&rt.Logs)
	rt.store = store.New(named, logger)
	rt.State = rt.store.State()
	rt.leases = scheduler.NewLeases(rt.State, logger)
	rt.tokens = rt.newTokens()
	rt.identities.Keep(identityStore{rt.store, logger})
	rt.renewed = make(chan struct{})
	go func() {
		defer close(rt.renewed)
		rt.leases.Run(rt.Context)
	}()
	return rt
}

// adopt takes a dropped runtime back into use; false if it is closing.
func (rt *Runtime) adopt() bool {
	droppedMu.Lock()
	defer droppedMu.Unlock()
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.refuse {
		return false
	}
	rt.dropped = false
	rt.changed.Broadcast()
	delete(dropped, rt.Key)
	return true
}

// Destruct is called when no handler refers to the runtime any more, as a
// caddy.Destructor. In a reload it returns at once, and the store is closed after the last
// request; at exit what is left is cut short, settled and closed.
func (rt *Runtime) Destruct() error {
	droppedMu.Lock()
	rt.mu.Lock()
	rt.dropped = true
	rt.drops++
	drop := rt.drops
	dropped[rt.Key] = rt
	rt.mu.Unlock()
	droppedMu.Unlock()
	if rt.hooks.Exiting() {
		return rt.cutShort()
	}
	go rt.closeWhenIdle(drop)
	return nil
}

// WaitClosed waits until all runtimes that no handler refers to are closed, or ctx ends.
func WaitClosed(ctx context.Context) {
	droppedMu.Lock()
	all := slices.Collect(maps.Values(dropped))
	droppedMu.Unlock()
	for _, rt := range all {
		select {
		case <-rt.closed:
		case <-ctx.Done():
		}
	}
}

// closeWhenIdle closes the runtime after its last request, unless it is adopted
// before.
func (rt *Runtime) closeWhenIdle(drop int) {
	rt.mu.Lock()
	for rt.active > 0 && rt.dropped {
		rt.changed.Wait()
	}
	if !rt.dropped || rt.drops != drop || rt.refuse {
		rt.mu.Unlock()
		return
	}
	rt.refuse = true
	rt.mu.Unlock()
	if err := rt.close(); err != nil {
		slog.Error("closing the store", "store", rt.Storage, "error", err)
	}
}

// cutShort ends the requests that outlived the server's grace period, gives
// them a moment to settle, and closes the runtime.
func (rt *Runtime) cutShort() error {
	rt.cancel(errShutdown)
	late := false
	timer := time.AfterFunc(shutdownGrace, func() {
		rt.mu.Lock()
		late = true
		rt.mu.Unlock()
		rt.changed.Broadcast()
	})
	defer timer.Stop()
	rt.mu.Lock()
	rt.refuse = true
	for rt.active > 0 && !late {
		rt.changed.Wait()
	}
	rt.mu.Unlock()
	return rt.close()
}

func (rt *Runtime) close() error {
	rt.cancel(errShutdown)
	<-rt.renewed
	rt.background.Wait()
	rt.tokens.Close()
	err := rt.store.Close()
	rt.transports.Close()
	droppedMu.Lock()
	delete(dropped, rt.Key)
	droppedMu.Unlock()
	close(rt.closed)
	return err
}

// Enter counts a request in; false if the runtime is closing.
func (rt *Runtime) Enter() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.refuse {
		return false
	}
	rt.active++
	return true
}

func (rt *Runtime) Leave() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.active--
	if rt.active == 0 && rt.dropped {
		rt.changed.Broadcast()
	}
}

// Freed is called when a user may have more money than before.
func (rt *Runtime) Freed(user string) { rt.money.freed(user) }

// Closed is closed when all of the runtime is.
func (rt *Runtime) Closed() <-chan struct{} { return rt.closed }
