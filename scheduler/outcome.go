package scheduler

import (
	"slices"
	"strings"
	"time"
)

// Cooldowns are how long accounts stay out where upstream does not say.
type Cooldowns struct {
	RateLimit time.Duration
	// Overload doubles on repeats, up to 10 min.
	Overload time.Duration
}

const (
	maxOverload = 10 * time.Minute

	// faultsToTrip server faults in a row within faultSpan take an account out
	// for firstTrip, doubling up to maxOverload.
	faultsToTrip = 5
	faultSpan    = time.Minute
	firstTrip    = 30 * time.Second

	forbiddenToError = 3
	windowLength     = 5 * time.Hour

	// A reset further off than a month is a mistake of upstream's.
	maxLimit = 31 * 24 * time.Hour
	// What clients choose must not fill the document.
	maxNarrowLimits = 32
	maxModelName    = 256
	maxReason       = 400
)

// Apply changes the standing by what an attempt came to. Limits in force are
// never shortened by a failure, and answers to requests that were under way
// when a limit began don't make it grow.
func (s *Standing) Apply(o Outcome, now time.Time, c Cooldowns) {
	o.Reason = shorten(o.Reason)
	now = now.UTC().Round(0) // without the monotonic clock, which a store can't keep
	s.tidy(now)
	switch o.Kind {
	case Success:
		s.succeed(&o, now)
	case Unauthorized:
		s.fail("credential refused", o.Reason)
	case CreditGone:
		s.fail("credit used up or organisation on hold", o.Reason)
	case Forbidden:
		if s.Forbidden++; s.Forbidden >= forbiddenToError {
			s.fail("forbidden three times in a row", o.Reason)
		} else if len(o.Model) <= maxModelName {
			s.limit(Limit{Kind: LimitForbidden, Model: o.Model, Until: now.Add(c.RateLimit), Reason: o.Reason}, now)
		}
	case RateLimited:
		s.limit(Limit{Kind: LimitRate, Family: o.Family, Fast: o.Fast, Until: resetOf(&o, now, c), Reason: o.Reason}, now)
		if o.Window != nil {
			s.setWindow(o.Window, o.Reset, now)
		}
	case Burst:
		o.Reset = time.Time{}
		s.limit(Limit{Kind: LimitBurst, Family: o.Family, Fast: o.Fast, Until: resetOf(&o, now, c), Reason: o.Reason}, now)
	case SpendLimit:
		year, month, _ := now.UTC().Date()
		s.limit(Limit{Kind: LimitSpend, Until: time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC), Reason: o.Reason}, now)
	case Overloaded:
		if !s.inForce(LimitOverload, now) {
			s.Overloads++
			s.limit(Limit{Kind: LimitOverload, Until: now.Add(doubled(c.Overload, s.Overloads)), Reason: o.Reason}, now)
		}
	case ServerFault:
		s.serverFault(&o, now)
	}
}

func (s *Standing) succeed(o *Outcome, now time.Time) {
	s.Forbidden, s.Faults, s.Trips = 0, nil, 0
	allowed := o.Window != nil && o.Window.Status == "allowed"
	s.dropLimits(func(l *Limit) bool {
		if !l.covers(o.Model, o.Fast) {
			return false
		}
		return !now.Before(l.Until) || l.Kind == LimitFaults || l.Kind == LimitRate && allowed
	})
	if !s.inForce(LimitOverload, now) {
		s.Overloads = 0
	}
	if o.Window == nil {
		return
	}
	s.setWindow(o.Window, time.Time{}, now)
	if o.Window.Status == "rejected" && !o.Window.Overage && now.Before(s.Window.End) {
		s.limit(Limit{Kind: LimitRate, Until: s.Window.End, Reason: "the five-hour window is used up"}, now)
	}
}

func (s *Standing) serverFault(o *Outcome, now time.Time) {
	if s.inForce(LimitFaults, now) {
		return
	}
	s.Faults = slices.DeleteFunc(slices.Clone(s.Faults), func(t time.Time) bool { return now.Sub(t) > faultSpan })
	s.Faults = append(s.Faults, now)
	onTrial := slices.ContainsFunc(s.Limits, func(l Limit) bool { return l.Kind == LimitFaults })
	if len(s.Faults) < faultsToTrip && !onTrial {
		return
	}
	s.Faults = nil
	s.Trips++
	s.limit(Limit{Kind: LimitFaults, Until: now.Add(doubled(firstTrip, s.Trips)), Reason: o.Reason}, now)
}

