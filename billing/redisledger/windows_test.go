package redisledger_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
)

// TestWindowsAsInGo: settle.lua counts in windows, and hold.lua judges by them, as
// billing.Windows do, however late records are, and wherever clocks are set.
func TestWindowsAsInGo(t *testing.T) {
	var zones []*time.Location
	for _, name := range []string{"UTC", "Asia/Shanghai", "America/New_York", "Australia/Lord_Howe"} {
		loc, err := time.LoadLocation(name)
		must(t, err)
		zones = append(zones, loc)
	}
	mini, spool := miniredis.RunT(t), t.TempDir()
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	rapid.Check(t, func(rt *rapid.T) { windowsAsInGo(rt, t, mini, client, spool, zones) })
}

func windowsAsInGo(rt *rapid.T, t *testing.T, mini *miniredis.Miniredis, client *redis.Client, spool string, zones []*time.Location) {
	mini.FlushAll()
	must(t, os.RemoveAll(spool))
	loc := rapid.SampledFrom(zones).Draw(rt, "zone")
	now := time.Date(2026, rapid.SampledFrom([]time.Month{2, 3, 10, 11}).Draw(rt, "month"), 25, 0, 0, 0, 0, loc)
	local := time.Duration(0) // by which this process's clock is wrong
	var shows atomic.Pointer[time.Time]
	set := func() {
		mini.SetTime(now)
		at := now.Add(local)
		shows.Store(&at)
	}
	set()
	l := openWith(t, client, redisledger.Options{Location: loc, Spool: spool, Now: func() time.Time { return *shows.Load() }})
	defer l.close()
	ctx := context.Background()
	limits := billing.Limits{3000, 0, 9000}
	if err := l.Declare(ctx, []billing.User{{Name: "alice"}}); err != nil {
		rt.Fatal(err)
	}
	if err := l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: limits}); err != nil {
		rt.Fatal(err)
	}
	var want, ofKey billing.Windows
	for i := range rapid.IntRange(1, 25).Draw(rt, "records") {
		now = now.Add(time.Duration(rapid.Int64Range(int64(-3*24*time.Hour), int64(6*24*time.Hour)).Draw(rt, "set")))
		if rapid.Bool().Draw(rt, "at midnight") {
			year, month, day := now.In(loc).Date()
			now = time.Date(year, month, day, 0, 0, 0, 0, loc).Add(time.Duration(rapid.IntRange(-1, 1).Draw(rt, "beside")) * time.Microsecond)
		}
		now = now.Truncate(time.Microsecond)
		if rapid.IntRange(0, 3).Draw(rt, "the local clock is set") == 0 {
			local = time.Duration(rapid.IntRange(-40, 40).Draw(rt, "days off")) * 24 * time.Hour
		}
		set()
		age := time.Duration(rapid.Int64Range(0, int64(3*24*time.Hour)).Draw(rt, "age")).Truncate(time.Microsecond)
		if rapid.Bool().Draw(rt, "at once") {
			age = 0
		}
		r := exampleOf(fmt.Sprint(i))
		r.Time, r.KeyID, r.Group, r.Cost = now.Add(local-age), "k", "g", billing.USD(rapid.IntRange(0, 2000).Draw(rt, "cost"))
		r.Billing = rapid.SampledFrom([]string{billing.PaidFromSubscription, billing.PaidFromBalance}).Draw(rt, "billing")
		if err := l.Settle(ctx, r, nil); err != nil {
			rt.Fatal(err)
		}
		count := func(w *billing.Windows) {
			at := now.Add(-age)
			if billing.WindowsFrom(at, loc) == billing.WindowsFrom(now, loc) { // else it moves no window, and counts in none that begins later
				*w = w.Moved(now, loc)
			}
			w.Add(at, r.Spent(), loc)
		}
		count(&ofKey)
		if r.Billing == billing.PaidFromSubscription {
			count(&want)
		}
		wantWindows(rt, client, "{n}:key:k", ofKey)
		if r.Billing == billing.PaidFromSubscription { // else it was not looked at
			wantWindows(rt, client, "{n}:subscription:5:alice:g", want)
		}
		if rapid.IntRange(0, 2).Draw(rt, "judge") == 0 {
			wantJudged(rt, l, &billing.HoldRequest{
				ID: "c", User: "alice", KeyID: "k", MinAvailable: billing.USD(rapid.IntRange(0, 9001).Draw(rt, "least")),
				Terms: &billing.Terms{Group: "g", Declared: true, Limits: limits},
			}, want.Moved(now, loc), ofKey.Moved(now, loc), limits, now)
			want, ofKey = want.Moved(now, loc), ofKey.Moved(now, loc)
			wantWindows(rt, client, "{n}:subscription:5:alice:g", want)
		}
	}
	if l.Waiting() != 0 {
		rt.Fatalf("%d records wait", l.Waiting())
	}
}

