// Package memstate keeps the scheduler's State in the memory of one process.
//
// One mutex guards everything. Acquire looks at each candidate once; freed slots
// are handed to waiting asks by whoever frees them; what happens by itself
// (leases and bindings that expire, limits that pass) hangs on one timer.
package memstate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// State implements scheduler.State. Make one with New.
type State struct {
	mu       sync.Mutex
	closed   bool
	now      func() time.Time
	start    time.Time
	places   map[string]*place
	leases   map[string]*lease
	sessions map[string]*session
	pools    map[string]*pool
	locks    map[string]*lock
	keeping  *keeping // nil = account states are not kept
	// active are the sets of several places that have asks in line.
	active      []*set
	arrivals    int64
	lastGrant   int64
	maxSessions int
	alarms      alarms
}

// New returns an empty State.
func New() *State { return NewAt(time.Now) }

// NewAt returns an empty State whose time is now's, which goes as fast as the
// system's and makes no jumps.
func NewAt(now func() time.Time) *State {
	s := &State{
		now:      now,
		start:    now(),
		places:   map[string]*place{},
		leases:   map[string]*lease{},
		sessions: map[string]*session{},
		pools:    map[string]*pool{},
		locks:    map[string]*lock{},

		maxSessions: maxSessions,
	}
	s.alarms.wake = s.wake
	return s
}

// instant is nanoseconds since the State began, by the monotonic clock.
type instant int64

func (s *State) instant(now time.Time) instant { return instant(now.Sub(s.start)) }

// place is an account or a user. What a look at thousands of them reads fits
// into one cache line; the rest is further off.
type place struct {
	name           string
	inUse, waiting int
	lastUsed       int64
	// clear: the account state bars nobody, and puts the place last for nobody.
	clear bool
	// out is until when the account state bars everybody; 0 = it does not.
	out instant
	// probe is the lease on trial; nil = none.
	probe *lease
	*back
}

type back struct {
	accountState scheduler.AccountState
	// line holds the asks that wait for this place alone, in no set order.
	line []*lease
	// alarm rings when the account state changes by itself, and trial when a trial no
	// longer keeps others away.
	alarm alarm
	trial trial
}

// lease is a slot, or a place in line.
type lease struct {
	id string
	// place is where the slot is, or where the ask counts as waiting; nil once it
	// has left the line without a slot.
	place   *place
	expires instant
	alarm   alarm
	// wait is nil unless the ask was queued.
	wait *wait
}

// Acquire implements scheduler.State.
func (s *State) Acquire(ctx context.Context, ask *scheduler.Ask) (scheduler.Answer, error) {
	if ctx.Err() != nil {
		return scheduler.Answer{}, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return scheduler.Answer{}, scheduler.ErrClosed
	}
	if _, ok := s.leases[ask.Lease]; ok {
		return scheduler.Answer{}, fmt.Errorf("acquiring slot: lease %q is in use already", ask.Lease)
	}
	set, err := s.resolve(ask.Candidates)
	if err != nil {
		return scheduler.Answer{}, err
	}
	now := s.now()
	if m := s.bound(ask, set, now); m != nil && !ask.Unstick {
		v := m.place.judge(ask, now)
		switch {
		case v.Use == scheduler.Blocked, v.Everyone:
		case m.free(v.Use):
			answer := s.grantNew(ask, m, termsOf(v), now)
			answer.Own = true
			return answer, nil
		case m.place.waiting < ask.StickyMaxWaiting:
			return s.queue(ask, set, m, true, now), nil
		}
	}
	v := set.scan(ask, now, s.instant(now))
	switch {
	case v.free != nil:
		return s.grantNew(ask, v.free, v.terms, now), nil
	case v.queue != nil:
		return s.queue(ask, set, v.queue, false, now), nil
	case v.usable:
		return scheduler.Answer{Kind: scheduler.Full}, nil
	}
	_, until := set.serves(ask, now)
	return scheduler.Answer{Kind: scheduler.Out, Until: until}, nil
}

func (s *State) grantNew(ask *scheduler.Ask, m *member, as terms, now time.Time) scheduler.Answer {
	l := &lease{id: ask.Lease}
	s.leases[l.id] = l
	return s.grant(l, ask, m, as, now)
}

// grant gives the lease a slot at m and binds the ask's session to it.
func (s *State) grant(l *lease, ask *scheduler.Ask, m *member, as terms, now time.Time) scheduler.Answer {
	p, at := m.place, s.instant(now)
	s.lastGrant = max(s.lastGrant+1, int64(at)+1)
	p.lastUsed = s.lastGrant
	p.inUse++
	l.place = p
	if as.use == scheduler.Trial {
		p.probe = l
		p.trial.place = p
		s.alarms.set(&p.trial.alarm, &p.trial, at+instant(scheduler.TrialLasts), at)
	}
	l.expires = at + instant(ask.TTL)
	s.alarms.set(&l.alarm, l, l.expires, at)
	answer := scheduler.Answer{
		Kind: scheduler.Granted, Place: p.name, Last: as.last, Trial: as.use == scheduler.Trial,
	}
	if ask.Session != "" {
		answer.Moved, answer.Marks = s.bind(ask.Session, p, ask.BindTTL, at)
		if ask.Memory != "" {
			answer.Marks = s.remembered(ask.Memory, ask.BindTTL, at)
		}
	}
	return answer
}

// Release implements scheduler.State.
func (s *State) Release(_ context.Context, ids ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l := s.leases[id]; l != nil {
			s.drop(l, errReleased)
		}
	}
	return nil
}

// ReleaseAlong implements scheduler.State. There is no round trip to save.
func (s *State) ReleaseAlong(ids ...string) (roundtrip.Batch, func(context.Context)) {
	return nil, func(ctx context.Context) { _ = s.Release(ctx, ids...) } // it never fails
}

