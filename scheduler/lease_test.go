package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestLeasesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, defaults(account("a", slots(2000))))
		defer r.state.Close()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); r.leases.Run(ctx) }()
		var leases []*scheduler.Lease
		for range 1200 { // several batches
			leases = append(leases, r.pick("a"))
		}
		leases[0].OnLost(func() { t.Error("lost") })
		time.Sleep(10 * time.Minute)
		if !leases[0].Held() || !leases[1199].Held() {
			t.Error("a renewed lease is not held")
		}
		r.load("account/a", 1200, 0)
		scheduler.Release(leases...)
		scheduler.Release(leases[0], nil)
		for _, l := range leases {
			l.Release()
		}
		r.load("account/a", 0, 0)

		left := r.pick("a")
		stop()
		<-done
		time.Sleep(time.Minute)
		synctest.Wait()
		r.load("account/a", 0, 0)
		left.Release()
	})
}

func TestLostLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, defaults(account("a")))
		defer r.state.Close()
		lease, unasked := r.pick("a"), (*scheduler.Lease)(nil)
		lost := 0
		lease.OnLost(func() { lost++ })
		lease.OnLost(func() { lost++ })
		if !lease.Held() {
			t.Error("a new lease is not held")
		}
		time.Sleep(2 * time.Minute) // nobody renews
		if lease.Held() {
			t.Error("a lease that nobody renewed is held")
		}
		unasked = r.pick("a") // the slot is another's
		time.Sleep(2 * time.Minute)
		third := r.pick("a")

		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go r.leases.Run(ctx)
		time.Sleep(21 * time.Second)
		synctest.Wait()
		unasked.OnLost(func() { lost++ })
		if lost != 3 {
			t.Errorf("%d of 3 were told", lost)
		}
		lease.Release()
		unasked.Release()
		r.load("account/a", 1, 0)
		third.Release()
		r.load("account/a", 0, 0)
		if n := strings.Count(r.log.String(), "a slot was lost"); n != 2 {
			t.Errorf("%d losses logged, want 2:\n%s", n, &r.log)
		}
		stop()
		synctest.Wait()
	})
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, defaults(account("a", slots(0)), account("picky", func(a *upstream.Account) { a.ErrorCodes = []int{401, 429} })))
		defer r.state.Close()
		state := func(name string) string {
			st := r.state.AccountState(scheduler.AccountPlace(name))
			word, _, _ := st.Summary(time.Now())
			return word
		}
		if !r.report("a", scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: "m"}) {
			t.Error("the first model that is served was not noted")
		}
		if r.report("a", scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: "m"}) {
			t.Error("a success changed something")
		}
		spent := rejected(0)
		spent.Reason = "window spent"
		if !r.report("a", spent) || state("a") != scheduler.StateRateLimited {
			t.Errorf("after 429: %s", state("a"))
		}
		for _, want := range []string{"level=WARN", "account=a", "state=rate_limited", `reason="window spent"`, "until="} {
			if !strings.Contains(r.log.String(), want) {
				t.Errorf("the log lacks %s:\n%s", want, &r.log)
			}
		}
		time.Sleep(5 * time.Minute)
		probe := r.pick("a", exclude("picky"))
		if lease, err := r.Pick(timeout(t, time.Second), r.demand(exclude("picky"))); err == nil {
			t.Errorf("on trial, and a second request went to %s", lease.Account.Name)
		}
		if !r.report("a", scheduler.Outcome{Kind: scheduler.Answered, Status: 200, Sent: time.Now()}) {
			t.Error("the end of the trial changed nothing")
		}
		r.pick("a", exclude("picky"))
		probe.Release()
		if !strings.Contains(r.log.String(), "level=INFO msg=\"account is back\" account=a") {
			t.Errorf("the log lacks the return:\n%s", &r.log)
		}

		for _, o := range []scheduler.Outcome{{Kind: scheduler.Failed, Status: 529, Model: "m"}, {Kind: scheduler.Denied, Status: 402, Model: "m"}, {Kind: scheduler.Absent, Status: 404, Model: "m"}} {
			if r.report("picky", o) || r.Counts("picky", &o) || state("picky") != scheduler.StateActive {
				t.Errorf("status %d is not on the list, and yet %s", o.Status, state("picky"))
			}
		}
		if !r.report("picky", scheduler.Outcome{Kind: scheduler.Unreachable}) || state("picky") != scheduler.StateOverloaded {
			t.Error("a connection failure has no status to be on a list")
		}
		if !r.report("picky", scheduler.Outcome{Kind: scheduler.Denied, Status: 401, Model: "m"}) {
			t.Error("401 is on the list")
		}
		r.state.Close()
		if _, err := r.Report(context.Background(), "a", scheduler.Outcome{Kind: scheduler.Failed, Model: "m"}); !errors.Is(err, scheduler.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// unwell is a State that can't be reached any more.
type unwell struct{ scheduler.State }

var errUnreachable = errors.New("store unreachable")

func (unwell) Release(context.Context, ...string) error { return errUnreachable }
func (unwell) Renew(context.Context, []string, time.Duration) ([]string, error) {
	return nil, errUnreachable
}

func TestAnUnreachableStateIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := memstate.New()
		defer state.Close()
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		leases := scheduler.NewLeases(unwell{state}, logger)
		s, err := scheduler.New(defaults(account("a")), leases, logger)
		if err != nil {
			t.Fatal(err)
		}
		lease, err := s.Pick(context.Background(), scheduler.Demand{Request: "r", Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		go leases.Run(ctx)
		time.Sleep(21 * time.Second)
		lease.Release()
		stop()
		synctest.Wait()
		for _, want := range []string{"could not be renewed", "could not be given back", "store unreachable"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, &log)
			}
		}
	})
}