// fail puts the account in error; the first reason stays.
func (s *Standing) fail(what, reason string) {
	if s.Error != "" {
		return
	}
	s.Error = what
	if reason != "" {
		s.Error += ": " + reason
	}
}

// limit adds l, or lengthens the limit of the same scope.
func (s *Standing) limit(l Limit, now time.Time) {
	l.Until = l.Until.UTC()
	limits := slices.Clone(s.Limits)
	i := slices.IndexFunc(limits, func(old Limit) bool { return old.scope() == l.scope() })
	switch {
	case i < 0:
		limits = append(limits, l)
	case !now.Before(limits[i].Until) || l.Until.After(limits[i].Until):
		limits[i] = l
	}
	s.Limits = limits
	s.capNarrow()
}

// tidy drops narrow limits that are over by far: nobody asked for that for an
// hour, so there is no crowd for a trial to hold back.
func (s *Standing) tidy(now time.Time) {
	s.dropLimits(func(l *Limit) bool { return !l.whole() && now.Sub(l.Until) > time.Hour })
}

// capNarrow drops the narrow limit that ends first when there are too many.
func (s *Standing) capNarrow() {
	narrow, first := 0, -1
	for i := range s.Limits {
		if s.Limits[i].whole() {
			continue
		}
		narrow++
		if first < 0 || s.Limits[i].Until.Before(s.Limits[first].Until) {
			first = i
		}
	}
	if narrow > maxNarrowLimits {
		s.Limits = slices.Delete(s.Limits, first, first+1)
	}
}

func (s *Standing) dropLimits(drop func(*Limit) bool) {
	var kept []Limit
	for i := range s.Limits {
		if !drop(&s.Limits[i]) {
			kept = append(kept, s.Limits[i])
		}
	}
	s.Limits = kept
}

func (s *Standing) inForce(kind LimitKind, now time.Time) bool {
	return slices.ContainsFunc(s.Limits, func(l Limit) bool { return l.Kind == kind && now.Before(l.Until) })
}

// setWindow takes over what upstream said. A window of unknown end that has
// expired starts at this hour. claimed is the end that a 429 claimed, if the
// report names none.
func (s *Standing) setWindow(r *WindowReport, claimed, now time.Time) {
	end := r.Reset
	if end.IsZero() {
		end = claimed
	}
	w := s.Window
	switch {
	case !end.IsZero() && end.Sub(now) < maxLimit:
		w.End = end.UTC()
		w.Start = w.End.Add(-windowLength)
	case !now.Before(w.End):
		w.Start = now.UTC().Truncate(time.Hour)
		w.End = w.Start.Add(windowLength)
	}
	w.Status = r.Status
	// A hundredth more or less is not worth a write to the store.
	if d := r.Utilization - w.Utilization; d >= 0.01 || d <= -0.01 || !w.End.Equal(s.Window.End) {
		w.Utilization = r.Utilization
	}
	s.Window = w
}

// resetOf is when a rate limit ends: as upstream says, as its retry-after says,
// or after the cooldown.
func resetOf(o *Outcome, now time.Time, c Cooldowns) time.Time {
	for _, t := range []time.Time{o.Reset, now.Add(o.RetryAfter)} {
		if t.After(now) {
			if latest := now.Add(maxLimit); t.After(latest) {
				return latest
			}
			return t
		}
	}
	return now.Add(c.RateLimit)
}

// doubled is d for the first time and twice as much for each further one, up to
// maxOverload (or d, if that is more).
func doubled(d time.Duration, times int) time.Duration {
	limit := max(d, maxOverload)
	for ; times > 1 && d < limit; times-- {
		d *= 2
	}
	return min(d, limit)
}

// shorten cuts a reason to maxReason bytes, at a rune's border.
func shorten(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + "…"
}
