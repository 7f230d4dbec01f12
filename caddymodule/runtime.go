package caddymodule

import (
	"context"
	"log/slog"
	"net/http"
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

// hooks are what a gateway asks of the server that it is part of.
type hooks struct {
	// clientAddress is where a request comes from, "" if that is not known.
	clientAddress func(*http.Request) string
	// isTooLarge reports whether reading a body failed for a limit of the server's own.
	isTooLarge func(error) bool
	// exiting reports whether the process is shutting down.
	exiting func() bool

	// ledger, if it is not nil, makes what is used in place of a store's ledger.
	ledger func(billing.Ledger) billing.Ledger
	// paidAfter and answeringAfter, if they are not 0, stand in place of mayBePaid and of
	// the constant.
	paidAfter, answeringAfter time.Duration
}

// runtime is what outlives a config: slots, bindings, connections and the
// ledger of one store. Handlers share it by reference count; requests in flight
// keep it from closing.
type runtime struct {
	key        string
	storage    store.Config // as the config had it that made the runtime
	hooks      hooks
	store      *store.Store
	state      scheduler.State
	tokens     *oauth.Tokens
	transports upstream.Transports
	identities anthropic.Identities
	// ctx ends when the relays must.
	ctx     context.Context
	cancel  context.CancelCauseFunc
	leases  *scheduler.Leases
	renewed chan struct{} // closed when leases are renewed no more
	logs    currentLogger
	// unpriced are the models that a warning was logged of.
	unpriced warnedModels
	money    moneyLine
	visitors visitors
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
	gateways []*gateway

	// background is what runs from the first config's start on.
	background sync.WaitGroup
	looking    sync.Once
}

var (
	// dropped holds the runtimes that no handler refers to and that still serve
	// requests. A config that names the same store adopts them: two of them on
	// one store would be two ledgers.
	dropped   = map[string]*runtime{}
	droppedMu sync.Mutex
)

// adoptRuntime takes back a runtime that was dropped and has not closed yet, or
// makes a new one.
func adoptRuntime(key string, named store.Config, hooks hooks) *runtime {
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
	if hooks.paidAfter == 0 {
		hooks.paidAfter = mayBePaid
	}
	if hooks.answeringAfter == 0 {
		hooks.answeringAfter = answeringAfter
	}
	rt := &runtime{key: key, storage: named, hooks: hooks, closed: make(chan struct{})}
	rt.changed.L = &rt.mu
	rt.questions.rt = rt
	rt.ctx, rt.cancel = context.WithCancelCause(context.Background())
	logger := slog.New(&rt.logs)
	rt.store = store.New(named, logger)
	rt.state = rt.store.State()
	rt.leases = scheduler.NewLeases(rt.state, logger)
	rt.tokens = rt.newTokens()
	rt.identities.Keep(identityStore{rt.store, logger})
	rt.renewed = make(chan struct{})
	go func() {
		defer close(rt.renewed)
		rt.leases.Run(rt.ctx)
	}()
	return rt
}

// adopt takes a dropped runtime back into use; false if it is closing.
func (rt *runtime) adopt() bool {
	droppedMu.Lock()
	defer droppedMu.Unlock()
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.refuse {
		return false
	}
	rt.dropped = false
	rt.changed.Broadcast()
	delete(dropped, rt.key)
	return true
}

// Destruct is called when no handler refers to the runtime any more, as a
// caddy.Destructor. In a reload it returns at once, and the store is closed after the last
// request; at exit what is left is cut short, settled and closed.
func (rt *runtime) Destruct() error {
	droppedMu.Lock()
	rt.mu.Lock()
	rt.dropped = true
	rt.drops++
	drop := rt.drops
	dropped[rt.key] = rt
	rt.mu.Unlock()
	droppedMu.Unlock()
	if rt.hooks.exiting() {
		return rt.cutShort()
	}
	go rt.closeWhenIdle(drop)
	return nil
}

// closeWhenIdle closes the runtime after its last request, unless it is adopted
// before.
func (rt *runtime) closeWhenIdle(drop int) {
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
	if err := rt.Close(); err != nil {
		slog.Error("closing the store", "store", rt.storage, "error", err)
	}
}

// cutShort ends the requests that outlived the server's grace period, gives
// them a moment to settle, and closes the runtime.
func (rt *runtime) cutShort() error {
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
	return rt.Close()
}

func (rt *runtime) Close() error {
	rt.cancel(errShutdown)
	<-rt.renewed
	rt.background.Wait()
	rt.tokens.Close()
	err := rt.store.Close()
	rt.transports.Close()
	droppedMu.Lock()
	delete(dropped, rt.key)
	droppedMu.Unlock()
	close(rt.closed)
	return err
}

// enter counts a request in; false if the runtime is closing.
func (rt *runtime) enter() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.refuse {
		return false
	}
	rt.active++
	return true
}

func (rt *runtime) leave() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.active--
	if rt.active == 0 && rt.dropped {
		rt.changed.Broadcast()
	}
}

// freed is called when a user may have more money than before.
func (rt *runtime) freed(user string) { rt.money.freed(user) }

// isClosed is closed when all of the runtime is.
func (rt *runtime) isClosed() <-chan struct{} { return rt.closed }
