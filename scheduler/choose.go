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
	places := candidates.Places
	now := time.Now()
	var soonest time.Time
	usable := func(p *Place) bool {
		standing := s.state.Standing(p.Name)
		use, until := standing.Usable(now, d.Model, d.Fast)
		if use == Barred && !until.IsZero() && (soonest.IsZero() || until.Before(soonest)) {
			soonest = until
		}
		return use != Barred
	}
	// From a place that moves on with every call, the first of the best.
	var best *Place
	first := turn.Add(1)
	for i := range places {
		p := &places[(first+uint64(i))%uint64(len(places))]
		if (best == nil || p.Priority < best.Priority) && usable(p) {
			best = p
		}
	}
	if best == nil {
		return nil, &OutError{Until: soonest}
	}
	return s.catalog.byPlace[best.Name], nil
}
