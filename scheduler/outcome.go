package scheduler

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Cooldowns are how long, at most, a failure puts an account last: the first
// time for 5 s, doubling while it repeats.
type Cooldowns struct {
	RateLimit time.Duration
	Overload  time.Duration
	// ErrorRetry is when an account in error is asked again, doubling to 6 h;
	// 0 = never.
	ErrorRetry time.Duration
}

const (
	firstDemotion = 5 * time.Second
	// absentLasts is for a model that the account has not got.
	absentLasts = 10 * time.Minute
	// unreachableMost bounds the time for an account that can't be connected to.
	unreachableMost = 10 * time.Minute
	errorRetryMost  = 6 * time.Hour

	// A reset further off is a mistake of upstream's: its longest window has
	// seven days.
	maxLimit = 8 * 24 * time.Hour
	// longestLimit is that of SpendLimit, to the end of a month.
	longestLimit = 32 * 24 * time.Hour
	// What clients choose must not fill the document.
	maxDemotions = 32
	maxModelName = 256
	maxWindows   = 16
	maxReason    = 400
)

// Apply changes the account state by what an attempt came to. Limits in force are
// never shortened by a failure, answers to requests that were under way when a
// demotion began don't make it grow, and only the answer to a request that was
// sent after a mark clears it.
func (s *AccountState) Apply(o Outcome, now time.Time, c Cooldowns) {
	o.Reason = shorten(o.Reason)
	now = plainTime(now)
	s.tidy(now)
	s.setWindows(&o, now)
	s.endTrials(&o, now)
	if o.Served != "" && len(o.Served) <= maxModelName {
		s.Served = o.Served
	}
	switch o.Kind {
	case Success:
		s.succeed(&o)
	case Limited:
		s.limitClaims(&o, now, c)
		if s.Judge(now, o.Model, o.Fast, o.Endpoint).Use != Blocked { // nothing that is rejected is about the request
			s.throttle(&o, now, c)
		}
	case SpendLimit:
		year, month, _ := now.Date()
		s.limit(Limit{
			Claim: ClaimSpend, Until: time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC), Since: now, Reason: o.Reason,
		}, now)
	case Denied:
		s.demote(&o, Demotion{Model: o.Model, Endpoint: o.Endpoint, AnySpeed: true}, now, firstDemotion, c.RateLimit)
	case Throttled:
		s.throttle(&o, now, c)
	case Failed:
		s.demote(&o, Demotion{Model: o.Model, Endpoint: o.Endpoint, Fast: o.Fast}, now, firstDemotion, c.Overload)
	case Absent:
		s.demote(&o, Demotion{Model: o.Model, Endpoint: o.Endpoint, AnySpeed: true}, now, absentLasts, absentLasts)
	case Unreachable:
		s.demote(&o, Demotion{}, now, firstDemotion, unreachableMost)
	}
}

// succeed clears what the request shows to be over.
func (s *AccountState) succeed(o *Outcome) {
	s.Demotions = slices.DeleteFunc(slices.Clone(s.Demotions), func(d Demotion) bool {
		return d.Since.Before(o.Sent) && d.covers(o.Model, o.Fast, o.Endpoint)
	})
	if s.Served == "" && o.Endpoint == Messages && len(o.Model) <= maxModelName {
		s.Served = o.Model
	}
	if s.Error != "" && s.ErrorSince.Before(o.Sent) {
		s.recover()
	}
}

// endTrials drops the limits that have passed, now that upstream has answered a
// request that they were about, and those whose claim it says is allowed again.
// An answer that rejects one again makes a new limit.
func (s *AccountState) endTrials(o *Outcome, now time.Time) {
	if o.Status == 0 {
		return
	}
	s.dropLimits(func(l *Limit) bool {
		if !l.Since.Before(o.Sent) {
			return false
		}
		if !now.Before(l.Until) {
			return l.covers(o.Model, o.Fast)
		}
		return slices.ContainsFunc(o.Windows, func(w WindowReport) bool {
			return w.Name == l.Claim && (w.Status == "allowed" || w.Status == "allowed_warning")
		})
	})
}

func (s *AccountState) throttle(o *Outcome, now time.Time, c Cooldowns) {
	s.demote(o, Demotion{Model: o.Model, Endpoint: o.Endpoint, Fast: o.Fast}, now, firstDemotion, c.RateLimit)
}

// limitClaims takes the account out for what upstream rejects.
func (s *AccountState) limitClaims(o *Outcome, now time.Time, c Cooldowns) {
	for i := range o.Windows {
		w := &o.Windows[i]
		if w.Status != "rejected" || w.Overage {
			continue
		}
		until := w.Reset
		if until.IsZero() {
			until = now.Add(cmp.Or(o.RetryAfter, c.RateLimit))
		}
		s.limitClaim(w, until, o.Reason, now)
	}
}

