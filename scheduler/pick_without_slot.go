package scheduler

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// roundRobin spreads the requests that take no slot over accounts of equal priority.
var roundRobin atomic.Uint64

// PickWithoutSlot names an account for a request that takes no slot and binds no
// session, as count_tokens does: of those that are not out and don't come last,
// one of those with the lowest priority number, in turns; else of those that come
// last the one that is back first. It never waits.
//
// Errors: ErrNoAccount, *OutError.
func (s *Scheduler) PickWithoutSlot(d Demand) (*upstream.Account, error) {
	candidates := s.catalog.candidates(d.Group, d.Force, d.Model)
	if candidates == nil {
		return nil, fmt.Errorf("model %.100q in group %q: %w", d.Model, d.Group, ErrNoAccount)
	}
	places := candidates.Places
	now := time.Now()
	var soonest time.Time
	var best, spot Spot
	var chosen *Place
	// From a place that moves on with every call, the first of the best.
	first := roundRobin.Add(1)
	for i := range places {
		p := &places[(first+uint64(i))%uint64(len(places))]
		accountState := s.state.AccountState(p.Name)
		v := accountState.Judge(now, d.Model, d.Fast, d.Endpoint)
		if v.Use == Blocked {
			if !v.Until.IsZero() && (soonest.IsZero() || v.Until.Before(soonest)) {
				soonest = v.Until
			}
			continue
		}
		spot = Spot{Last: LastOf(v), Priority: p.Priority}
		if chosen == nil || Better(&spot, &best, true) {
			chosen, best = p, spot
		}
	}
	if chosen == nil {
		return nil, &OutError{Until: soonest}
	}
	return s.catalog.byPlace[chosen.Name], nil
}

// LastOf is Spot.Last for what an AccountState says.
func LastOf(v Verdict) int64 {
	if v.Last.IsZero() {
		return 0
	}
	return v.Last.UnixNano()
}
