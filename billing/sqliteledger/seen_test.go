package sqliteledger

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
)

// TestSeen has ids of which it must never say that they are new, and counts how
// often it does not know of those that are.
func TestSeen(t *testing.T) {
	const (
		capacity = 1 << 14
		bits     = capacity * bitsPerID
		added    = 5 * capacity / 2 // the filters change places twice
		tried    = capacity / 4
	)
	growing := func(n int) string { return fmt.Sprintf("id-%09d", n) }
	random := make([]string, added+tried)
	for i := range random {
		random[i] = uuid.NewString()
	}
	for name, id := range map[string]func(n int) string{
		"growing": growing,
		"falling": func(n int) string { return growing(len(random) - n) },
		"random":  func(n int) string { return random[n] },
	} {
		t.Run(name, func(t *testing.T) {
			s := &seen{young: newFilter(bits), old: newFilter(bits)}
			for n := range added {
				s.add(id(n))
			}
			for n := range added {
				if s.isNew(id(n)) {
					t.Fatalf("id %d of %d, %s, is new", n, added, id(n))
				}
			}
			unknown := 0
			for n := added; n < added+tried; n++ {
				if !s.isNew(id(n)) {
					unknown++
				}
			}
			if name == "growing" && unknown > tried/100 {
				t.Errorf("%d of %d new ids would be looked for in the database", unknown, tried)
			}
		})
	}
}

// TestSeenKnowsWhatTheDatabaseHas: ids up to the largest there are looked for.
func TestSeenKnowsWhatTheDatabaseHas(t *testing.T) {
	dir := t.TempDir()
	l := openWithAlice(t, dir)
	for _, id := range []string{"b", "d"} {
		if err := l.Settle(t.Context(), childRecord(id), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{})
	defer l.Close()
	for id, want := range map[string]bool{"a": false, "b": false, "c": false, "d": false, "e": true} {
		if got := l.seen.isNew(id); got != want {
			t.Errorf("isNew(%s) = %v, want %v", id, got, want)
		}
	}
	for _, id := range []string{"d", "b", "c"} { // one of them is new after all
		if err := l.Settle(t.Context(), childRecord(id), nil); err != nil {
			t.Fatal(err)
		}
	}
	wantSettled(t, l, 3)
	check(t, l)
}