func (s *AccountState) limitClaim(w *WindowReport, until time.Time, reason string, now time.Time) {
	if latest := now.Add(maxLimit); until.After(latest) {
		until = latest
	}
	if until.After(now) {
		s.limit(Limit{Claim: w.Name, Family: w.Family, Fast: w.Name == ClaimFast, Since: now, Until: until, Reason: reason}, now)
	}
}

// limit adds l, or lengthens the limit of the same scope.
func (s *AccountState) limit(l Limit, now time.Time) {
	l.Until = plainTime(l.Until)
	limits := slices.Clone(s.Limits)
	i := slices.IndexFunc(limits, func(old Limit) bool { return old.scope() == l.scope() })
	switch {
	case i < 0:
		limits = append(limits, l)
	case !now.Before(limits[i].Until) || l.Until.After(limits[i].Until):
		limits[i] = l
	default:
		limits[i].Since = l.Since // an older `allowed` does not end it
	}
	s.Limits = limits
}

// demote puts what d names last: for upstream's retry-after, else for the first
// time, doubling while it repeats, up to the most.
func (s *AccountState) demote(o *Outcome, d Demotion, now time.Time, first, most time.Duration) {
	if o.RetryNow || len(d.Model) > maxModelName || d.Model == "" && o.Kind != Unreachable {
		return
	}
	first = min(first, most)
	d.Since, d.Times, d.Answer, d.Reason = now, 1, o.Answer, o.Reason
	demotions := slices.Clone(s.Demotions)
	i := slices.IndexFunc(demotions, func(old Demotion) bool { return old.scope() == d.scope() })
	if i >= 0 && now.Sub(demotions[i].Until) <= most {
		if !demotions[i].Since.Before(o.Sent) {
			return
		}
		d.Times = demotions[i].Times + 1
	}
	lasts := doubled(first, d.Times, most)
	if o.RetryAfter > 0 {
		lasts = min(o.RetryAfter, most)
	}
	d.Until = now.Add(lasts)
	if i >= 0 {
		demotions[i] = d
	} else {
		demotions = append(demotions, d)
	}
	s.Demotions = demotions
	s.capDemotions()
}

// tidy drops demotions that are over by far, and limits of part of the account
// that nobody asked for for an hour: there is no crowd for a trial to hold back.
func (s *AccountState) tidy(now time.Time) {
	s.dropLimits(func(l *Limit) bool { return !l.whole() && now.Sub(l.Until) > time.Hour })
	over := func(d Demotion) bool { return now.Sub(d.Until) > unreachableMost }
	if slices.ContainsFunc(s.Demotions, over) {
		s.Demotions = slices.DeleteFunc(slices.Clone(s.Demotions), over)
	}
}

// capDemotions drops the demotion of a model that ends first when there are too
// many.
func (s *AccountState) capDemotions() {
	for len(s.Demotions) > maxDemotions {
		first := -1
		for i := range s.Demotions {
			d := &s.Demotions[i]
			if !d.everything() && (first < 0 || d.Until.Before(s.Demotions[first].Until)) {
				first = i
			}
		}
		s.Demotions = slices.Delete(s.Demotions, first, first+1)
	}
}

func (s *AccountState) dropLimits(drop func(*Limit) bool) {
	if !slices.ContainsFunc(s.Limits, func(l Limit) bool { return drop(&l) }) {
		return
	}
	var kept []Limit
	for i := range s.Limits {
		if !drop(&s.Limits[i]) {
			kept = append(kept, s.Limits[i])
		}
	}
	s.Limits = kept
}

// setWindows takes over what upstream said of its windows. One of unknown end
// that has expired starts at this hour.
func (s *AccountState) setWindows(o *Outcome, now time.Time) {
	cloned := false
	for i := range o.Windows {
		r := &o.Windows[i]
		length := windowLength(r.Name)
		if length == 0 {
			continue // no window
		}
		if !cloned {
			s.Windows, cloned = slices.Clone(s.Windows), true
		}
		at := slices.IndexFunc(s.Windows, func(w Window) bool { return w.Name == r.Name })
		if at < 0 {
			if len(s.Windows) >= maxWindows {
				continue
			}
			s.Windows = append(s.Windows, Window{Name: r.Name, Utilization: -1})
			slices.SortFunc(s.Windows, func(a, b Window) int { return strings.Compare(a.Name, b.Name) })
			at = slices.IndexFunc(s.Windows, func(w Window) bool { return w.Name == r.Name })
		}
		s.Windows[at].take(r, length, now)
		if o.Kind == Success && r.Status == "rejected" && !r.Overage {
			s.limitClaim(r, s.Windows[at].End, "the "+r.Name+" window is used up", now)
		}
	}
}

