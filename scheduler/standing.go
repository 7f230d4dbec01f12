package scheduler

import (
	"slices"
	"strings"
	"time"
)

// Standing is what is remembered of an account: whether it may be used, and
// what happened lately. A small document; the zero value is an account in good
// standing. Its methods never write to memory that a copy shares.
type Standing struct {
	// Error is why the account is in error; "" = it is not.
	Error string `json:"error,omitempty"`
	// Credential is the fingerprint of the account's credential in the config
	// that started last; "" = not known. An error is one of that credential.
	Credential string `json:"credential,omitempty"`
	// Paused by the operator.
	Paused bool `json:"paused,omitempty"`
	// Limits keep (part of) the account out, each until its time has passed, and
	// after that on trial: one request at a time until one succeeds.
	Limits []Limit `json:"limits,omitempty"`
	// Forbidden counts 403s in a row.
	Forbidden int `json:"forbidden,omitempty"`
	// Faults are the times of the server faults in a row within the last 60 s.
	Faults []time.Time `json:"faults,omitempty"`
	// Overloads counts 529s since the last success, Trips how often the faults
	// took the account out since then.
	Overloads int `json:"overloads,omitempty"`
	Trips     int `json:"trips,omitempty"`
	// Window is the five-hour window.
	Window Window `json:"window,omitzero"`
}

// Limit keeps an account, or what it narrows it to, out for some time.
type Limit struct {
	Kind LimitKind `json:"kind"`
	// Model, Family and Fast narrow the limit to one model, to models with
	// Family in their name, to fast-mode requests. All unset: the whole account.
	Model  string    `json:"model,omitempty"`
	Family string    `json:"family,omitempty"`
	Fast   bool      `json:"fast,omitempty"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty"`
}

// LimitKind tells why there is a limit.
type LimitKind string

// The kinds of limit. To the operator bursts and spend limits are rate limits,
// and faults an overload.
const (
	LimitRate      LimitKind = "rate_limited" // a spent window; one that is allowed again ends it
	LimitBurst     LimitKind = "burst"
	LimitSpend     LimitKind = "spend_limit"
	LimitOverload  LimitKind = "overloaded"
	LimitFaults    LimitKind = "faults" // any success ends it
	LimitForbidden LimitKind = "forbidden"
)

// Window is an account's five-hour window, as upstream last told.
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Status is "allowed", "allowed_warning" or "rejected".
	Status string `json:"status"`
	// Utilization is the spent fraction, exact to 1 %; negative = not said.
	Utilization float64 `json:"utilization"`
}

// Use tells whether an account may serve a request.
type Use uint8

const (
	// Barred: not now.
	Barred Use = iota
	// Probe: if no other probe is in flight at the account (see Trials).
	Probe
	// Open: yes.
	Open
)

// Usable tells whether the account may serve a request for a model, in fast
// mode or not, and if it is barred, until when: zero = until someone acts.
func (s *Standing) Usable(now time.Time, model string, fast bool) (Use, time.Time) {
	if s.Error != "" || s.Paused {
		return Barred, time.Time{}
	}
	use := Open
	var until time.Time
	for i := range s.Limits {
		l := &s.Limits[i]
		if !l.covers(model, fast) {
			continue
		}
		if now.Before(l.Until) {
			use = Barred
			if l.Until.After(until) {
				until = l.Until
			}
		} else if use == Open {
			use = Probe
		}
	}
	return use, until
}

// Clear tells whether Usable is Open for every request.
func (s *Standing) Clear() bool {
	return s.Error == "" && !s.Paused && len(s.Limits) == 0
}

// NextChange is the soonest time after now at which Usable changes by itself;
// zero = never.
func (s *Standing) NextChange(now time.Time) time.Time {
	var next time.Time
	for i := range s.Limits {
		if until := s.Limits[i].Until; now.Before(until) && (next.IsZero() || until.Before(next)) {
			next = until
		}
	}
	return next
}

