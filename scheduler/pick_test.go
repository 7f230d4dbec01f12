package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// rig is a Scheduler over a memory of its own.
type rig struct {
	*testing.T
	*scheduler.Scheduler
	state  scheduler.State
	leases *scheduler.Leases
	log    bytes.Buffer
	n      int
}

func defaults(accounts ...*upstream.Account) scheduler.Settings {
	return scheduler.Settings{
		Accounts: accounts, LoadAware: true,
		StickyTTL: time.Hour, StickyMaxWaiting: 3, StickyWaitTimeout: 45 * time.Second,
		FallbackMaxWaiting: 100, FallbackWaitTimeout: 30 * time.Second,
		UserExtraWaiting: 2, UserWaitTimeout: 30 * time.Second,
		OverloadCooldown: time.Minute, RateLimitCooldown: 5 * time.Minute,
	}
}

func newRig(t *testing.T, settings scheduler.Settings) *rig {
	r := &rig{T: t, state: memstate.New()}
	logger := slog.New(slog.NewTextHandler(&r.log, nil))
	r.leases = scheduler.NewLeases(r.state, logger)
	s, err := scheduler.New(settings, r.leases, logger)
	if err != nil {
		t.Fatal(err)
	}
	r.Scheduler = s
	return r
}

func account(name string, change ...func(*upstream.Account)) *upstream.Account {
	a := &upstream.Account{Name: name, Platform: upstream.Anthropic, Priority: 50, Concurrency: 1}
	for _, f := range change {
		f(a)
	}
	return a
}

func on(p upstream.Platform) func(*upstream.Account) {
	return func(a *upstream.Account) { a.Platform = p }
}
func mixed(a *upstream.Account)    { a.MixedScheduling = true }
func disabled(a *upstream.Account) { a.Disabled = true }
func oauth(a *upstream.Account)    { a.Kind = upstream.OAuth }
func slots(n int) func(*upstream.Account) {
	return func(a *upstream.Account) { a.Concurrency = n }
}
func serving(models ...string) func(*upstream.Account) {
	return func(a *upstream.Account) {
		for _, m := range models {
			a.Models = append(a.Models, upstream.ModelRule{Match: m})
		}
	}
}

// demand is one of a new request.
func (r *rig) demand(change ...func(*scheduler.Demand)) scheduler.Demand {
	r.n++
	d := scheduler.Demand{Request: fmt.Sprint("request-", r.n), User: "u", Model: "claude-sonnet-4-5"}
	for _, f := range change {
		f(&d)
	}
	return d
}

func session(s string) func(*scheduler.Demand) { return func(d *scheduler.Demand) { d.Session = s } }
func exclude(names ...string) func(*scheduler.Demand) {
	return func(d *scheduler.Demand) { d.Exclude = names }
}

func (r *rig) pick(want string, change ...func(*scheduler.Demand)) *scheduler.Lease {
	r.Helper()
	lease, err := r.Pick(context.Background(), r.demand(change...))
	if err != nil {
		r.Fatalf("Pick: %v, want %s", err, want)
	}
	if lease.Account.Name != want {
		r.Fatalf("picked %s, want %s", lease.Account.Name, want)
	}
	return lease
}

func (r *rig) report(account string, o scheduler.Outcome) bool {
	r.Helper()
	changed, err := r.Report(context.Background(), account, o)
	if err != nil {
		r.Fatal(err)
	}
	return changed
}

func (r *rig) load(place string, inUse, waiting int) {
	r.Helper()
	got, _ := r.state.Load(context.Background(), place)
	if got.InUse != inUse || got.Waiting != waiting {
		r.Fatalf("%s: %d in use, %d waiting; want %d, %d", place, got.InUse, got.Waiting, inUse, waiting)
	}
}

