package redisstate

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// accountStates are those of all places, as this node knows them.
type accountStates struct {
	version int64 // of the last change that is in here
	places  map[string]*accountState
}

type accountState struct {
	accountState scheduler.AccountState
	text         string // as Redis has it; "" = it has none
	// before is the account state when the outage began that is under way, or the last
	// one.
	before scheduler.AccountState
}

func (k *accountStates) get(place string) *accountState {
	known := k.places[place]
	if known == nil {
		known = &accountState{}
		k.places[place] = known
	}
	return known
}

// set takes in an account state as Redis has it.
func (k *accountStates) set(place, text string) error {
	var st scheduler.AccountState
	if text != "" {
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			return fmt.Errorf("the state of %s in Redis can't be read: %w", place, err)
		}
	}
	known := k.get(place)
	known.accountState, known.text = st, text
	return nil
}

// take takes in the changes that a heartbeat brought, and reports whether there are
// more.
func (k *accountStates) take(s *State, changes []any, version int64) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i+1 < len(changes); i += 2 {
		if err := k.set(text(changes, i), text(changes, i+1)); err != nil {
			s.options.Logger.Error("an account's state is ignored", "error", err)
		}
	}
	k.version = version
	return len(changes) >= 1000
}

// bar is what the scripts know of an account state.
type bar struct {
	// Out: it serves nobody, until At and Text where that is known.
	Out    bool       `json:"out,omitempty"`
	At     int64      `json:"at,omitempty"`
	Text   string     `json:"text,omitempty"`
	Limits []barLimit `json:"limits"`
	Last   []barLast  `json:"last"`
}

type barLimit struct {
	Family string `json:"family,omitempty"`
	Fast   bool   `json:"fast,omitempty"`
	// At is when it passes, in milliseconds since 1970; Text the same in
	// nanoseconds.
	At   int64  `json:"at"`
	Text string `json:"text"`
}

type barLast struct {
	Model    string             `json:"model,omitempty"`
	Endpoint scheduler.Endpoint `json:"endpoint,omitempty"`
	AnySpeed bool               `json:"any,omitempty"`
	Fast     bool               `json:"fast,omitempty"`
	At       int64              `json:"at"`
}

// barOf gives the JSON of what an account state bars and puts last at a time; "" for a
// clear one.
func barOf(st *scheduler.AccountState, now time.Time) (string, error) {
	if st.Clear(now) {
		return "", nil
	}
	b := bar{Out: st.Error != "" || st.Pause != nil, Limits: []barLimit{}, Last: []barLast{}}
	if st.Pause == nil && !st.ErrorNext.IsZero() {
		b.At, b.Text = instants(st.ErrorNext)
	}
	for _, l := range st.Limits {
		at, text := instants(l.Until)
		b.Limits = append(b.Limits, barLimit{l.Family, l.Fast, at, text})
	}
	for _, d := range st.Demotions {
		if now.Before(d.Until) {
			at, _ := instants(d.Until)
			b.Last = append(b.Last, barLast{d.Model, d.Endpoint, d.AnySpeed, d.Fast, at})
		}
	}
	text, err := json.Marshal(&b)
	return string(text), err
}

// instants gives a time in milliseconds, rounded up, and in nanoseconds.
func instants(t time.Time) (int64, string) {
	ns := t.UnixNano()
	return (ns + int64(time.Millisecond) - 1) / int64(time.Millisecond), strconv.FormatInt(ns, 10)
}

// Change implements scheduler.State.
func (s *State) Change(ctx context.Context, place string, f func(*scheduler.AccountState)) (next scheduler.AccountState, err error) {
	err = s.inForce(func(local scheduler.State) error {
		if local != nil {
			s.mu.Lock()
			s.accountStates.get(place) // useRedis looks at it
			s.mu.Unlock()
			next, err = local.Change(ctx, place, f)
			return err
		}
		next, err = s.changeRedis(ctx, place, f)
		return err
	})
	return next, err
}

