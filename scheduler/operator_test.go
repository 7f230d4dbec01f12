package scheduler_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestAnOperatorPausesAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, defaults(account("a", withSecret("1"))))
		defer r.state.Close()
		ctx := context.Background()
		r.start(r.Scheduler)
		logged := func(want string) {
			t.Helper()
			if log := r.log.String(); (want == "") != (log == "") || !strings.Contains(log, want) {
				t.Errorf("logged %q, want %q", log, want)
			}
			r.log.Reset()
		}
		do := func(f func() error, want string) {
			t.Helper()
			if err := f(); err != nil {
				t.Fatal(err)
			}
			logged(want)
		}
		r.log.Reset()
		began := time.Now().UTC()
		do(func() error { return r.Pause(ctx, "a", "ann") }, `state=disabled reason="paused by ann at `+began.Format(time.RFC3339))
		time.Sleep(time.Minute)
		do(func() error { return r.Pause(ctx, "a", "bob") }, "")
		if st := r.state.AccountState("account/a"); st.Pause.By != "ann" || !st.Pause.At.Equal(began) {
			t.Errorf("paused twice: %+v", st.Pause)
		}
		// It outlives another credential, and what was said of the one before.
		next := r.reconfigured(account("a", withSecret("2")))
		r.log.Reset()
		do(func() error { return r.Reset(ctx, "a") }, "")
		if st := r.state.AccountState("account/a"); st.Pause == nil {
			t.Error("a reset ended the pause")
		}
		// The old config's scheduler is still an operator's.
		do(func() error { return r.Resume(ctx, "a") }, "account is back")
		do(func() error { return next.Resume(ctx, "a") }, "")
	})
}

func TestAnOperatorResetsAnAccount(t *testing.T) {
	r := newRig(t, defaults(account("a"), account("b")))
	defer r.state.Close()
	r.start(r.Scheduler)
	until := time.Now().Add(time.Hour)
	if _, err := r.state.Change(t.Context(), "account/a", func(st *scheduler.AccountState) {
		st.Error, st.ErrorTimes = "401", 3
		st.Limits = []scheduler.Limit{{Claim: "5h", Until: until}}
		st.Demotions = []scheduler.Demotion{{Model: "m", Until: until}}
		st.Windows = []scheduler.Window{{Name: "5h", End: until, Status: "rejected"}}
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.Reset(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	st := r.state.AccountState("account/a")
	if !st.Clear(time.Now()) || len(st.Windows) != 1 {
		t.Errorf("after a reset: %+v", st)
	}
	if !strings.Contains(r.log.String(), "account is back") {
		t.Errorf("logged %q", r.log.String())
	}
	r.state.Close()
	if err := r.Reset(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), `account "a"`) {
		t.Errorf("a closed state: %v", err)
	}
}

func TestGroupsOfAnAccount(t *testing.T) {
	settings := defaults(
		account("main"), account("off", disabled), account("gem", on(upstream.Gemini)),
		account("ag", on(upstream.Antigravity)), account("mix", on(upstream.Antigravity), mixed),
	)
	settings.Groups = []scheduler.Group{
		{Name: "some", Platform: upstream.Anthropic, Accounts: []string{"off"}},
		{Name: "all"}, {Name: "gemini", Platform: upstream.Gemini}, {Name: "ag", Platform: upstream.Antigravity},
	}
	for _, open := range []bool{false, true} {
		settings.GroupsDontLimit = open
		r := newRig(t, settings)
		defer r.state.Close()
		want := map[string][]string{"main": {"all"}, "off": {"all", "some"}, "gem": {"gemini"}, "ag": {"ag"}, "mix": {"ag", "all", "gemini"}}
		if open {
			want["main"], want["mix"] = []string{"all", "some"}, []string{"ag", "all", "gemini", "some"}
		}
		if diff := cmp.Diff(want, r.Groups()); diff != "" {
			t.Errorf("groups don't limit: %t (-want +got):\n%s", open, diff)
		}
	}
}
