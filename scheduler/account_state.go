package scheduler

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// AccountState is what is remembered of an account: whether it may be used, and
// what happened lately. A small document; the zero value is an account that
// may be used. Its methods never write to memory that a copy shares.
//
// An account is out only on its own words (Limits), on the answer to the
// gateway's own question (Error), or when the operator says so (Pause). Whatever
// else goes wrong only puts it last (Demotions): no user's request can take it
// from the others.
type AccountState struct {
	// Error is why the account is in error; "" = it is not.
	Error string `json:"error,omitempty"`
	// ErrorSince is when it came into error, ErrorNext when the gateway asks it
	// again (zero = never), ErrorTimes how often it has been refused.
	ErrorSince time.Time `json:"error_since,omitzero"`
	ErrorNext  time.Time `json:"error_next,omitzero"`
	ErrorTimes int       `json:"error_times,omitempty"`
	// ByRefresh: the token endpoint refused the refresh token, so that a refresh,
	// and not a message, reports whether the error has ended.
	ByRefresh bool `json:"by_refresh,omitempty"`
	// Asked is when the gateway last asked the account a question of its own.
	Asked time.Time `json:"asked,omitzero"`
	// Served is a model that the account has answered for; "" = none is known.
	Served string `json:"served,omitempty"`

	// Credential is the fingerprint of the account's credential in the config
	// that started last; "" = not known. All but a pause is about that one.
	Credential string `json:"credential,omitempty"`
	// Pause is the operator's word that the account gets no new requests; nil =
	// there is none.
	Pause *Pause `json:"pause,omitempty"`
	// Limits keep (part of) the account out, each until its time has passed, and
	// after that on trial: one request at a time until upstream has answered one.
	Limits []Limit `json:"limits,omitempty"`
	// Demotions put (part of) the account last.
	Demotions []Demotion `json:"demotions,omitempty"`
	// Windows are what upstream last said of its windows, by name.
	Windows []Window `json:"windows,omitempty"`
}

// Pause is by whom and when an account was paused.
type Pause struct {
	By string    `json:"by,omitempty"`
	At time.Time `json:"at"`
}

// Limit keeps an account, or what it narrows it to, out for some time.
type Limit struct {
	// Claim is what upstream rejects: the name of a window (Window.Name), or one
	// of ClaimUnified, ClaimFast and ClaimSpend.
	Claim string `json:"claim"`
	// Family and Fast narrow the limit to models with Family in their name, and to
	// fast-mode requests. Both unset: the whole account.
	Family string    `json:"family,omitempty"`
	Fast   bool      `json:"fast,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty"`
}

// The claims that are no windows.
const (
	ClaimUnified = "unified" // upstream did not say which window it is
	ClaimFast    = "fast"    // fast mode's own limit
	ClaimSpend   = "spend"   // a spend limit, until the month's end
)

// Endpoint is what of an account's API a request asks.
type Endpoint string

// The endpoints.
const (
	Messages    Endpoint = "" // POST /v1/messages
	CountTokens Endpoint = "count_tokens"
)

