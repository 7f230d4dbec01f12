package caddymodule

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// OnSettle has f told how long each Settle takes in the gateways that start from now on.
func OnSettle(f func(time.Duration)) (undo func()) {
	caddyHooks.Ledger = func(l billing.Ledger) billing.Ledger { return timedLedger{l, f} }
	return func() { caddyHooks.Ledger = nil }
}

type timedLedger struct {
	billing.Ledger
	took func(time.Duration)
}

func (l timedLedger) Settle(ctx context.Context, record *billing.Record, along roundtrip.Batch) error {
	began := time.Now()
	err := l.Ledger.Settle(ctx, record, along)
	l.took(time.Since(began))
	return err
}

// ShortTimes makes the fixed times shorter for the gateways that start from now on:
// what an answer may take before it counts as paid, and how long a client hears
// nothing of an account that has begun to answer. It returns how to undo that.
func ShortTimes(paid, answering time.Duration) (undo func()) {
	caddyHooks.PaidAfter, caddyHooks.AnsweringAfter = paid, answering
	return func() { caddyHooks.PaidAfter, caddyHooks.AnsweringAfter = 0, 0 }
}
