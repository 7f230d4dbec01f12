package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

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

// runtime is what outlives a config: slots, bindings, connections and the
// ledger of one store. Handlers share it by reference count; requests in flight
// keep it from closing.
type runtime struct {
	key        string
	storage    storage // as the config had it that made the runtime
	store      store
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
	runtimes = caddy.NewUsagePool()
	// dropped holds the runtimes that no handler refers to and that still serve
	// requests. A config that names the same store adopts them: two of them on
	// one store would be two ledgers.
	dropped   = map[string]*runtime{}
	droppedMu sync.Mutex
)

// joinRuntime takes a reference to the runtime of a store, and makes it if
// there is none. It opens nothing.
func joinRuntime(named storage) (*runtime, error) {
	key := named.key()
	value, _, err := runtimes.LoadOrNew(key, func() (caddy.Destructor, error) { return adoptRuntime(key, named), nil })
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", named, err)
	}
	rt := value.(*runtime)
	if err := named.clash(rt.storage); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", named, err), leaveRuntime(key))
	}
	return rt, nil
}

func leaveRuntime(key string) error {
	_, err := runtimes.Delete(key)
	return err
}

// adoptRuntime takes back a runtime that was dropped and has not closed yet, or
// makes a new one.
func adoptRuntime(key string, named storage) *runtime {
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
	rt := &runtime{key: key, storage: named, closed: make(chan struct{})}
	rt.changed.L = &rt.mu
	rt.questions.rt = rt
	rt.ctx, rt.cancel = context.WithCancelCause(context.Background())
	logger := slog.New(&rt.logs)
	rt.store.backend = named.backend(logger)
	rt.state = rt.store.backend.state()
	rt.leases = scheduler.NewLeases(rt.state, logger)
	rt.tokens = rt.newTokens()
	rt.identities.Keep(identityStore{&rt.store, logger})
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

// Destruct implements caddy.Destructor: no handler refers to the runtime any
// more. In a reload it returns at once, and the store is closed after the last
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
	if caddy.Exiting() {
		return rt.cutShort()
	}
	go rt.closeWhenIdle(drop)
	return nil
}

// waitClosed waits until all runtimes that no handler refers to are closed, or ctx ends.
func waitClosed(ctx context.Context) {
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
	if err := rt.close(); err != nil {
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
	return rt.close()
}

func (rt *runtime) close() error {
	rt.cancel(errShutdown)
	<-rt.renewed
	rt.background.Wait()
	rt.tokens.Close()
	err := errors.Join(rt.state.Close(), rt.store.close(), rt.store.backend.close())
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