func TestPickSharesByPriorityAndLoad(t *testing.T) {
	first := func(a *upstream.Account) { a.Priority = 1 }
	r := newRig(t, defaults(account("small", slots(2)), account("big", slots(6)), account("best", slots(1), first)))
	defer r.state.Close()
	got := map[string]int{}
	for range 5 {
		lease, err := r.Pick(context.Background(), r.demand())
		if err != nil {
			t.Fatal(err)
		}
		got[lease.Account.Name]++
	}
	if diff := cmp.Diff(map[string]int{"best": 1, "small": 1, "big": 3}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGeminiTakesUnusedOAuthFirst(t *testing.T) {
	g := on(upstream.Gemini)
	settings := defaults(account("key", g), account("oauth", g, oauth))
	settings.Groups = []scheduler.Group{{Name: "g", Platform: upstream.Gemini}}
	r := newRig(t, settings)
	defer r.state.Close()
	r.pick("oauth", func(d *scheduler.Demand) { d.Group, d.Model = "g", "gemini-3-pro" })
}

func TestLoadAwareOff(t *testing.T) {
	settings := defaults(account("a", slots(9)), account("b", slots(9)))
	settings.LoadAware = false
	r := newRig(t, settings)
	defer r.state.Close()
	r.pick("a")
	r.pick("b").Release()
	r.pick("a")
}

func TestSticky(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := defaults(account("a"), account("b"))
		settings.Groups = []scheduler.Group{{Name: "g", Platform: upstream.Anthropic}}
		r := newRig(t, settings)
		defer r.state.Close()
		held := r.pick("a", session("s"))

		t.Log("waits for the session's account")
		time.AfterFunc(10*time.Second, held.Release)
		second := r.pick("a", session("s"))
		if second.Waited != 10*time.Second || second.Moved {
			t.Errorf("waited %v, moved %v", second.Waited, second.Moved)
		}

		t.Log("and moves on after a while")
		moved := r.pick("b", session("s"))
		if moved.Waited != 45*time.Second || !moved.Moved {
			t.Errorf("waited %v, moved %v", moved.Waited, moved.Moved)
		}
		second.Release()
		r.load("account/a", 0, 0)
		moved.Release()
		r.pick("b", session("s")).Release()

		t.Log("groups have sessions of their own")
		r.pick("a", session("s"), func(d *scheduler.Demand) { d.Group = "g" }).Release()

		t.Log("moves at once when the account fails while it is waited for")
		held = r.pick("b", session("s"))
		time.AfterFunc(time.Second, func() { r.report("b", rejected(time.Hour)) })
		if moved := r.pick("a", session("s")); moved.Waited != time.Second || !moved.Moved {
			t.Errorf("waited %v, moved %v", moved.Waited, moved.Moved)
		}
		held.Release()
	})
}

func TestPickErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := defaults(account("a"), account("b"))
		settings.FallbackMaxWaiting = 1
		r := newRig(t, settings)
		defer r.state.Close()
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go r.leases.Run(ctx)
		a, b := r.pick("a"), r.pick("b")

		began := time.Now()
		if _, err := r.Pick(ctx, r.demand()); !errors.Is(err, scheduler.ErrFull) || time.Since(began) != 30*time.Second {
			t.Errorf("waited %v: %v", time.Since(began), err)
		}
		r.load("account/a", 1, 0)

		t.Log("the client leaves")
		leaving, leave := context.WithCancelCause(ctx)
		cause := errors.New("client gone")
		time.AfterFunc(time.Second, func() { leave(cause) })
		if _, err := r.Pick(leaving, r.demand()); err != cause {
			t.Errorf("got %v, want the cause", err)
		}
		r.load("account/a", 1, 0)
		if _, err := r.Pick(leaving, r.demand()); err != cause {
			t.Errorf("got %v, want the cause", err)
		}

		t.Log("the client's own deadline comes first")
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := r.Pick(soon, r.demand()); err != context.DeadlineExceeded {
			t.Errorf("got %v", err)
		}

		t.Log("full lines")
		for range 2 {
			go func() { _, _ = r.Pick(ctx, scheduler.Demand{Request: "w", Model: "m"}) }()
			synctest.Wait()
		}
		if _, err := r.Pick(ctx, r.demand()); !errors.Is(err, scheduler.ErrFull) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)

		t.Log("all out")
		r.report("a", rejected(time.Hour))
		until := time.Now().Add(time.Hour)
		var out *scheduler.OutError
		if _, err := r.Pick(ctx, r.demand(exclude("b"))); !errors.As(err, &out) || !out.Until.Equal(until) ||
			!strings.Contains(err.Error(), until.UTC().Format(time.RFC3339)) {
			t.Errorf("got %v, want out until %v", err, until)
		}
		if err := r.Fail(ctx, "b", "401", false); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Pick(ctx, r.demand(exclude("a"))); !errors.As(err, &out) || !out.Until.IsZero() ||
			!strings.Contains(err.Error(), "none will be back by itself") {
			t.Errorf("got %v, want out for good", err)
		}
		a.Release()
		b.Release()
		r.load("account/a", 0, 0)
		r.load("account/b", 0, 0)
	})
}

func TestAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, defaults())
		defer r.state.Close()
		ctx := context.Background()
		admit := func(concurrency int) (*scheduler.Lease, error) {
			return r.Admit(ctx, r.demand().Request, "alice", concurrency, nil)
		}
		held, err := admit(1)
		if err != nil || held.Account != nil {
			t.Fatalf("%+v, %v", held, err)
		}
		began := time.Now()
		if _, err := admit(1); !errors.Is(err, scheduler.ErrFull) || time.Since(began) != 30*time.Second {
			t.Errorf("waited %v: %v", time.Since(began), err)
		}
		for range 3 { // one slot and two extra
			go func() {
				if lease, err := r.Admit(ctx, "w", "alice", 1, nil); err == nil {
					lease.Release()
				}
			}()
		}
		synctest.Wait()
		r.load("user/alice", 1, 3)
		began = time.Now()
		if _, err := admit(1); !errors.Is(err, scheduler.ErrFull) || time.Since(began) != 0 {
			t.Errorf("waited %v: %v", time.Since(began), err)
		}
		if _, err := r.Admit(ctx, "b", "bob", 1, nil); err != nil {
			t.Errorf("alice's line holds up bob: %v", err)
		}
		held.Release()
		synctest.Wait()
		r.load("user/alice", 0, 0)

		for range 50 {
			if _, err := admit(0); err != nil {
				t.Fatalf("no limit: %v", err)
			}
		}
		r.load("user/alice", 50, 0)
	})
}

func TestSessionsAreTheUsersOwn(t *testing.T) {
	by := func(user string, shared bool) func(*scheduler.Demand) {
		return func(d *scheduler.Demand) { d.User, d.Session, d.Shared = user, "s", shared }
	}
	for _, shared := range []bool{false, true} {
		r := newRig(t, defaults(account("a", slots(0)), account("b", slots(0))))
		first := r.pick("a", by("ann", shared))
		if err := r.MarkSession(context.Background(), r.demand(by("ann", shared)), scheduler.StripThinking); err != nil {
			t.Fatal(err)
		}
		where := "b" // used less recently
		if shared {
			where = "a"
		}
		if lease := r.pick(where, by("bob", shared)); lease.Marks != 0 || lease.Own != shared || lease.Moved {
			t.Errorf("shared %t: another user's request got %+v", shared, lease)
		}
		if lease := r.pick("a", by("ann", shared)); lease.Marks != scheduler.StripThinking || !lease.Own {
			t.Errorf("shared %t: the user's own got %+v", shared, lease)
		}
		first.Release()
		r.state.Close()
	}
}

// TestRefusalsOfEverybody: what one request has found out, the next need not ask.
func TestRefusalsOfEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, defaults(account("a"), account("b"), account("c"), account("d", serving("other"))))
		defer r.state.Close()
		busy := func(answer string) scheduler.Outcome {
			return scheduler.Outcome{Kind: scheduler.Failed, Status: 529, Model: "m", Answer: answer, Sent: time.Now()}
		}
		others := func(answer string, exclude ...string) scheduler.Others {
			return r.Others(r.demand(func(d *scheduler.Demand) { d.Model, d.Exclude = "m", exclude }), answer)
		}
		want := func(got scheduler.Others, same int, fresh bool) {
			t.Helper()
			if got.Same != same || got.Fresh != fresh {
				t.Errorf("got %+v, want %d that say the same, a fresh one %t", got, same, fresh)
			}
		}
		want(others("529"), 0, true)
		r.report("a", busy("529"))
		r.report("b", busy("500"))
		want(others("529"), 1, true)
		want(others("529", "c"), 1, false)
		r.report("c", busy("529"))
		want(others("529"), 2, false)
		want(r.Others(r.demand(), "529"), 0, true) // of another model
		time.Sleep(time.Second)
		r.report("b", scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: "m", Sent: time.Now()})
		want(others("529"), 0, true) // somebody got an answer since
		time.Sleep(time.Second)
		r.report("a", busy("529"))
		want(others("529"), 1, true)
		time.Sleep(time.Minute)
		want(others("529"), 0, true)
	})
}

func TestMarks(t *testing.T) {
	r := newRig(t, defaults(account("a", slots(0))))
	defer r.state.Close()
	ctx := context.Background()
	long := strings.Repeat("s", 5000)
	for _, s := range []string{"s", long} {
		if lease := r.pick("a", session(s)); lease.Marks != 0 {
			t.Errorf("marks %v", lease.Marks)
		}
		if err := r.MarkSession(ctx, r.demand(session(s)), scheduler.StripThinking); err != nil {
			t.Fatal(err)
		}
		if lease := r.pick("a", session(s)); lease.Marks != scheduler.StripThinking {
			t.Errorf("marks %v", lease.Marks)
		}
	}
	if err := r.MarkSession(ctx, r.demand(), scheduler.StripThinking); err != nil {
		t.Fatal(err)
	}
	if lease := r.pick("a"); lease.Marks != 0 {
		t.Errorf("without a session: marks %v", lease.Marks)
	}
}
