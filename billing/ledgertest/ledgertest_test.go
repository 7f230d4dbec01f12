package ledgertest

import (
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestMemory runs the suite on the plain ledger that it compares others with.
func TestMemory(t *testing.T) {
	Run(t, Harness{
		Fresh: func(_ *testing.T, loc *time.Location, clock *Clock) Open {
			store := newMemoryStore(loc, clock)
			return func(*testing.T) billing.Ledger { return store.open() }
		},
		Shared: true,
	})
}
