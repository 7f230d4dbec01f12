package memstate

import (
	"errors"
	"slices"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// set is a Candidates with its places looked up.
type set struct {
	members []member
	// index finds a place's member; nil for a set of one.
	index map[*place]int32
	pool  string
	// line holds the asks that wait for any of several places, in the order of
	// rank and arrival.
	line []*lease

	one [1]member
}

type member struct {
	place           *place
	limit, priority int
	unusedFirst     bool
}

func (s *State) resolve(c *scheduler.Candidates) (*set, error) {
	switch len(c.Places) {
	case 0:
		return nil, errors.New("acquiring slot: the set of candidates is empty")
	case 1: // users: not worth a cache
		set := &set{pool: c.Pool}
		set.one[0] = s.member(&c.Places[0])
		set.members = set.one[:]
		return set, nil
	}
	if known, ok := c.Cache.Load(s); ok {
		return known.(*set), nil
	}
	set := &set{pool: c.Pool, members: make([]member, len(c.Places)), index: make(map[*place]int32, len(c.Places))}
	for i := range c.Places {
		set.members[i] = s.member(&c.Places[i])
		set.index[set.members[i].place] = int32(i)
	}
	c.Cache.Store(s, set)
	return set, nil
}

func (s *State) member(p *scheduler.Place) member {
	return member{place: s.place(p.Name), limit: p.Limit, priority: p.Priority, unusedFirst: p.UnusedFirst}
}

// find returns the member at p, nil if there is none.
func (set *set) find(p *place) *member {
	if set.index == nil {
		if set.members[0].place == p {
			return &set.members[0]
		}
		return nil
	}
	if i, ok := set.index[p]; ok {
		return &set.members[i]
	}
	return nil
}

// judge returns what the place's state, and the ask, say of its serving it.
func (p *place) judge(ask *scheduler.Ask, now time.Time) scheduler.Verdict {
	if len(ask.Exclude) > 0 && slices.Contains(ask.Exclude, p.name) {
		return scheduler.Verdict{Use: scheduler.Blocked}
	}
	if p.clear || ask.Question {
		return scheduler.Verdict{Use: scheduler.Available}
	}
	return p.accountState.Judge(now, ask.Model, ask.Fast, ask.Endpoint)
}

// hasSlot reports whether fewer slots than there are are in use.
func (m *member) hasSlot() bool { return m.limit <= 0 || m.place.inUse < m.limit }

// free reports whether the place, being usable so, can take an ask now.
func (m *member) free(use scheduler.Use) bool {
	return m.hasSlot() && (use == scheduler.Available || m.place.probe == nil)
}

// terms are how a place is used.
type terms struct {
	use  scheduler.Use
	last bool // it comes last for the ask
}

func termsOf(v scheduler.Verdict) terms { return terms{v.Use, !v.Last.IsZero()} }

// verdict is what a look at all candidates came to.
type verdict struct {
	free   *member // the best free one
	terms  terms
	queue  *member // if none is free: the best one with room in its line
	usable bool
}

func (set *set) scan(ask *scheduler.Ask, now time.Time, at instant) verdict {
	var v verdict
	var best, spot scheduler.Spot
	for i := range set.members {
		m := &set.members[i]
		p := m.place
		if p.out > at && !ask.Question {
			continue
		}
		use, last := scheduler.Available, int64(0)
		if !p.clear || len(ask.Exclude) > 0 {
			judged := p.judge(ask, now)
			if judged.Use == scheduler.Blocked {
				continue
			}
			use, last = judged.Use, scheduler.LastOf(judged)
		}
		v.usable = true
		free := m.free(use)
		if !free && (v.free != nil || p.waiting >= ask.MaxWaiting) {
			continue
		}
		// Field by field: a literal would be built aside and copied, at twice the
		// cost of the whole loop.
		spot.Last = last
		spot.Priority, spot.Limit, spot.UnusedFirst = m.priority, m.limit, m.unusedFirst
		spot.InUse, spot.Waiting, spot.LastUsed = p.inUse, p.waiting, p.lastUsed
		switch {
		case free && (v.free == nil || scheduler.Better(&spot, &best, ask.IgnoreLoad)):
			v.free, v.terms, best = m, terms{use, last != 0}, spot
		case !free && (v.queue == nil || scheduler.Better(&spot, &best, ask.IgnoreLoad)):
			v.queue, best = m, spot
		}
	}
	return v
}

// serves reports whether any candidate is usable, and if not, when one will be.
func (set *set) serves(ask *scheduler.Ask, now time.Time) (bool, time.Time) {
	var soonest time.Time
	for i := range set.members {
		v := set.members[i].place.judge(ask, now)
		if v.Use != scheduler.Blocked {
			return true, time.Time{}
		}
		soonest = sooner(soonest, v.Until)
	}
	return false, soonest
}

// sooner is the earlier of two times, of which zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