func (w *Window) take(r *WindowReport, length time.Duration, now time.Time) {
	end := w.End
	switch {
	case !r.Reset.IsZero() && r.Reset.Sub(now) < max(maxLimit, length):
		w.End = plainTime(r.Reset)
		w.Start = w.End.Add(-length)
	case !now.Before(w.End):
		w.Start = now.Truncate(time.Hour)
		w.End = w.Start.Add(length)
	}
	w.Status = r.Status
	// A hundredth more or less is not worth a write to the store.
	if d := r.Utilization - w.Utilization; d >= 0.01 || d <= -0.01 || !w.End.Equal(end) {
		w.Utilization = r.Utilization
	}
}

// MayAsk reports whether the gateway may ask the account a question of its own,
// which it does every 30 s at most, and takes note that it does.
func (s *AccountState) MayAsk(now time.Time) bool {
	if s.Pause != nil || now.Sub(s.Asked) < questionEvery && !now.Before(s.Asked) {
		return false
	}
	s.Asked = plainTime(now)
	return true
}

const questionEvery = 30 * time.Second

// Fail puts the account in error: it gave the gateway's own question the answer
// that requests got. Of an account in error already it sets when it is asked
// again. byRefresh: it was the token endpoint that refused.
func (s *AccountState) Fail(reason string, byRefresh bool, now time.Time, c Cooldowns) {
	now = plainTime(now)
	if s.Error == "" {
		s.ErrorSince, s.ErrorTimes = now, 0
	}
	s.Error, s.ByRefresh = shorten(reason), byRefresh
	s.ErrorTimes++
	s.ErrorNext = time.Time{}
	if c.ErrorRetry > 0 {
		s.ErrorNext = now.Add(doubled(c.ErrorRetry, s.ErrorTimes, max(c.ErrorRetry, errorRetryMost)))
	}
}

// Postpone sets when an account in error is asked again that gave no answer which
// says anything of it.
func (s *AccountState) Postpone(now time.Time, c Cooldowns) {
	if s.Error != "" && c.ErrorRetry > 0 {
		s.ErrorNext = plainTime(now).Add(doubled(c.ErrorRetry, max(1, s.ErrorTimes), max(c.ErrorRetry, errorRetryMost)))
	}
}

func (s *AccountState) recover() {
	s.Error, s.ErrorSince, s.ErrorNext, s.ErrorTimes, s.ByRefresh = "", time.Time{}, time.Time{}, 0, false
}

// plainTime is a time as a store keeps it: UTC, without the monotonic clock.
func plainTime(t time.Time) time.Time { return t.UTC().Round(0) }

// doubled is d for the first time and twice as much for each further one, up to
// the most.
func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	for ; times > 1 && d < most; times-- {
		d *= 2
	}
	return min(d, most)
}

// shorten cuts a reason to maxReason bytes, at a rune's border.
func shorten(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + "…"
}

// Merge adds what another process has learnt of the same account, while the two
// did not hear of each other: what keeps it out or puts it last, and whether the
// operator paused it there, or ended a pause. before is what both knew. What no
// outcome could bring about by now is left out: that process had a clock of its own.
func (s *AccountState) Merge(learnt, before *AccountState, now time.Time) {
	if !samePause(learnt.Pause, before.Pause) {
		s.Pause = learnt.Clone().Pause
	}
	if s.Credential != learnt.Credential {
		return
	}
	if s.Error == "" && learnt.Error != "" {
		s.Error, s.ErrorSince, s.ErrorNext = learnt.Error, learnt.ErrorSince, learnt.ErrorNext
		s.ErrorTimes, s.ByRefresh = learnt.ErrorTimes, learnt.ByRefresh
	}
	for _, l := range learnt.Limits {
		if now.Before(l.Until) && l.Until.Before(now.Add(longestLimit)) {
			s.limit(l, now)
		}
	}
	s.Demotions = slices.Clone(s.Demotions)
	for _, d := range learnt.Demotions {
		same := func(old Demotion) bool { return old.scope() == d.scope() }
		if now.Before(d.Until) && d.Until.Before(now.Add(maxLimit)) && !slices.ContainsFunc(s.Demotions, same) {
			s.Demotions = append(s.Demotions, d)
		}
	}
	s.capDemotions()
}
