// Package redisstate keeps the scheduler's State in Redis, for many nodes.
//
// Every method is one script, and one round trip. A release hands the slot to
// the line inside Redis, and a message wakes the node whose ask it serves.
// Twice a second each node says that it is alive, and hears what it may have
// missed. Its word counts for the slots that it holds: what Redis loses, by a
// restart or a failover, its nodes bring back.
//
// While Redis is out of reach a node serves on by itself, where it has a
// fallback: with its share of the slots, and what it knows of accounts and
// sessions.
package redisstate

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// Options of a State.
type Options struct {
	// Namespace begins every key, in braces: all keys lie in one slot of a
	// Cluster. Default: sub2api.
	Namespace string
	// Node names this process; no two that share the store have the same.
	// Default: a random name.
	Node string
	// Timeout is how long a command may take before Redis counts as out of reach.
	// Default: 1s.
	Timeout time.Duration
	// Fallback makes the State that serves while Redis is out of reach. nil:
	// nothing does, and calls fail with scheduler.ErrUnavailable.
	Fallback func() scheduler.State
	// Logger is told when Redis goes and comes. Default: slog.Default().
	Logger *slog.Logger
}

const (
	defaultNamespace = "sub2api"
	defaultTimeout   = time.Second
	// releaseTimeout bounds Release and unlock, as State demands.
	releaseTimeout = 5 * time.Second
	// beatEvery is how often a node looks after its affairs: two commands a
	// second, whatever the number of those who wait.
	beatEvery = 500 * time.Millisecond
)

// State implements scheduler.State. Make one with New.
type State struct {
	client  redis.UniversalClient
	options Options
	prefix  string // of all keys
	keys    []string
	skew    atomic.Int64 // milliseconds that clocks are ahead, in tests

	// gate is held for reading by calls to the State in force, Redis or local,
	// and for writing to change which one that is.
	gate  sync.RWMutex
	local scheduler.State // nil: Redis is in force
	epoch int             // grows when another State is in force

	joining sync.Mutex // held to tell Redis what this node holds; the gate comes first

	mu     sync.Mutex
	closed bool
	// down: Redis did not answer the last time, and there is no fallback.
	down bool
	// joined: the store knew this node once. suspect: it may have lost something
	// since.
	joined, suspect bool
	beat            string // the last one, as Redis gave it
	nodes           int    // that are alive, this one included
	held            map[string]*holding
	waiters         map[string]*waiter
	early           map[string]earlyAnswer
	owed            map[string]struct{} // released while Redis was out of reach
	unlocked        map[string]chan struct{}
	defined         map[string]time.Time // when Redis was told of a set
	// shares are the candidates as the fallback in force knows them.
	shares    map[*scheduler.Candidates]*scheduler.Candidates
	standings standings
	sessions  sessions

	reluctance string // why Redis last did not take this node back; of live alone

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	kick   chan struct{} // holds one: beat now
	loops  sync.WaitGroup
}

// holding is a slot that this node holds.
type holding struct {
	place string
	until time.Time // nobody else can have been given the slot before
}

// New returns a State over a Redis that need not answer yet. It must be closed;
// the client is the caller's.
func New(client redis.UniversalClient, options Options) *State {
	if options.Namespace == "" {
		options.Namespace = defaultNamespace
	}
	if options.Node == "" {
		options.Node = uuid.NewString()
	}
	if options.Timeout <= 0 {
		options.Timeout = defaultTimeout
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	prefix := "{" + options.Namespace + "}:"
	s := &State{
		client: client, options: options, prefix: prefix, keys: []string{prefix},
		nodes:     1,
		held:      map[string]*holding{},
		waiters:   map[string]*waiter{},
		early:     map[string]earlyAnswer{},
		owed:      map[string]struct{}{},
		unlocked:  map[string]chan struct{}{},
		defined:   map[string]time.Time{},
		standings: standings{places: map[string]*standing{}},
		kick:      make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.loops.Go(s.listen)
	s.loops.Go(s.live)
	return s
}

// now is the time by which leases are held.
func (s *State) now() time.Time {
	return time.Now().Add(time.Duration(s.skew.Load()) * time.Millisecond)
}

// Close implements scheduler.State.
func (s *State) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	known := s.joined && !s.down
	s.mu.Unlock()
	if !first {
		return nil
	}
	s.cancel()
	s.loops.Wait()
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.local != nil {
		return s.local.Close()
	}
	if known { // so that the others' shares are right at once
		ctx, cancel := context.WithTimeout(context.Background(), s.options.Timeout)
		defer cancel()
		s.client.ZRem(ctx, s.prefix+"nodes", s.options.Node)
	}
	return nil
}

func (s *State) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// outage is why a command did not reach Redis, or its answer did not come back.
type outage struct {
	err error
	// still: it took longer than it may, so this process stood still, and Redis
	// may be well.
	still bool
}

func (o *outage) Error() string { return o.err.Error() }
func (o *outage) Unwrap() error { return o.err }

// inForce calls f with the State in force: nil for Redis. When Redis turns out
// to be out of reach, f is called again with the fallback, if there is one; when
// this process stood still, once more with Redis, so that it does not give away
// a share of the slots which all others believe to be shared.
func (s *State) inForce(f func(local scheduler.State) error) error {
	for again := false; ; {
		if s.isClosed() {
			return scheduler.ErrClosed
		}
		s.gate.RLock()
		err := f(s.local)
		s.gate.RUnlock()
		var out *outage
		switch {
		case !errors.As(err, &out):
			return err
		case out.still && !again:
			again = true
		case !s.fail(out.err):
			return errors.Join(scheduler.ErrUnavailable, out.err)
		}
	}
}
