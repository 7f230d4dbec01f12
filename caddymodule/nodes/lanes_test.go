package nodes_test

import "testing"

// lanes are what tests run in next to each other: as many as two cores bear, as each
// keeps one busy half of the time. Those that wait for leases to expire need none.
var lanes = make(chan struct{}, 2)

// inLane has a test run next to others, in its turn.
func inLane(t *testing.T) {
	t.Helper()
	t.Parallel()
	lanes <- struct{}{}
	t.Cleanup(func() { <-lanes })
}
