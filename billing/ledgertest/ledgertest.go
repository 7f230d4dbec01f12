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
	// Fresh makes an empty store, for ledgers whose days begin at midnight in loc.
	Fresh func(t *testing.T, loc *time.Location) Open
	// Advance lets d pass for the stores; nil if nobody can. Windows need it not:
	// claims and records say when they are.
	Advance func(d time.Duration)
	// Shared: several ledgers may be open over one store.
	Shared bool
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, part := range []map[string]func(*testing.T, Open){
		settleTests, recordTests, holdTests, subscriptionTests, windowTests, keyTests, userTests, creditTests, usageTests,
		pruneTests, storeTests,
	} {
		for name, test := range part {
			t.Run(name, func(t *testing.T) { test(t, h.Fresh(t, time.UTC)) })
		}
	}
	for name, test := range harnessTests {
		t.Run(name, func(t *testing.T) { test(t, h) })
	}
	if !h.Shared {
		return
	}
	for name, test := range sharedTests {
		t.Run(name, func(t *testing.T) { test(t, h.Fresh(t, time.UTC)) })
	}
}

// epoch is the time of the first record of a test.
var epoch = time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)

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