// Demotion puts an account last for what it names.
type Demotion struct {
	// Model, Endpoint and, unless AnySpeed, Fast are what it is about. Without a
	// Model it is about everything, sessions of the account included: no
	// connection could be made.
	Model    string    `json:"model,omitempty"`
	Endpoint Endpoint  `json:"endpoint,omitempty"`
	AnySpeed bool      `json:"any_speed,omitempty"`
	Fast     bool      `json:"fast,omitempty"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	// Times is how often in a row it was found; each doubles the time.
	Times int `json:"times"`
	// Answer is what upstream answered, as Outcome.Answer.
	Answer string `json:"answer,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Window is one of an account's windows, as upstream last told.
type Window struct {
	// Name is upstream's own: 5h, 7d, 7d_opus, …
	Name  string    `json:"name"`
	Start time.Time `json:"start,omitzero"` // zero = not known
	End   time.Time `json:"end,omitzero"`
	// Status is "allowed", "allowed_warning" or "rejected".
	Status string `json:"status"`
	// Utilization is the spent fraction, exact to 1 %; negative = not said.
	Utilization float64 `json:"utilization"`
}

// Use says whether an account may serve a request.
type Use uint8

const (
	// Blocked: not now.
	Blocked Use = iota
	// Trial: if no other trial is under way at the account (see Trials).
	Trial
	// Available: yes.
	Available
)

// Verdict is what an AccountState says to a request.
type Verdict struct {
	Use Use
	// Until is, of a blocked one, until when; zero = until someone acts.
	Until time.Time
	// Last: the account comes after all others until then; zero = it does not.
	Last time.Time
	// Everyone: it comes last for its own sessions too.
	Everyone bool
}

// Judge returns whether the account may serve a request for a model, in fast
// mode or not.
func (s *AccountState) Judge(now time.Time, model string, fast bool, endpoint Endpoint) Verdict {
	switch {
	case s.Pause != nil:
		return Verdict{Use: Blocked}
	case s.Error != "":
		return Verdict{Use: Blocked, Until: s.ErrorNext}
	}
	v := Verdict{Use: Available}
	for i := range s.Limits {
		l := &s.Limits[i]
		switch {
		case !l.covers(model, fast):
		case now.Before(l.Until):
			v.Use = Blocked
			if l.Until.After(v.Until) {
				v.Until = l.Until
			}
		case v.Use == Available:
			v.Use = Trial
		}
	}
	for i := range s.Demotions {
		d := &s.Demotions[i]
		if now.Before(d.Until) && d.covers(model, fast, endpoint) {
			if d.Until.After(v.Last) {
				v.Last = d.Until
			}
			v.Everyone = v.Everyone || d.everything()
		}
	}
	return v
}

// Clear reports whether Judge says Available, and not last, to every request.
func (s *AccountState) Clear(now time.Time) bool {
	return s.Error == "" && s.Pause == nil && len(s.Limits) == 0 &&
		!slices.ContainsFunc(s.Demotions, func(d Demotion) bool { return now.Before(d.Until) })
}

// NextChange is the soonest time after now at which Judge changes by itself;
// zero = never.
func (s *AccountState) NextChange(now time.Time) time.Time {
	var next time.Time
	consider := func(until time.Time) {
		if now.Before(until) && (next.IsZero() || until.Before(next)) {
			next = until
		}
	}
	for i := range s.Limits {
		consider(s.Limits[i].Until)
	}
	for i := range s.Demotions {
		consider(s.Demotions[i].Until)
	}
	return next
}

// TrialLasts is how long a trial keeps others from trying: upstream's header
// ends it sooner.
const TrialLasts = 10 * time.Second

// Trials counts the limits that have passed, since which upstream has answered
// no request. When a change makes them fewer, a trial is over: the request that
// is on trial no longer keeps others away.
func (s *AccountState) Trials(now time.Time) int {
	n := 0
	for i := range s.Limits {
		if !now.Before(s.Limits[i].Until) {
			n++
		}
	}
	return n
}

// Reset puts the account back into a good state, as the operator demands. A
// pause, the credential, and what is known of the windows, stay.
func (s *AccountState) Reset() {
	*s = AccountState{Pause: s.Pause, Credential: s.Credential, Windows: s.Windows, Served: s.Served}
}

// Adopt takes note of the credential that the config has now. What was known of
// another one is forgotten, but for a pause.
func (s *AccountState) Adopt(fingerprint string) {
	if s.Credential != "" && s.Credential != fingerprint {
		*s = AccountState{Pause: s.Pause}
	}
	s.Credential = fingerprint
}

// Clone returns a copy that shares nothing with s.
func (s *AccountState) Clone() AccountState {
	c := *s
	c.Limits = slices.Clone(s.Limits)
	c.Demotions = slices.Clone(s.Demotions)
	c.Windows = slices.Clone(s.Windows)
	if s.Pause != nil {
		pause := *s.Pause
		c.Pause = &pause
	}
	return c
}

// Equal reports whether nothing differs.
func (s *AccountState) Equal(t *AccountState) bool {
	return s.Error == t.Error && s.ErrorSince.Equal(t.ErrorSince) && s.ErrorNext.Equal(t.ErrorNext) &&
		s.ErrorTimes == t.ErrorTimes && s.ByRefresh == t.ByRefresh && s.Asked.Equal(t.Asked) && s.Served == t.Served &&
		s.Credential == t.Credential && samePause(s.Pause, t.Pause) && sameLimits(s, t) &&
		slices.EqualFunc(s.Demotions, t.Demotions, Demotion.equal) && slices.EqualFunc(s.Windows, t.Windows, Window.equal)
}

func samePause(a, b *Pause) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.By == b.By && a.At.Equal(b.At)
}

