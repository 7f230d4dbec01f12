package redisledger

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestWindowsAsInGo: settle.lua counts in windows, and hold.lua judges by them, as
// billing.Windows do, whatever the order of what comes in.
func TestWindowsAsInGo(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	var zones []*time.Location
	for _, name := range []string{"UTC", "Asia/Shanghai", "America/New_York", "Australia/Lord_Howe"} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		zones = append(zones, loc)
	}
	rapid.Check(t, func(t *rapid.T) {
		mini.FlushAll()
		loc := rapid.SampledFrom(zones).Draw(t, "zone")
		l := New(client, Options{Namespace: "n", Location: loc})
		defer l.Close()
		ctx := context.Background()
		limits := billing.Limits{3000, 0, 9000}
		if err := l.Declare(ctx, []billing.User{{Name: "alice"}}); err != nil {
			t.Fatal(err)
		}
		if err := l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: limits}); err != nil {
			t.Fatal(err)
		}
		var want, ofKey billing.Windows
		at := time.Date(2026, rapid.SampledFrom([]time.Month{2, 3, 10, 11}).Draw(t, "month"), 25, 0, 0, 0, 0, loc)
		for i := range rapid.IntRange(1, 30).Draw(t, "records") {
			at = at.Add(time.Duration(rapid.Int64Range(int64(-3*24*time.Hour), int64(6*24*time.Hour)).Draw(t, "later")))
			if rapid.Bool().Draw(t, "at midnight") {
				year, month, day := at.In(loc).Date()
				at = time.Date(year, month, day, 0, 0, 0, rapid.IntRange(-1, 1).Draw(t, "beside"), loc)
			}
			r := exampleOf(fmt.Sprint(i))
			r.Time, r.KeyID, r.Group, r.Cost = at, "k", "g", billing.USD(rapid.IntRange(0, 2000).Draw(t, "cost"))
			r.Billing = rapid.SampledFrom([]string{billing.PaidFromSubscription, billing.PaidFromBalance}).Draw(t, "billing")
			if err := l.Settle(ctx, r, nil); err != nil {
				t.Fatal(err)
			}
			ofKey.Add(at, r.Spent(), loc)
			if r.Billing == billing.PaidFromSubscription {
				want.Add(at, r.Spent(), loc)
			}
			wantWindows(t, client, "{n}:subscription:5:alice:g", want)
			wantWindows(t, client, "{n}:key:k", ofKey)
			if rapid.IntRange(0, 2).Draw(t, "judge") == 0 {
				claimed := at.Add(time.Duration(rapid.Int64Range(0, int64(40*24*time.Hour)).Draw(t, "claimed")))
				if rapid.Bool().Draw(t, "at an end") {
					span := rapid.SampledFrom([]billing.Span{billing.Daily, billing.Monthly}).Draw(t, "span")
					claimed = ofKey[span].End.Add(time.Duration(rapid.IntRange(-1, 0).Draw(t, "just before")))
				}
				wantJudged(t, l, &billing.Claim{
					ID: "c", Time: claimed, User: "alice", KeyID: "k",
					Terms: &billing.Terms{Group: "g", Declared: true, Limits: limits}, Least: billing.USD(rapid.IntRange(0, 9001).Draw(t, "least")),
				}, want, ofKey, limits)
			}
		}
	})
}

func wantWindows(t *rapid.T, client redis.UniversalClient, key string, want billing.Windows) {
	fields, err := client.HMGet(context.Background(), key, subscriptionFields[2:]...).Result()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePurse(fields)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.windows); diff != "" {
		t.Fatalf("windows of %s (-want +got):\n%s", key, diff)
	}
}

// wantJudged checks that Redis meets a claim if and only if Go does.
func wantJudged(t *rapid.T, l *Ledger, c *billing.Claim, subscription, key billing.Windows, limits billing.Limits) {
	var want error
	if r := key.Lacks(billing.LackKeyLimit, limits, c.Time, 0, c.Least); r != nil {
		want = r
	}
	if r := subscription.Lacks(billing.LackWindow, limits, c.Time, 0, c.Least); r != nil {
		want = r
	}
	if _, err := l.Hold(context.Background(), c); !cmp.Equal(want, err, cmp.Comparer(func(a, b error) bool {
		return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
	})) {
		t.Fatalf("Hold at %v of %d: %v, want %v", c.Time, c.Least, err, want)
	}
}

// TestAmountsAreComparedExactly, beyond what Lua's numbers can hold.
func TestAmountsAreComparedExactly(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	source, err := sources.ReadFile("lua/amounts.lua")
	if err != nil {
		t.Fatal(err)
	}
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