// Trials counts the limits that have passed, of which no request has succeeded
// since. When a change makes them fewer, a trial is over: the probe in flight no
// longer keeps others from probing.
func (s *Standing) Trials(now time.Time) int {
	n := 0
	for i := range s.Limits {
		if !now.Before(s.Limits[i].Until) {
			n++
		}
	}
	return n
}

// Reset puts the account back into good standing, as the operator demands. A
// pause, the credential, and what is known of the window, stay.
func (s *Standing) Reset() {
	*s = Standing{Paused: s.Paused, Credential: s.Credential, Window: s.Window}
}

// Adopt takes note of the credential that the config has now. An error, and the
// strikes towards one, don't outlive the credential that they were about.
func (s *Standing) Adopt(fingerprint string) {
	if s.Credential != fingerprint {
		s.Credential, s.Error, s.Forbidden = fingerprint, "", 0
	}
}

// Clone returns a copy that shares nothing with s.
func (s *Standing) Clone() Standing {
	c := *s
	c.Limits = slices.Clone(s.Limits)
	c.Faults = slices.Clone(s.Faults)
	return c
}

// Equal tells whether nothing differs.
func (s *Standing) Equal(t *Standing) bool {
	return s.Error == t.Error && s.Credential == t.Credential && s.Paused == t.Paused && s.Forbidden == t.Forbidden &&
		s.Overloads == t.Overloads && s.Trips == t.Trips && s.Window.equal(&t.Window) &&
		sameLimits(s, t) && slices.EqualFunc(s.Faults, t.Faults, time.Time.Equal)
}

func sameLimits(s, t *Standing) bool {
	return slices.EqualFunc(s.Limits, t.Limits, func(a, b Limit) bool {
		return a.scope() == b.scope() && a.Reason == b.Reason && a.Until.Equal(b.Until)
	})
}

func (w *Window) equal(v *Window) bool {
	return w.Start.Equal(v.Start) && w.End.Equal(v.End) && w.Status == v.Status && w.Utilization == v.Utilization
}

// The words for an account's state, as the operator sees them. A disabled
// account is one that the config disables, or that is paused.
const (
	StateActive      = "active"
	StateRateLimited = "rate_limited"
	StateOverloaded  = "overloaded"
	StateError       = "error"
	StateDisabled    = "disabled"
)

// State says how the account stands as a whole: a word, until when (zero = until
// someone acts, or active), and why. An account of which only some models or
// fast mode are out is active, and why names them.
func (s *Standing) State(now time.Time) (word string, until time.Time, why string) {
	if s.Paused {
		return StateDisabled, time.Time{}, "paused by the operator"
	}
	if s.Error != "" {
		return StateError, time.Time{}, s.Error
	}
	word = StateActive
	var parts []string
	for i := range s.Limits {
		l := &s.Limits[i]
		switch {
		case !now.Before(l.Until):
		case !l.whole():
			parts = append(parts, l.describe())
		case l.Until.After(until):
			word, until, why = l.Kind.state(), l.Until, l.Reason
		}
	}
	if word == StateActive {
		why = strings.Join(parts, "; ")
	}
	return word, until, why
}

func (k LimitKind) state() string {
	switch k {
	case LimitOverload, LimitFaults:
		return StateOverloaded
	}
	return StateRateLimited
}

func (l *Limit) whole() bool { return l.Model == "" && l.Family == "" && !l.Fast }

func (l *Limit) covers(model string, fast bool) bool {
	return (!l.Fast || fast) && (l.Model == "" || l.Model == model) &&
		(l.Family == "" || strings.Contains(model, l.Family))
}

// describe names what is out and until when: "opus rate_limited until …".
func (l *Limit) describe() string {
	what := l.Model + l.Family
	if l.Fast {
		what = strings.TrimSpace(what + " fast mode")
	}
	text := what + " " + string(l.Kind) + " until " + l.Until.UTC().Format(time.RFC3339)
	if l.Reason != "" {
		text += ": " + l.Reason
	}
	return text
}

type limitScope struct {
	kind          LimitKind
	model, family string
	fast          bool
}

func (l *Limit) scope() limitScope { return limitScope{l.Kind, l.Model, l.Family, l.Fast} }