func (s *State) changeRedis(ctx context.Context, place string, f func(*scheduler.AccountState)) (scheduler.AccountState, error) {
	for {
		s.mu.Lock()
		known := *s.accountStates.get(place)
		s.mu.Unlock()
		next := known.accountState.Clone()
		f(&next)
		after, err := json.Marshal(&next)
		if err != nil {
			return next, fmt.Errorf("changing the state of %s: %w", place, err)
		}
		now := s.Now()
		bars, err := barOf(&next, now)
		if err != nil {
			return next, fmt.Errorf("changing the state of %s: %w", place, err)
		}
		over := next.Trials(now) < known.accountState.Trials(now)
		reply, err := s.run(ctx, changeScript, place, known.text, string(after), bars, flag(over))
		if err != nil {
			return next, err
		}
		r := list(reply)
		current := text(r, 1)
		done := integer(r, 0) == 1 || current == string(after) // done by this call, whose first answer was lost
		if done {
			current = string(after)
		}
		s.mu.Lock()
		err = s.accountStates.set(place, current)
		s.mu.Unlock()
		if done || err != nil {
			return next, err
		}
	}
}

// restoreAccountStates tells a Redis that has lost its memory what this node knows
// of accounts; where another node was faster, that stays.
func (s *State) restoreAccountStates(ctx context.Context) error {
	now := s.Now()
	s.mu.Lock()
	var args []any
	for place, known := range s.accountStates.places {
		if known.accountState.Equal(&scheduler.AccountState{}) {
			continue
		}
		text, err := json.Marshal(&known.accountState)
		bars, err2 := barOf(&known.accountState, now)
		if err == nil && err2 == nil { // texts, numbers and times of this century: neither fails
			args = append(args, place, string(text), bars)
		}
	}
	s.accountStates.version = 0
	s.mu.Unlock()
	for len(args) > 0 {
		n := min(len(args), 3*perJoin)
		if _, err := s.run(ctx, restoreScript, args[:n]...); err != nil {
			return err
		}
		args = args[n:]
	}
	return nil
}

// AccountState implements scheduler.State.
func (s *State) AccountState(place string) scheduler.AccountState {
	s.begin()
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.local != nil {
		return s.local.AccountState(place)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.accountStates.places[place]; known != nil {
		return known.accountState
	}
	return scheduler.AccountState{}
}

// Load implements scheduler.State.
func (s *State) Load(ctx context.Context, place string) (scheduler.Load, error) {
	loads, err := s.Loads(ctx, []string{place})
	if err != nil {
		return scheduler.Load{}, err
	}
	return loads[0], nil
}

// Loads implements scheduler.State.
func (s *State) Loads(ctx context.Context, places []string) (loads []scheduler.Load, err error) {
	args := make([]any, len(places))
	for i, place := range places {
		args[i] = place
	}
	err = s.inForce(func(local scheduler.State) error {
		if local != nil {
			loads, err = local.Loads(ctx, places)
			return err
		}
		reply, err := s.run(ctx, loadScript, args...)
		if err != nil {
			return err
		}
		r := list(reply)
		loads = make([]scheduler.Load, len(places))
		for i := range loads {
			loads[i].InUse, loads[i].Waiting = int(integer(r, 3*i)), int(integer(r, 3*i+1))
			if at := integer(r, 3*i+2); at > 0 {
				loads[i].LastUsed = time.UnixMilli(at / 1024) // see take in head.lua
			}
		}
		return nil
	})
	return loads, err
}

// Mark implements scheduler.State.
func (s *State) Mark(ctx context.Context, session string, marks scheduler.Marks, ttl time.Duration) error {
	return s.inForce(func(local scheduler.State) error {
		if local != nil {
			return local.Mark(ctx, session, marks, ttl)
		}
		_, err := s.run(ctx, markScript, session, uint8(marks), milliseconds(ttl))
		return err
	})
}

var _ scheduler.State = (*State)(nil)
