package scheduler

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// turn spreads the requests that take no slot over accounts of equal priority.
var turn atomic.Uint64

// Choose names an account for a request that takes no slot and binds no
// session, as count_tokens does: one of those with the lowest priority number
// that are not out, in turns. It never waits.
//
// Errors: ErrNoAccount, *OutError.
func (s *Scheduler) Choose(d Demand) (*upstream.Account, error) {
	candidates := s.catalog.candidates(d.Group, d.Force, d.Model)
	if candidates == nil {
		return nil, fmt.Errorf("model %.100q in group %q: %w", d.Model, d.Group, ErrNoAccount)
	}
	now := time.Now()
	var best []*Place
	var soonest time.Time
	for i := range candidates.Places {
		place := &candidates.Places[i]
		if len(best) > 0 && place.Priority > best[0].Priority {
			continue
		}
		standing := s.state.Standing(place.Name)
		if use, until := standing.Usable(now, d.Model, d.Fast); use == Barred {
			if soonest.IsZero() || !until.IsZero() && until.Before(soonest) {
				soonest = until
			}
			continue
		}
		if len(best) > 0 && place.Priority < best[0].Priority {
			best = best[:0]
		}
		best = append(best, place)
	}
	if len(best) == 0 {
		return nil, &OutError{Until: soonest}
	}
	return s.catalog.byPlace[best[turn.Add(1)%uint64(len(best))].Name], nil
}
