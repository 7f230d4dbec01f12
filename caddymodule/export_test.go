package caddymodule

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// OnSettle has f told how long each Settle takes in the gateways that run.
func OnSettle(f func(time.Duration)) {
	runtimes.Range(func(_, value any) bool {
		for _, g := range value.(*runtime).watched() {
			var timed billing.Ledger = timedLedger{*g.start.ready.Load(), f}
			g.start.ready.Store(&timed)
		}
		return true
	})
}

type timedLedger struct {
	billing.Ledger
	took func(time.Duration)
}

func (l timedLedger) Settle(ctx context.Context, record *billing.Record) error {
	began := time.Now()
	err := l.Ledger.Settle(ctx, record)
	l.took(time.Since(began))
	return err
}
