package ledgertest

import (
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestMemory runs the suite on the plain ledger that it compares others with.
func TestMemory(t *testing.T) {
	Run(t, Harness{
		Fresh: func(_ *testing.T, loc *time.Location) Open {
			store := newMemoryStore(loc)
			return func(*testing.T) billing.Ledger { return store.open() }
		},
		Advance: func(time.Duration) {},
		Shared:  true,
	})
}
