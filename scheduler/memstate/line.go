package memstate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// wait is what a lease in line waits for.
type wait struct {
	ask scheduler.Ask
	set *set
	// only is the one place that is waited for; nil = any of the set's.
	only *member
	// sticky: it is the place of the ask's session.
	sticky        bool
	pool          *pool
	rank, arrival int64
	awaited       bool

	// done is closed when answer and err are set, and the ask has left the line.
	done   chan struct{}
	over   bool
	answer scheduler.Answer
	err    error
}

// pool is where users take turns. It exists while somebody waits in it.
type pool struct {
	name    string
	waiting int
	served  int64 // the highest rank served
	users   map[string]*queuer
}

type queuer struct {
	last    int64 // the rank of the last ask
	waiting int
}

func (l *lease) inLine() bool { return l.wait != nil && !l.wait.over }

func (w *wait) end(answer scheduler.Answer, err error) {
	w.over, w.answer, w.err = true, answer, err
	close(w.done)
}

func (w *wait) turn() scheduler.Turn {
	return scheduler.Turn{Ahead: w.rank - w.pool.served, Arrival: w.arrival}
}

// queue puts an ask in line, counted as waiting at m and, if it is sticky,
// waiting for m alone.
func (s *State) queue(ask *scheduler.Ask, set *set, m *member, sticky bool, now time.Time) scheduler.Answer {
	w := &wait{ask: *ask, set: set, sticky: sticky, done: make(chan struct{})}
	w.ask.Exclude = slices.Clone(ask.Exclude)
	if sticky || len(set.members) == 1 {
		w.only = m
	}
	s.join(w)
	l := &lease{id: ask.Lease, place: m.place, wait: w}
	s.leases[l.id] = l
	m.place.waiting++
	if w.only != nil {
		m.place.line = append(m.place.line, l)
	} else {
		if len(set.line) == 0 {
			s.active = append(s.active, set)
		}
		i, _ := slices.BinarySearchFunc(set.line, w, compareRank)
		set.line = slices.Insert(set.line, i, l)
	}
	at := s.instant(now)
	s.alarms.set(&l.alarm, l, at+instant(ask.TTL), at)
	answer := scheduler.Answer{Kind: scheduler.Queued}
	if sticky {
		answer.Place, answer.Sticky = m.place.name, true
	}
	return answer
}

// compareRank orders the asks of one pool.
func compareRank(l *lease, w *wait) int {
	return cmp.Or(cmp.Compare(l.wait.rank, w.rank), cmp.Compare(l.wait.arrival, w.arrival))
}

// join gives the ask its rank in its pool.
func (s *State) join(w *wait) {
	p := s.pools[w.set.pool]
	if p == nil {
		p = &pool{name: w.set.pool, users: map[string]*queuer{}}
		s.pools[p.name] = p
	}
	u := p.users[w.ask.User]
	if u == nil {
		u = &queuer{last: -1}
		p.users[w.ask.User] = u
	}
	u.last = scheduler.NextRank(p.served, u.last)
	u.waiting++
	p.waiting++
	s.arrivals++
	w.pool, w.rank, w.arrival = p, u.last, s.arrivals
}

// leave takes an ask out of line, because it is served or not.
func (s *State) leave(l *lease, served bool) {
	w := l.wait
	l.place.waiting--
	if w.only != nil {
		p := w.only.place
		p.line = slices.DeleteFunc(p.line, func(other *lease) bool { return other == l })
	} else {
		set := w.set
		if i, ok := slices.BinarySearchFunc(set.line, w, compareRank); ok {
			set.line = slices.Delete(set.line, i, i+1)
		}
		if len(set.line) == 0 {
			i := slices.Index(s.active, set)
			s.active = slices.Delete(s.active, i, i+1)
		}
	}
	p := w.pool
	u := p.users[w.ask.User]
	u.waiting--
	// Asks that were never served are not held against the user.
	if !served && w.rank == u.last {
		u.last--
	}
	if u.waiting == 0 && u.last < p.served {
		delete(p.users, w.ask.User)
	}
	if p.waiting--; p.waiting == 0 {
		delete(s.pools, p.name)
	}
}

// serve hands the place's free slots to the asks in line.
func (s *State) serve(p *place) {
	if len(p.line) == 0 && len(s.active) == 0 {
		return
	}
	now := s.now()
	for {
		l, m, v := s.next(p, now)
		if l == nil {
			return
		}
		w := l.wait
		w.pool.served = max(w.pool.served, w.rank)
		s.leave(l, true)
		answer := s.grant(l, &w.ask, m, termsOf(v), now)
		answer.Own = w.sticky
		w.end(answer, nil)
	}
}

// next finds the first ask in line that the place can take now.
func (s *State) next(p *place, now time.Time) (first *lease, m *member, v scheduler.Verdict) {
	for _, l := range p.line {
		if first != nil && !l.wait.turn().Before(first.wait.turn()) {
			continue
		}
		if u := p.judge(&l.wait.ask, now); u.Use != scheduler.Blocked && l.wait.only.free(u.Use) {
			first, m, v = l, l.wait.only, u
		}
	}
	for _, set := range s.active {
		at := set.find(p)
		if at == nil || !at.hasSlot() {
			continue
		}
		for _, l := range set.line {
			if first != nil && !l.wait.turn().Before(first.wait.turn()) {
				break
			}
			if u := p.judge(&l.wait.ask, now); u.Use != scheduler.Blocked && at.free(u.Use) {
				first, m, v = l, at, u
				break
			}
		}
	}
	return first, m, v
}

// expel answers Out to the asks that the place's state has left without a
// usable candidate.
func (s *State) expel(p *place, now time.Time) {
	if p.clear {
		return
	}
	for _, l := range slices.Clone(p.line) {
		if v := p.judge(&l.wait.ask, now); v.Use == scheduler.Blocked {
			s.out(l, v.Until)
		}
	}
	for _, set := range slices.Clone(s.active) {
		if set.find(p) == nil {
			continue
		}
		var like *scheduler.Ask // an ask that is served still
		for _, l := range slices.Clone(set.line) {
			ask := &l.wait.ask
			if like != nil && len(ask.Exclude) == 0 && ask.Model == like.Model && ask.Fast == like.Fast && !ask.Question {
				continue
			}
			if ok, until := set.serves(ask, now); !ok {
				s.out(l, until)
			} else {
				like = ask
			}
		}
	}
}

// out answers Out. Until it is awaited, or expires, the lease stays for Await to
// find.
func (s *State) out(l *lease, until time.Time) {
	s.leave(l, false)
	l.place = nil
	if l.wait.awaited {
		s.drop(l, nil)
	}
	l.wait.end(scheduler.Answer{Kind: scheduler.Out, Until: until}, nil)
}

// Await implements scheduler.State.
func (s *State) Await(ctx context.Context, id string) (scheduler.Answer, error) {
	s.mu.Lock()
	l := s.leases[id]
	if l == nil || l.wait == nil {
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return scheduler.Answer{}, scheduler.ErrClosed
		}
		return scheduler.Answer{}, fmt.Errorf("awaiting slot: lease %q is not in line", id)
	}
	w := l.wait
	w.awaited = true
	s.mu.Unlock()

	select {
	case <-w.done:
		return w.answer, w.err
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.leases[id] == l {
			s.drop(l, context.Cause(ctx))
		}
		return scheduler.Answer{}, context.Cause(ctx)
	}
}
