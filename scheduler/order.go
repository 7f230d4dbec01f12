package scheduler

import "cmp"

// Spot is what the order of accounts looks at.
type Spot struct {
	// Last is until when the account comes last, on any scale; 0 = it does not.
	Last int64
	// Priority: lower is tried first.
	Priority int
	// InUse and Waiting over Limit are the load. A Limit of 0 is no limit, and
	// load 0.
	InUse, Waiting, Limit int
	// LastUsed grows with every slot granted, on any scale; 0 = never used. A
	// State gives no two grants the same one.
	LastUsed int64
	// UnusedFirst goes before others where both were never used.
	UnusedFirst bool
}

// Better reports whether a is to be tried before b: those that don't come last,
// and of those that do, the one that is back first; then lower priority, then
// lower load (unless ignoreLoad), then less recently used, never used first.
// False for equals, so that the first of a list stays first.
func Better(a, b *Spot, ignoreLoad bool) bool {
	if a.Last != b.Last {
		return a.Last < b.Last
	}
	if a.Priority != b.Priority {
		return a.Priority < b.Priority
	}
	if !ignoreLoad {
		if c := compareLoad(a, b); c != 0 {
			return c < 0
		}
	}
	if a.LastUsed != b.LastUsed {
		return a.LastUsed < b.LastUsed
	}
	return a.LastUsed == 0 && a.UnusedFirst && !b.UnusedFirst
}

// compareLoad compares (in use + waiting) / limit without dividing.
func compareLoad(a, b *Spot) int {
	aBusy, aLimit := a.load()
	bBusy, bLimit := b.load()
	return cmp.Compare(aBusy*bLimit, bBusy*aLimit)
}

func (s *Spot) load() (busy, limit int64) {
	if s.Limit <= 0 {
		return 0, 1
	}
	return int64(s.InUse) + int64(s.Waiting), int64(s.Limit)
}

// Turn is a waiting ask's position in line; lower goes first.
//
// Users take turns (start-time fair queueing): an ask's rank is NextRank of its
// pool's and its user's last ones, so that a user's hundredth ask comes after
// everybody else's first. Asks of different pools that wait for the same place
// compare by how far each is ahead of its own pool; equals go in order of
// arrival.
type Turn struct {
	// Ahead is the ask's rank less the highest rank that its pool has served.
	Ahead int64
	// Arrival numbers all asks that ever waited.
	Arrival int64
}

// Before reports whether t goes first.
func (t Turn) Before(u Turn) bool {
	if t.Ahead != u.Ahead {
		return t.Ahead < u.Ahead
	}
	return t.Arrival < u.Arrival
}

// NextRank is the rank of an ask that starts to wait: served is the highest
// rank that its pool has served, last the rank of the same user's ask before it
// in the pool, -1 for none.
func NextRank(served, last int64) int64 { return max(served, last+1) }
