package gateway

import (
	"slices"
	"sync"
	"testing"
)

// TestRequestIDsAreInOrder: ids that grow keep a ledger's index quick to write, also
// where a clock stands still or goes back; no two are the same.
func TestRequestIDsAreInOrder(t *testing.T) {
	const goroutines, each = 4, 5000
	var mine [goroutines][]string
	var all sync.WaitGroup
	for g := range mine {
		all.Go(func() {
			for range each {
				mine[g] = append(mine[g], newRequestID())
			}
		})
	}
	all.Wait()
	seen := make(map[string]bool)
	for g := range mine {
		if !slices.IsSorted(mine[g]) {
			t.Errorf("goroutine %d: ids go back", g)
		}
		for _, id := range mine[g] {
			seen[id] = true
		}
	}
	if len(seen) != goroutines*each {
		t.Errorf("%d ids, want %d", len(seen), goroutines*each)
	}
	if last := slices.Max(slices.Concat(mine[:]...)); newRequestID() <= last {
		t.Error("an id is before one that was made before")
	}
}