func sameLimits(s, t *AccountState) bool {
	return slices.EqualFunc(s.Limits, t.Limits, func(a, b Limit) bool {
		return a.scope() == b.scope() && a.Reason == b.Reason && a.Until.Equal(b.Until) && a.Since.Equal(b.Since)
	})
}

func (d Demotion) equal(e Demotion) bool {
	return d.scope() == e.scope() && d.Since.Equal(e.Since) && d.Until.Equal(e.Until) &&
		d.Times == e.Times && d.Answer == e.Answer && d.Reason == e.Reason
}

func (w Window) equal(v Window) bool {
	return w.Name == v.Name && w.Start.Equal(v.Start) && w.End.Equal(v.End) && w.Status == v.Status && w.Utilization == v.Utilization
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
// fast mode are out is active, and Marks names them.
func (s *AccountState) Summary(now time.Time) (word string, until time.Time, why string) {
	switch {
	case s.Pause != nil:
		why = "paused at " + stamp(s.Pause.At)
		if s.Pause.By != "" {
			why = "paused by " + s.Pause.By + " at " + stamp(s.Pause.At)
		}
		return StateDisabled, time.Time{}, why
	case s.Error != "":
		return StateError, time.Time{}, s.Error
	}
	word = StateActive
	for i := range s.Limits {
		if l := &s.Limits[i]; l.whole() && now.Before(l.Until) && l.Until.After(until) {
			word, until, why = StateRateLimited, l.Until, l.Reason
		}
	}
	if word == StateActive {
		for i := range s.Demotions {
			if d := &s.Demotions[i]; d.everything() && now.Before(d.Until) {
				word, until, why = StateOverloaded, d.Until, d.Reason
			}
		}
	}
	return word, until, why
}

// Mark is part of an account that is out or comes last, for the operator.
type Mark struct {
	// Scope names the part: "opus (out)", "claude-x, count_tokens (last)".
	Scope  string
	Reason string
	Until  time.Time
}

// Marks lists what is out or comes last now, what ends last first.
func (s *AccountState) Marks(now time.Time) (marks []Mark) {
	for i := range s.Limits {
		if l := &s.Limits[i]; now.Before(l.Until) {
			marks = append(marks, Mark{l.describe(), l.Reason, l.Until})
		}
	}
	for i := range s.Demotions {
		if d := &s.Demotions[i]; now.Before(d.Until) {
			marks = append(marks, Mark{d.describe(), d.Reason, d.Until})
		}
	}
	slices.SortStableFunc(marks, func(a, b Mark) int { return b.Until.Compare(a.Until) })
	return marks
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (l *Limit) whole() bool { return l.Family == "" && !l.Fast }

func (l *Limit) covers(model string, fast bool) bool {
	return (!l.Fast || fast) && (l.Family == "" || strings.Contains(model, l.Family))
}

func (l *Limit) describe() string {
	what := cmp.Or(l.Family, "account")
	if l.Fast {
		what = strings.TrimSpace(l.Family + " fast mode")
	}
	return what + " out (" + l.Claim + ")"
}

type limitScope struct {
	claim, family string
	fast          bool
}

func (l *Limit) scope() limitScope { return limitScope{l.Claim, l.Family, l.Fast} }

func (d *Demotion) everything() bool { return d.Model == "" }

func (d *Demotion) covers(model string, fast bool, endpoint Endpoint) bool {
	return d.everything() || d.Model == model && d.Endpoint == endpoint && (d.AnySpeed || d.Fast == fast)
}

func (d *Demotion) describe() string {
	if d.everything() {
		return "account last"
	}
	what := d.Model
	if d.Endpoint != Messages {
		what += " " + string(d.Endpoint)
	}
	if d.Fast && !d.AnySpeed {
		what += " fast mode"
	}
	return what + " last"
}

type demotionScope struct {
	model    string
	endpoint Endpoint
	anySpeed bool
	fast     bool
}

func (d *Demotion) scope() demotionScope {
	return demotionScope{d.Model, d.Endpoint, d.AnySpeed, d.Fast && !d.AnySpeed}
}
