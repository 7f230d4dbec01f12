package scheduler_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func withSecret(secret string) func(*upstream.Account) {
	return func(a *upstream.Account) { a.Secret = secret }
}

// reconfigured is a Scheduler of a new config over the same state.
func (r *rig) reconfigured(accounts ...*upstream.Account) *scheduler.Scheduler {
	r.Helper()
	s, err := scheduler.New(defaults(accounts...), r.leases, slog.New(slog.DiscardHandler))
	if err != nil {
		r.Fatal(err)
	}
	r.start(s)
	return s
}

func (r *rig) start(s *scheduler.Scheduler) {
	r.Helper()
	if err := s.Start(context.Background()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) refuse(s *scheduler.Scheduler, name string) {
	r.Helper()
	if err := s.Fail(context.Background(), name, "401", false); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) wantError(name string, want bool) {
	r.Helper()
	if st := r.state.AccountState(scheduler.AccountPlace(name)); (st.Error != "") != want {
		r.Errorf("account %s: %+v; want it in error: %t", name, st, want)
	}
}

func TestErrorsLastUntilTheCredentialChanges(t *testing.T) {
	r := newRig(t, defaults(account("a", withSecret("1")), account("b", withSecret("1"))))
	defer r.state.Close()
	r.start(r.Scheduler)
	r.refuse(r.Scheduler, "a")
	r.refuse(r.Scheduler, "b")
	r.reconfigured(account("a", withSecret("1"), slots(9)), account("b", withSecret("1")))
	r.wantError("a", true)
	r.wantError("b", true)
	second := r.reconfigured(account("a", withSecret("2")), account("b", withSecret("1")))
	r.wantError("a", false)
	r.wantError("b", true)

	// A request of the old config finds out late that its credential is void.
	r.refuse(r.Scheduler, "a")
	r.wantError("a", false)
	r.refuse(second, "a")
	r.wantError("a", true)
}

func TestTheOperatorsResetKeepsTheCredential(t *testing.T) {
	st := scheduler.AccountState{Error: "401", Credential: "f", ErrorTimes: 2}
	st.Reset()
	if want := (scheduler.AccountState{Credential: "f"}); !st.Equal(&want) {
		t.Errorf("after a reset: %+v", st)
	}
	pause := &scheduler.Pause{By: "me"}
	st = scheduler.AccountState{Error: "401", Credential: "f", ErrorTimes: 2, Pause: pause}
	st.Adopt("f")
	if st.Error == "" {
		t.Error("an error did not outlive its own credential")
	}
	st.Adopt("g")
	if want := (scheduler.AccountState{Credential: "g", Pause: pause}); !st.Equal(&want) {
		t.Errorf("with a new credential: %+v", st)
	}
}

func TestFingerprintsTellCredentialsApart(t *testing.T) {
	seen := map[string]int{}
	for i, a := range []upstream.Account{
		{Secret: "s"}, {Secret: "s2"}, {Secret: "s", Kind: upstream.SetupToken}, {Secret: "s", Kind: upstream.OAuth},
		{Secret: "s", Kind: upstream.OAuth, Refresh: &upstream.Refresh{}},
		{Secret: "s", Kind: upstream.OAuth, Refresh: &upstream.Refresh{Token: "r"}},
		{Secret: "s", Kind: upstream.OAuth, Refresh: &upstream.Refresh{ClientID: "r"}},
		{Secret: "s", Kind: upstream.OAuth, Refresh: &upstream.Refresh{ClientSecret: "r"}},
		{Secret: "s", Kind: upstream.OAuth, Refresh: &upstream.Refresh{TokenURL: "r"}},
		{Secret: "s0:r", Kind: upstream.OAuth},
	} {
		print := a.Fingerprint()
		if other, ok := seen[print]; ok || len(print) != 64 || strings.Contains(print, "s") {
			t.Errorf("%d has the fingerprint %s, as %d", i, print, other)
		}
		seen[print] = i
	}
	same := upstream.Account{Secret: "s", Name: "other", Priority: 3}
	if seen[same.Fingerprint()] != 0 {
		t.Error("what is no credential changes the fingerprint")
	}
}
