package scheduler_test

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestBetter(t *testing.T) {
	tests := []struct {
		name       string
		a, b       scheduler.Spot
		ignoreLoad bool
		a1st, b1st bool
	}{
		{name: "equals"},
		{name: "priority", a: scheduler.Spot{Priority: 1, InUse: 9, Limit: 9, LastUsed: 9}, b: scheduler.Spot{Priority: 2}, a1st: true},
		{name: "share in use", a: scheduler.Spot{InUse: 1, Limit: 2}, b: scheduler.Spot{InUse: 4, Limit: 9}, b1st: true},
		{name: "waiting counts", a: scheduler.Spot{InUse: 1, Waiting: 1, Limit: 9}, b: scheduler.Spot{InUse: 1, Limit: 9}, b1st: true},
		{name: "no limit is no load", a: scheduler.Spot{InUse: 1, Limit: 1000}, b: scheduler.Spot{InUse: 1000}, b1st: true},
		{name: "load ignored", a: scheduler.Spot{InUse: 8, Limit: 9, LastUsed: 1}, b: scheduler.Spot{Limit: 9, LastUsed: 2}, ignoreLoad: true, a1st: true},
		{name: "less recently used", a: scheduler.Spot{LastUsed: 2}, b: scheduler.Spot{LastUsed: 1}, b1st: true},
		{name: "never used first", a: scheduler.Spot{LastUsed: 1, UnusedFirst: true}, b: scheduler.Spot{}, b1st: true},
		{name: "of the unused", a: scheduler.Spot{}, b: scheduler.Spot{UnusedFirst: true}, b1st: true},
		{name: "used ones are alike", a: scheduler.Spot{LastUsed: 1}, b: scheduler.Spot{LastUsed: 1, UnusedFirst: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := scheduler.Better(&test.a, &test.b, test.ignoreLoad); got != test.a1st {
				t.Errorf("a before b: %v", got)
			}
			if got := scheduler.Better(&test.b, &test.a, test.ignoreLoad); got != test.b1st {
				t.Errorf("b before a: %v", got)
			}
		})
	}
}

// TestBetterIsAnOrder: never both ways, transitive, and by load exactly as the
// fractions compare.
func TestBetterIsAnOrder(t *testing.T) {
	small := rapid.IntRange(0, 3)
	spot := rapid.Custom(func(t *rapid.T) scheduler.Spot {
		return scheduler.Spot{
			Priority: rapid.IntRange(0, 1).Draw(t, "priority"), InUse: small.Draw(t, "in use"), Waiting: small.Draw(t, "waiting"),
			Limit: small.Draw(t, "limit"), LastUsed: int64(small.Draw(t, "last used")), UnusedFirst: rapid.Bool().Draw(t, "unused first"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := spot.Draw(t, "a"), spot.Draw(t, "b"), spot.Draw(t, "c")
		better := func(x, y scheduler.Spot) bool { return scheduler.Better(&x, &y, false) }
		if better(a, b) && better(b, a) {
			t.Fatal("both are better")
		}
		if better(a, b) && better(b, c) && !better(a, c) {
			t.Fatal("not transitive")
		}
		if a.Priority == b.Priority && load(a).Cmp(load(b)) < 0 && !better(a, b) {
			t.Fatal("less loaded, and not better")
		}
	})
}

func load(s scheduler.Spot) *big.Rat {
	if s.Limit == 0 {
		return new(big.Rat)
	}
	return big.NewRat(int64(s.InUse+s.Waiting), int64(s.Limit))
}

func TestLoadDoesNotOverflow(t *testing.T) {
	a := scheduler.Spot{InUse: math.MaxInt32 - 1, Limit: math.MaxInt32}
	b := scheduler.Spot{InUse: math.MaxInt32, Limit: math.MaxInt32}
	if !scheduler.Better(&a, &b, false) || scheduler.Better(&b, &a, false) {
		t.Error("large numbers compare wrongly")
	}
}