func wantWindows(t *rapid.T, client redis.UniversalClient, key string, want billing.Windows) {
	hash, err := client.HGetAll(context.Background(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	var got billing.Windows
	for i, span := range []string{"daily", "weekly", "monthly"} {
		var first, last int64
		if hash[span] == "" {
			continue
		}
		if _, err := fmt.Sscanf(hash[span], "%d %d", &first, &last); err != nil {
			t.Fatal(err)
		}
		used, err := strconv.ParseInt(hash[span+"_used"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = billing.Window{Start: time.Unix(first, 0).UTC(), End: time.Unix(last, 0).UTC(), Used: billing.USD(used)}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("windows of %s (-want +got):\n%s", key, diff)
	}
}

// wantJudged checks that Redis meets a hold request if and only if Go does.
func wantJudged(t *rapid.T, l *node, c *billing.HoldRequest, subscription, key billing.Windows, limits billing.Limits, now time.Time) {
	var want error
	if r := key.Refuse(billing.ReasonKeyLimit, limits, now, 0, c.MinAvailable); r != nil {
		want = r
	}
	if r := subscription.Refuse(billing.ReasonWindow, limits, now, 0, c.MinAvailable); r != nil {
		want = r
	}
	if _, err := l.Hold(context.Background(), c); !cmp.Equal(want, err, cmp.Comparer(func(a, b error) bool {
		return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
	})) {
		t.Fatalf("Hold at %v of %d: %v, want %v", now, c.MinAvailable, err, want)
	}
}

// TestFirstRecordBeforeRedissClockIsKnown counts on the day that Redis says, wherever
// the clock of its process is.
func TestFirstRecordBeforeRedissClockIsKnown(t *testing.T) {
	for _, wrong := range []time.Duration{40 * 24 * time.Hour, -40 * 24 * time.Hour, 0} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			admin := open(t, clientOf(t, mini))
			admin.declareAlice(t)
			must(t, admin.AddKey(t.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{opening}}))
			begin := time.Now()
			mini.SetTime(begin)
			l := openWith(t, client, redisledger.Options{Now: func() time.Time { return begin.Add(wrong) }})
			r := exampleOf("a")
			r.KeyID, r.Time = "k", begin.Add(wrong)
			must(t, l.Settle(t.Context(), r, nil))
			if l.Waiting() != 0 {
				t.Errorf("clock %v off: it waits", wrong)
			}
			want := strconv.FormatInt(begin.Truncate(24*time.Hour).Unix(), 10)
			if got := mini.HGet("{n}:key:k", "daily"); got != want+" "+strconv.FormatInt(begin.Truncate(24*time.Hour).Unix()+86400, 10) {
				t.Errorf("clock %v off: it counts in %q, want one that begins at %s", wrong, got, want)
			}
		})
	}
}

// TestFirstRecordOfADayIsMissed by Redis, which is asked about another request in between:
// in the outage after that, it counts all the same.
func TestFirstRecordOfADayIsMissed(t *testing.T) {
	for name, ask := range map[string]*billing.HoldRequest{
		"key":          {User: "alice", KeyID: "k"},
		"subscription": {User: "alice", Terms: &billing.Terms{Group: "g", Declared: true, Limits: billing.Limits{1000}}},
	} {
		for _, isKnown := range []bool{true, false} {
			inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
				l := open(t, client)
				l.declareAlice(t)
				must(t, l.AddKey(t.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{1000}}))
				hold := func(id string, amount billing.USD) error {
					c := *ask
					c.ID, c.Amount, c.MinAvailable = id, amount, amount
					_, err := l.Hold(t.Context(), &c)
					return err
				}
				if isKnown {
					must(t, hold("known", 0))
				}
				r := exampleOf("r")
				r.Charged, r.Cost, r.KeyID = 700, 700, ask.KeyID
				if ask.Terms != nil {
					r.Billing, r.Group = billing.PaidFromSubscription, "g"
				}
				var stalled atomic.Bool
				asked := make(chan struct{})
				client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
					return func(ctx context.Context, cmds []redis.Cmder) error {
						if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return slices.Contains(c.Args(), any("r")) }) {
							if stalled.CompareAndSwap(false, true) { // this process stands still, so that Redis is not down
								time.Sleep(2 * time.Second)
								return fail(cmds, context.DeadlineExceeded)
							}
							<-asked
						}
						return next(ctx, cmds)
					}
				}))
				must(t, l.Settle(t.Context(), r, nil))
				_ = hold("asked", 0)
				close(asked)
				synctest.Wait()
				outage := outageOf(client)
				outage.is.Store(true)
				if err := hold("more", 301); err == nil {
					t.Errorf("%s, known %v: more is promised than there is", name, isKnown)
				}
				if err := hold("rest", 300); err != nil {
					t.Errorf("%s, known %v: the rest: %v", name, isKnown, err)
				}
			})
		}
	}
}

// TestAmountsAreComparedExactly, beyond what Lua's numbers can hold.
func TestAmountsAreComparedExactly(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	source, err := os.ReadFile("lua/amounts.lua")
	must(t, err)
	compare := redis.NewScript(string(source) + "\nreturn covers(ARGV[1], ARGV[2], ARGV[3], ARGV[4]) and 1 or 0")
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 1<<60)
		amount := size.Draw(t, "amount") * rapid.SampledFrom([]int64{1, -1}).Draw(t, "sign")
		a, b := size.Draw(t, "a"), size.Draw(t, "b")
		c := amount - a - b + rapid.Int64Range(-2, 2).Draw(t, "off")
		got, err := compare.Run(context.Background(), client, nil, amount, a, b, c).Int()
		if err != nil {
			t.Fatal(err)
		}
		if want := amount-a-b-c >= 0; (got == 1) != want {
			t.Fatalf("%d covers %d, %d and %d: %d, want %v", amount, a, b, c, got, want)
		}
	})
}
