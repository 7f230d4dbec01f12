package caddymodule

import (
	"context"
	"log/slog"
	"time"
)

const (
	// firstPrune leaves a start alone.
	firstPrune = time.Minute
	pruneEvery = time.Hour
)

// forgetOldRecords deletes records that have been kept long enough, until ctx
// ends.
func (rt *runtime) forgetOldRecords(ctx context.Context) {
	timer := time.NewTimer(firstPrune)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		rt.prune(ctx)
		timer.Reset(pruneEvery)
	}
}

func (rt *runtime) prune(ctx context.Context) {
	ledger, keep := rt.store.current(), rt.retention()
	if ledger == nil || keep == 0 {
		return
	}
	before := time.Now().Add(-keep)
	logger := slog.New(&rt.logs)
	switch deleted, err := ledger.Prune(ctx, before); {
	case ctx.Err() != nil:
	case err != nil:
		logger.Error("old records could not be deleted; it is tried again in an hour", "store", rt.storage.String(), "before", before, "error", err)
	case deleted > 0:
		logger.Info("old records were deleted", "store", rt.storage.String(), "before", before, "records", deleted)
	}
}

// retention is the longest that the configs in force ask for; 0 is for ever.
func (rt *runtime) retention() (longest time.Duration) {
	for _, g := range rt.watched() {
		if g.retention == 0 {
			return 0
		}
		longest = max(longest, g.retention)
	}
	return longest
}