// drop ends a lease: its slot goes to the line, and if it was in line itself,
// whoever awaits it gets err.
func (s *State) drop(l *lease, err error) {
	delete(s.leases, l.id)
	s.alarms.unset(&l.alarm)
	switch p := l.place; {
	case p == nil:
	case l.inLine():
		s.leave(l, false)
		l.wait.end(scheduler.Answer{}, err)
	default:
		p.inUse--
		if p.probe == l {
			p.probe = nil
		}
		s.serve(p)
	}
}

// ring is called when a lease may have expired.
func (l *lease) ring(s *State, now instant) {
	switch {
	case l.inLine() && l.wait.awaited:
		s.alarms.set(&l.alarm, l, now+instant(l.wait.ask.TTL), now)
	case !l.inLine() && l.expires > now:
		s.alarms.set(&l.alarm, l, l.expires, now)
	default:
		s.drop(l, errExpired)
	}
}

var (
	errReleased = errors.New("the place in line was given up")
	errExpired  = errors.New("the place in line expired")
)

// Renew implements scheduler.State.
func (s *State) Renew(_ context.Context, ids []string, ttl time.Duration) (lost []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, scheduler.ErrClosed
	}
	now := s.instant(s.now())
	for _, id := range ids {
		l := s.leases[id]
		if l == nil {
			lost = append(lost, id)
			continue
		}
		// The alarm stays, unless it would ring too late: it looks at expires.
		l.expires = now + instant(ttl)
		if l.expires < l.alarm.at {
			s.alarms.set(&l.alarm, l, l.expires, now)
		}
	}
	return lost, nil
}

// Change implements scheduler.State.
func (s *State) Change(_ context.Context, name string, f func(*scheduler.AccountState)) (scheduler.AccountState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return scheduler.AccountState{}, scheduler.ErrClosed
	}
	p := s.place(name)
	accountState := p.accountState.Clone()
	f(&accountState)
	if s.keeping != nil && !accountState.Equal(&p.accountState) {
		s.keeping.markDirty(p)
	}
	s.setAccountState(p, accountState, s.now())
	return accountState, nil
}

func (s *State) setAccountState(p *place, accountState scheduler.AccountState, now time.Time) {
	if accountState.Trials(now) < p.accountState.Trials(now) {
		p.probe = nil
	}
	p.accountState, p.clear, p.out = accountState, accountState.Clear(now), s.outUntil(&accountState, now)
	p.schedule(s, now)
	s.expel(p, now)
	s.serve(p)
}

// outUntil is until when an account state bars every request but the gateway's own
// questions; 0 = it does not.
func (s *State) outUntil(accountState *scheduler.AccountState, now time.Time) instant {
	if accountState.Error != "" || accountState.Pause != nil {
		return math.MaxInt64
	}
	v := accountState.Judge(now, "", false, scheduler.Messages)
	if v.Use != scheduler.Blocked {
		return 0
	}
	return s.instant(now) + instant(v.Until.Sub(now))
}

// schedule sets the alarm for the next time at which the account state lets more
// asks through by itself.
func (p *place) schedule(s *State, now time.Time) {
	next := p.accountState.NextChange(now)
	if next.IsZero() {
		s.alarms.unset(&p.alarm)
		return
	}
	at := s.instant(now)
	s.alarms.set(&p.alarm, p, at+instant(next.Sub(now)), at)
}

func (p *place) ring(s *State, _ instant) {
	now := s.now()
	p.clear = p.accountState.Clear(now)
	p.schedule(s, now)
	s.serve(p)
}

// trial is the time for which the place's probe keeps others away.
type trial struct {
	place *place
	alarm alarm
}

func (t *trial) ring(s *State, _ instant) {
	t.place.probe = nil
	s.serve(t.place)
}

// AccountState implements scheduler.State.
func (s *State) AccountState(name string) scheduler.AccountState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.places[name]; p != nil {
		return p.accountState
	}
	return scheduler.AccountState{}
}

// Now implements scheduler.State.
func (s *State) Now() time.Time { return s.now() }

// Load implements scheduler.State.
func (s *State) Load(_ context.Context, name string) (scheduler.Load, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load(name), nil
}

// Loads implements scheduler.State.
func (s *State) Loads(_ context.Context, names []string) ([]scheduler.Load, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	loads := make([]scheduler.Load, len(names))
	for i, name := range names {
		loads[i] = s.load(name)
	}
	return loads, nil
}

func (s *State) load(name string) scheduler.Load {
	p := s.places[name]
	if p == nil {
		return scheduler.Load{}
	}
	load := scheduler.Load{InUse: p.inUse, Waiting: p.waiting}
	if p.lastUsed > 0 {
		load.LastUsed = s.start.Add(time.Duration(p.lastUsed - 1))
	}
	return load
}

// Close implements scheduler.State.
func (s *State) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.shut()
	k := s.keeping
	s.mu.Unlock()
	if first && k != nil {
		k.close()
	}
	return nil
}

func (s *State) shut() {
	s.closed = true
	s.alarms.stop()
	for _, l := range s.leases {
		if l.inLine() {
			l.wait.end(scheduler.Answer{}, scheduler.ErrClosed)
		}
	}
	clear(s.leases)
	for _, l := range s.locks {
		l.ring(s, 0)
	}
	s.active = slices.Delete(s.active, 0, len(s.active))
}

func (s *State) place(name string) *place {
	p := s.places[name]
	if p == nil {
		p = &place{name: name, clear: true, back: &back{}}
		s.places[name] = p
	}
	return p
}

var _ scheduler.State = (*State)(nil)
