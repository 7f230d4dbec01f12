package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
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
	// Own: the account is the session's. Last: it comes last for this request.
	// Trial: it was limited, and this request tries it.
	Own, Last, Trial bool
	// Marks of the session.
	Marks Marks
	// Waited is the time in line.
	Waited time.Duration

	id     string
	leases *Leases
	// guarded by leases.mu
	until  time.Time // nobody else can have been given the slot before
	isLost bool
	onLost []func()
}

// Release gives the slot back, the first time that it is called. It works when
// the request's context has ended, and takes at most 5 s (State.Release).
func (l *Lease) Release() { Release(l) }

// Release gives slots back in one step; nil is none. They must be of one State.
func Release(leases ...*Lease) {
	if held, of := forget(leases); of != nil {
		of.giveBack(held...)
	}
}

// ReleaseAlong gives slots back in the round trip of what along is handed to; see
// State.ReleaseAlong. done must be called after that.
func ReleaseAlong(leases ...*Lease) (along roundtrip.Batch, done func(ctx context.Context)) {
	held, of := forget(leases)
	if of == nil {
		return nil, func(context.Context) {}
	}
	return of.state.ReleaseAlong(held...)
}

// forget gives the ids of the leases that are held, which count as released.
func forget(leases []*Lease) (held []string, of *Leases) {
	for _, l := range leases {
		if l != nil && l.leases.forget(l) {
			held, of = append(held, l.id), l.leases
		}
	}
	return held, of
}

// Held reports whether the slot is certainly its holder's. After it has stood still
// for a while, a process finds that it is not before OnLost is told.
func (l *Lease) Held() bool {
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	return !l.isLost && time.Now().Before(l.until)
}

// OnLost has f called when the slot turns out to be held no longer, because it
// was not renewed in time: another request may be in flight in its place. f must
// not block; it is not called after Release.
func (l *Lease) OnLost(f func()) {
	l.leases.mu.Lock()
	lost := l.isLost
	if !lost {
		l.onLost = append(l.onLost, f)
	}
	l.leases.mu.Unlock()
	if lost {
		f()
	}
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
		until := time.Now().Add(leaseTTL)
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
		ls.extend(ids[:n], until)
		ids = ids[n:]
	}
}

func (ls *Leases) extend(ids []string, until time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, id := range ids {
		if l := ls.held[id]; l != nil {
			l.until = until
		}
	}
}

// lose tells the holders. A lease that was released meanwhile is none of them.
func (ls *Leases) lose(ids []string) {
	for _, id := range ids {
		ls.mu.Lock()
		l := ls.held[id]
		delete(ls.held, id)
		var tell []func()
		if l != nil {
			l.isLost = true
			tell = l.onLost
		}
		ls.mu.Unlock()
		if l == nil {
			continue
		}
		ls.logger.Warn("a slot was lost: it was not renewed for 60s", "lease", id)
		for _, f := range tell {
			f()
		}
	}
}

// keep keeps a lease alive that was asked for at a time.
func (ls *Leases) keep(l *Lease, id string, asked time.Time) {
	l.id, l.leases = id, ls
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l.until = asked.Add(leaseTTL)
	ls.held[id] = l
}

// forget reports whether the lease was neither released nor lost before.
func (ls *Leases) forget(l *Lease) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	_, held := ls.held[l.id]
	delete(ls.held, l.id)
	return held
}

// giveBack releases what the State may hold under the ids.
func (ls *Leases) giveBack(ids ...string) {
	if err := ls.state.Release(context.Background(), ids...); err != nil && !errors.Is(err, ErrClosed) {
		ls.logger.Error("slots could not be given back; they are free again within 60s", "leases", ids, "error", err)
	}
}
