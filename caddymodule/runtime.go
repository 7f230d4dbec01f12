package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
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

// errShutdown ends the relays that outlive the server's grace period.
var errShutdown = errors.New("the gateway is shutting down")

// runtime is what outlives a config: slots, bindings, connections and the
// ledger of one store. Handlers share it by reference count; requests in flight
// keep it from closing.
type runtime struct {
	key        string
	dir        string
	power      bool // records are synced to the disk
	state      scheduler.State
	memory     *memstate.State // what state is
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

	mu      sync.Mutex
	changed sync.Cond // active fell to 0, or dropped changed
	active  int       // requests in flight
	refuse  bool      // no new requests
	dropped bool      // no handler refers to it
	drops   int       // how often it was dropped
	closed  chan struct{}
	// gateways are the configs in force.
	gateways []*gateway

	store store
	// background is what runs from the first config's start on.
	background sync.WaitGroup
	refreshing sync.Once
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
// there is none. It opens nothing. power is the store's durability, which can't
// change while it is open.
func joinRuntime(dir string, power bool) (*runtime, error) {
	dir = realPath(dir) // two spellings of one directory are one store
	key := "embedded:" + dir
	value, _, err := runtimes.LoadOrNew(key, func() (caddy.Destructor, error) { return adoptRuntime(key, dir, power) })
	if err != nil {
		return nil, fmt.Errorf("store embedded %s: %w", dir, err)
	}
	rt := value.(*runtime)
	if rt.power != power {
		err := errors.New("billing: durability is another than that of the store as it is open now; every site of a store has the same, and Caddy must be restarted to change it")
		return nil, errors.Join(fmt.Errorf("store embedded %s: %w", dir, err), leaveRuntime(key))
	}
	return rt, nil
}

// realPath resolves the symbolic links in an absolute path, as far as it
// exists.
func realPath(path string) string {
	rest := ""
	for at := path; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return path
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

func leaveRuntime(key string) error {
	_, err := runtimes.Delete(key)
	return err
}

// adoptRuntime takes back a runtime that was dropped and has not closed yet, or
// makes a new one.
func adoptRuntime(key, dir string, power bool) (*runtime, error) {
	for {
		droppedMu.Lock()
		rt := dropped[key]
		droppedMu.Unlock()
		if rt == nil {
			break
		}
		if rt.adopt() {
			return rt, nil
		}
		<-rt.closed
	}
	memory := memstate.New()
	rt := &runtime{key: key, dir: dir, power: power, state: memory, memory: memory, closed: make(chan struct{})}
	rt.changed.L = &rt.mu
	rt.ctx, rt.cancel = context.WithCancelCause(context.Background())
	rt.leases = scheduler.NewLeases(rt.state, slog.New(&rt.logs))
	rt.tokens = rt.newTokens()
	rt.renewed = make(chan struct{})
	go func() {
		defer close(rt.renewed)
		rt.leases.Run(rt.ctx)
	}()
	return rt, nil
}

// began starts what needs the store, now that it is open.
func (rt *runtime) began(d *documents) error {
	if err := rt.keepIdentities(d); err != nil {
		return fmt.Errorf("account identities: %w", err)
	}
	// This comes last: it works once, and what fails here is tried again.
	if err := rt.memory.Keep(standingKeeper{d, slog.New(&rt.logs)}); err != nil {
		return fmt.Errorf("account states: %w", err)
	}
	return nil
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
		slog.Error("closing the store", "store", rt.dir, "error", err)
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
	err := errors.Join(rt.state.Close(), rt.store.close())
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
