package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

const (
	// leaseTTL is how long a slot outlives its holder's death.
	leaseTTL = time.Minute
	// renewEvery leaves two tries before a lease ends.
	renewEvery   = 20 * time.Second
	renewBatch   = 500
	renewTimeout = 5 * time.Second
)

// Lease is a slot held. Release it in a defer.
type Lease struct {
	// Account whose slot it is; nil for a user's.
	Account *upstream.Account
	// Moved: the session was with another account before.
	Moved bool
	// Marks of the session.
	Marks Marks
	// Waited is the time in line.
	Waited time.Duration

	id     string
	leases *Leases
	// guarded by leases.mu
	isLost bool
	lost   chan struct{}
}

// Release gives the slot back, the first time that it is called. It works when
// the request's context has ended, and takes at most 5 s (State.Release).
func (l *Lease) Release() {
	if l.leases.forget(l) {
		l.leases.giveBack(l.id)
	}
}

// Lost returns a channel that is closed when the slot turns out to be held no
// longer, because it could not be renewed in time: another request may be in
// flight in its place.
func (l *Lease) Lost() <-chan struct{} {
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	if l.lost == nil {
		l.lost = make(chan struct{})
		if l.isLost {
			close(l.lost)
		}
	}
	return l.lost
}

// Leases are the slots that this process holds in a State. There is one for
// each State, shared by the Schedulers over it; its owner runs Run.
type Leases struct {
	state  State
	logger *slog.Logger

	mu   sync.Mutex
	held map[string]*Lease
}

// NewLeases returns the Leases of a State.
func NewLeases(state State, logger *slog.Logger) *Leases {
	return &Leases{state: state, logger: logger, held: map[string]*Lease{}}
}

// Run renews the leases every 20 s until ctx ends. It must run for as long as
// leases are held; without it slots are free again after 60 s.
func (ls *Leases) Run(ctx context.Context) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			ls.renew(ctx)
		}
	}
}

func (ls *Leases) renew(ctx context.Context) {
	ls.mu.Lock()
	ids := make([]string, 0, len(ls.held))
	for id := range ls.held {
		ids = append(ids, id)
	}
	ls.mu.Unlock()
	for len(ids) > 0 {
		n := min(len(ids), renewBatch)
		bounded, cancel := context.WithTimeout(ctx, renewTimeout)
		lost, err := ls.state.Renew(bounded, ids[:n], leaseTTL)
		cancel()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, ErrClosed) {
				ls.logger.Error("slots could not be renewed; they are free again after 60s, whoever uses them",
					"slots", len(ids), "error", err)
			}
			return
		}
		ls.lose(lost)
		ids = ids[n:]
	}
}

// lose tells the holders. A lease that was released meanwhile is none of them.
func (ls *Leases) lose(ids []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, id := range ids {
		l := ls.held[id]
		if l == nil {
			continue
		}
		delete(ls.held, id)
		l.isLost = true
		if l.lost != nil {
			close(l.lost)
		}
		ls.logger.Warn("a slot was lost: it was not renewed for 60s", "lease", id)
	}
}

func (ls *Leases) keep(l *Lease, id string) {
	l.id, l.leases = id, ls
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.held[id] = l
}

// forget tells whether the lease was neither released nor lost before.
func (ls *Leases) forget(l *Lease) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	_, held := ls.held[l.id]
	delete(ls.held, l.id)
	return held
}

// giveBack releases what the State may hold under the id.
func (ls *Leases) giveBack(id string) {
	if err := ls.state.Release(context.Background(), id); err != nil && !errors.Is(err, ErrClosed) {
		ls.logger.Error("a slot could not be given back; it is free again within 60s", "lease", id, "error", err)
	}
}
