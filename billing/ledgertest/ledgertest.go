// Package ledgertest is the conformance suite that every billing.Ledger
// passes.
package ledgertest

import (
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Open opens a ledger over a store. It may be called again once the ledger
// that it gave is closed, and then finds the store as that one left it.
type Open func(t *testing.T) billing.Ledger

// Harness says how to run the suite on an implementation.
type Harness struct {
	// Fresh makes an empty store. Days begin at midnight in loc, and its ledgers and
	// what they keep it in go by the clock.
	Fresh func(t *testing.T, loc *time.Location, clock *Clock) Open
	// OwnTime: the store has a clock that nobody can set, which shows the time of day.
	// So does the Clock then, and tests that set it are skipped.
	OwnTime bool
	// Shared: several ledgers may be open over one store, and what is held there
	// comes back within a minute of the end of its process, or of the passing of it.
	Shared bool
}

// world is an empty store, whose days are UTC, and its time.
type world struct {
	Harness
	open  Open
	clock *Clock
}

func (h Harness) world(t *testing.T, loc *time.Location) world {
	clock := NewClock(epoch)
	if h.OwnTime {
		clock = &Clock{isOwn: true}
		if now := clock.Now(); now.Add(time.Minute).Day() != now.Day() {
			t.Skip("it is about to be midnight")
		}
	}
	return world{h, h.Fresh(t, loc, clock), clock}
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, part := range []map[string]func(*testing.T, Open){settleTests, recordTests, holdTests, creditTests, usageTests} {
		for name, test := range part {
			t.Run(name, func(t *testing.T) { test(t, h.world(t, time.UTC).open) })
		}
	}
	parts := []map[string]func(*testing.T, world){
		subscriptionTests, windowTests, keyTests, userTests, numberTests, pruneTests, storeTests, settledTests, clockTests,
	}
	if h.Shared {
		parts = append(parts, sharedTests)
	}
	for _, part := range parts {
		for name, test := range part {
			t.Run(name, func(t *testing.T) { test(t, h.world(t, time.UTC)) })
		}
	}
	for name, test := range zoneTests {
		t.Run(name, func(t *testing.T) { test(t, h) })
	}
}

// epoch is the time of the first record of a test.
var epoch = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)

func record(id string, charged billing.USD) *billing.Record {
	return &billing.Record{ID: id, Time: epoch, User: "alice", Cost: charged, Charged: charged, Billing: billing.PaidFromBalance}
}

func declare(t *testing.T, l billing.Ledger, users ...billing.User) {
	t.Helper()
	if err := l.Declare(t.Context(), users); err != nil {
		t.Fatalf("Declare: %v", err)
	}
}

func settle(t *testing.T, l billing.Ledger, r *billing.Record) {
	t.Helper()
	if err := l.Settle(t.Context(), r, nil); err != nil {
		t.Fatalf("Settle(%s): %v", r.ID, err)
	}
}

func wantBalance(t *testing.T, l billing.Ledger, user string, want billing.Balance) {
	t.Helper()
	got, err := l.Balance(t.Context(), user)
	if err != nil {
		t.Fatalf("Balance(%s): %v", user, err)
	}
	if got != want {
		t.Errorf("Balance(%s) = %+v, want %+v", user, got, want)
	}
}

func close1(t *testing.T, l billing.Ledger) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}
