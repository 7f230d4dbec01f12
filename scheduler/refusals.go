package scheduler

import (
	"sync"
	"time"
)

// Others says what other accounts there are for a request that failed at one.
type Others struct {
	// Same is how many accounts are known to give the same answer for the
	// request's model, speed and endpoint since somebody last got one there.
	Same int
	// Fresh: there is an account that has not failed for this request and does not
	// come last.
	Fresh bool
}

// Others looks at the accounts that may serve the demand, but for those it
// excludes; answer is what the one that failed last answered (Outcome.Answer).
func (s *Scheduler) Others(d Demand, answer string) (found Others) {
	candidates := s.catalog.candidates(d.Group, d.Force, d.Model)
	if candidates == nil {
		return found
	}
	now := s.state.Now()
	since := s.successes.last(d.Model, d.Fast, d.Endpoint)
	excluded := make(map[string]bool, len(d.Exclude))
	for _, name := range d.Exclude {
		excluded[AccountPlace(name)] = true
	}
	for i := range candidates.Places {
		name := candidates.Places[i].Name
		accountState := s.state.AccountState(name)
		if v := accountState.Judge(now, d.Model, d.Fast, d.Endpoint); v.Use != Blocked && v.Last.IsZero() && !excluded[name] {
			found.Fresh = true
		}
		if accountState.answered(answer, &d, since, now) {
			found.Same++
		}
	}
	return found
}

// answered reports whether the account comes last for that answer to such a
// request, given after a time.
func (s *AccountState) answered(answer string, d *Demand, since, now time.Time) bool {
	for i := range s.Demotions {
		m := &s.Demotions[i]
		if m.Answer == answer && m.Since.After(since) && now.Before(m.Until) && m.covers(d.Model, d.Fast, d.Endpoint) {
			return true
		}
	}
	return false
}

// successes remembers when this process last saw an answer for a model, speed
// and endpoint. The zero value is empty.
type successes struct {
	mu    sync.RWMutex
	times map[demotionScope]time.Time
}

const (
	// Models are the clients' words, so what is remembered of them is bounded.
	maxSuccesses = 1024
	// successGrain is how old a time may be before it is worth a write.
	successGrain = 100 * time.Millisecond
)

func (ss *successes) add(model string, fast bool, endpoint Endpoint, now time.Time) {
	if now.Sub(ss.last(model, fast, endpoint)) < successGrain || len(model) > maxModelName {
		return
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.times == nil || len(ss.times) >= maxSuccesses {
		ss.times = map[demotionScope]time.Time{}
	}
	ss.times[demotionScope{model: model, endpoint: endpoint, fast: fast}] = now
}

func (ss *successes) last(model string, fast bool, endpoint Endpoint) time.Time {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	return ss.times[demotionScope{model: model, endpoint: endpoint, fast: fast}]
}
