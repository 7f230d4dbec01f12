// Package redisstate keeps the scheduler's State in Redis, for many nodes.
//
// Every method is one script, and one round trip. A release hands the slot to
// the line inside Redis, and a message wakes the node whose ask it serves.
// Twice a second each node says that it is alive, and hears what it may have
// missed. Its word counts for the slots that it holds: what Redis loses, by a
// restart or a failover, its nodes bring back.
//
// While Redis is down, as its link says, a node serves on by itself, where it has
// a fallback: with its share of the slots, and what it knows of accounts and
// sessions.
package redisstate

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
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
	// Fallback makes the State that serves while Redis is down, by a clock that goes
	// on as Redis's did. nil: nothing does, and calls fail with
	// scheduler.ErrUnavailable.
	Fallback func(now func() time.Time) scheduler.State
	// Logger is told what Redis has lost and refuses. Default: slog.Default().
	Logger *slog.Logger
}

const (
	defaultNamespace = "sub2api"
	// releaseTimeout bounds Release and unlock, as State demands.
	releaseTimeout = 5 * time.Second
	// heartbeatEvery is how often a node looks after its affairs: two commands a
	// second, whatever the number of those who wait.
	heartbeatEvery = 500 * time.Millisecond
)

// State implements scheduler.State. Make one with New.
type State struct {
	link    *redislink.Link
	options Options
	start   time.Time
	prefix  string // of all keys
	keys    []string
	skew    atomic.Int64 // milliseconds that clocks are ahead, in tests

	// gate is held for reading by calls to the State in force, Redis or local,
	// and for writing to change which one that is.
	gate  sync.RWMutex
	local scheduler.State // nil: Redis is in force
	epoch int             // grows when another State is in force

	joining sync.Mutex // held to tell Redis what this node holds; the gate comes first
	joins   atomic.Int64

	mu     sync.Mutex
	closed bool
	// over is the outage after which Redis was put in force again, though the link
	// says it still: others of its members have yet to do the same.
	over error
	// joined: the store knew this node once. suspect: it may have lost something
	// since.
	joined, suspect bool
	denied          bool      // it was logged that Redis does not let this node listen
	heartbeat       string    // the last one, as Redis gave it
	origin          time.Time // Redis's time at start
	nodes           int       // that are alive, this one included
	held            map[string]*holding
	waiters         map[string]*waiter
	early           map[string]earlyAnswer
	unreleased      map[string]struct{} // released while Redis was out of reach
	released        []release           // in the last rememberedFor: Redis may lose that it was told
	unlocked        map[string]chan struct{}
	defined         map[string]time.Time // when Redis was told of a set
	// shares are the candidates as the fallback in force knows them.
	shares        map[*scheduler.Candidates]*scheduler.Candidates
	accountStates accountStates
	sessions      sessions

	trouble string // what Redis said of the last heartbeat; of live alone

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	kick   chan struct{} // holds one: beat now
	once   sync.Once     // starts the loops
	begun  atomic.Bool
	loops  sync.WaitGroup
}

// holding is a slot that this node holds.
type holding struct {
	place string
	until time.Time // nobody else can have been given the slot before
}

// release is of a lease.
type release struct {
	lease string
	at    time.Time
}

// New returns a State over a Redis that need not answer yet, and that is not spoken
// to before the State is used. It must be closed; the link is the caller's.
func New(link *redislink.Link, options Options) *State {
	if options.Namespace == "" {
		options.Namespace = defaultNamespace
	}
	if options.Node == "" {
		options.Node = uuid.NewString()
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	prefix := "{" + options.Namespace + "}:"
	s := &State{
		link: link, options: options, start: time.Now(), prefix: prefix, keys: []string{prefix},
		nodes:         1,
		held:          map[string]*holding{},
		waiters:       map[string]*waiter{},
		early:         map[string]earlyAnswer{},
		unreleased:    map[string]struct{}{},
		unlocked:      map[string]chan struct{}{},
		defined:       map[string]time.Time{},
		accountStates: accountStates{places: map[string]*accountState{}},
		kick:          make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	link.Join(s)
	return s
}

// begin starts what the State does by itself, with its first use.
func (s *State) begin() {
	s.once.Do(func() {
		s.begun.Store(true)
		s.loops.Go(s.listen)
		s.loops.Go(s.live)
	})
}

// now is the time by which leases are held.
func (s *State) now() time.Time {
	return time.Now().Add(time.Duration(s.skew.Load()) * time.Millisecond)
}

// Now implements scheduler.State: Redis's time, as of the last beats and by this
// process's monotonic clock since. A wall clock that is wrong, or is set, would bar
// accounts for too long or too short a time for all nodes.
func (s *State) Now() time.Time { return s.clock()() }

// clock is Now, as far as Redis's time is known now.
func (s *State) clock() func() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if origin := s.origin; !origin.IsZero() {
		return func() time.Time { return origin.Add(s.now().Sub(s.start)) }
	}
	return s.now
}

// hearTime takes in the time of an answer that was just here, in milliseconds. The
// answer that was fastest is the closest, unless Redis's clock was set. s.mu is held.
func (s *State) hearTime(milliseconds string) {
	s.heartbeat = milliseconds
	n, err := strconv.ParseInt(milliseconds, 10, 64)
	if err != nil {
		return
	}
	origin := time.UnixMilli(n).UTC().Add(-s.now().Sub(s.start))
	if late := s.origin.Sub(origin); late <= 0 || late > time.Second {
		s.origin = origin
	}
}

// Close implements scheduler.State.
func (s *State) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	known := s.joined
	s.mu.Unlock()
	if !first {
		return nil
	}
	s.once.Do(func() {}) // it begins no more
	s.link.Leave(s)
	s.cancel()
	s.loops.Wait()
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.local != nil {
		return s.local.Close()
	}
	if known && s.out() == nil { // so that the others' shares are right at once
		ctx := context.Background()
		_ = s.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) {
			pipe.ZRem(ctx, s.prefix+"nodes", s.options.Node)
		})
	}
	return nil
}

func (s *State) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
