package memstate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
)

// drawer is a Keeper. It takes its time.
type drawer struct {
	mu     sync.Mutex
	kept   map[string]scheduler.AccountState
	saves  int
	saving bool
	slow   time.Duration
	err    error
	t      *testing.T
}

func (d *drawer) Load() (map[string]scheduler.AccountState, error) { return d.kept, d.err }

func (d *drawer) Save(place string, accountState scheduler.AccountState) {
	d.mu.Lock()
	if d.saving {
		d.t.Error("Save is called concurrently")
	}
	d.saving = true
	d.mu.Unlock()
	time.Sleep(d.slow)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept[place] = accountState
	d.saves++
	d.saving = false
}

func change(t *testing.T, s *memstate.State, place string, f func(*scheduler.AccountState)) {
	t.Helper()
	if _, err := s.Change(context.Background(), place, f); err != nil {
		t.Fatal(err)
	}
}

func TestAccountStatesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(time.Hour).UTC()
		limited := scheduler.AccountState{Limits: []scheduler.Limit{{Claim: "5h", Until: until}}}
		d := &drawer{t: t, slow: time.Second, kept: map[string]scheduler.AccountState{
			"account/a": {Error: "401"}, "account/b": {Error: "old"}, "account/c": limited,
		}}
		s := memstate.New()
		// Changed before the store was open: newer than what that has.
		change(t, s, "account/b", func(st *scheduler.AccountState) { st.Error = "new" })
		if err := s.Keep(d); err != nil {
			t.Fatal(err)
		}
		for place, want := range map[string]scheduler.AccountState{"account/a": {Error: "401"}, "account/b": {Error: "new"}, "account/c": limited} {
			if diff := cmp.Diff(want, s.AccountState(place)); diff != "" {
				t.Errorf("%s: %s", place, diff)
			}
		}
		// What was loaded is in force.
		ask := &scheduler.Ask{Lease: "l", TTL: time.Minute, Candidates: &scheduler.Candidates{Places: []scheduler.Place{{Name: "account/a"}, {Name: "account/c"}}}}
		if got, err := s.Acquire(t.Context(), ask); err != nil || got.Kind != scheduler.Out || !got.Until.Equal(until) {
			t.Errorf("got %+v, %v; want out until %v", got, err, until)
		}
		for i := range 100 {
			change(t, s, "account/a", func(st *scheduler.AccountState) { st.Error = fmt.Sprint(i) })
		}
		change(t, s, "account/c", func(*scheduler.AccountState) {}) // changes nothing
		time.Sleep(time.Minute)
		synctest.Wait()
		d.mu.Lock()
		if d.kept["account/a"].Error != "99" || d.kept["account/b"].Error != "new" || d.saves > 4 {
			t.Errorf("after %d saves: %+v", d.saves, d.kept)
		}
		d.mu.Unlock()
		change(t, s, "account/a", func(st *scheduler.AccountState) { st.Error = "last" })
		s.Close()
		s.Close()
		if d.kept["account/a"].Error != "last" {
			t.Errorf("closing did not save: %+v", d.kept)
		}
		again := memstate.New()
		defer again.Close()
		if err := again.Keep(&drawer{t: t, kept: maps.Clone(d.kept)}); err != nil {
			t.Fatal(err)
		}
		if got := again.AccountState("account/a").Error; got != "last" {
			t.Errorf("the next process sees %q", got)
		}
	})
}

func TestWaitingUntilChangesAreSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &drawer{t: t, slow: time.Second, kept: map[string]scheduler.AccountState{}}
		s := memstate.New()
		defer s.Close()
		saved := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			if err := s.Saved(t.Context()); err != nil || time.Since(began) != want {
				t.Errorf("waited %v, want %v: %v", time.Since(began), want, err)
			}
		}
		change(t, s, "account/a", func(st *scheduler.AccountState) { st.Error = "1" })
		saved(0) // there is no store yet
		if err := s.Keep(d); err != nil {
			t.Fatal(err)
		}
		saved(time.Second)
		saved(0)
		change(t, s, "account/a", func(*scheduler.AccountState) {})
		saved(0)
		change(t, s, "account/a", func(st *scheduler.AccountState) { st.Error = "2" })
		change(t, s, "account/b", func(st *scheduler.AccountState) { st.Error = "3" })
		saved(2 * time.Second)
		if d.kept["account/a"].Error != "2" || d.kept["account/b"].Error != "3" {
			t.Errorf("kept %+v", d.kept)
		}
		change(t, s, "account/a", func(st *scheduler.AccountState) { st.Error = "4" })
		gone, leave := context.WithCancelCause(t.Context())
		leave(errGone)
		if err := s.Saved(gone); err != errGone {
			t.Errorf("for one who left: %v", err)
		}
	})
}

var errGone = errors.New("gone")

func TestAccountStatesThatCantBeLoaded(t *testing.T) {
	s := memstate.New()
	defer s.Close()
	broken := errors.New("disk")
	if err := s.Keep(&drawer{t: t, err: broken}); err != broken {
		t.Errorf("got %v", err)
	}
	// The store may be opened again.
	if err := s.Keep(&drawer{t: t, kept: map[string]scheduler.AccountState{"account/a": {Error: "401"}}}); err != nil || s.AccountState("account/a").Error != "401" {
		t.Errorf("the second time: %v, %+v", err, s.AccountState("account/a"))
	}
}
