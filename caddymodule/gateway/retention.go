package gateway

import (
	"context"
	"log/slog"
	"time"
)

const (
	// lookEvery is how often the clock is looked at. An hour of looks decides what is
	// old: a clock that is wrong for less than that deletes nothing.
	lookEvery   = time.Minute
	looksAnHour = int(time.Hour / lookEvery)
)

// forgetOldRecords deletes records that have been kept long enough, a day of them in
// an hour and none in the first, until ctx ends.
func (rt *Runtime) forgetOldRecords(ctx context.Context) { eachHour(ctx, time.Now, rt.prune) }

// eachHour calls f after each hour, with the earliest time that a clock showed in it,
// until ctx ends.
func eachHour(ctx context.Context, now func() time.Time, f func(ctx context.Context, earliest time.Time)) {
	look := func() time.Time { return now().Round(0) } // what it shows, not how much time has passed
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		earliest := look()
		for range looksAnHour {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if at := look(); at.Before(earliest) {
				earliest = at
			}
		}
		f(ctx, earliest)
	}
}

// prune deletes the oldest day of records, if it had ended long enough before a time.
func (rt *Runtime) prune(ctx context.Context, now time.Time) {
	ledger, keep := rt.store.Current(), rt.retention()
	if ledger == nil || keep == 0 {
		return
	}
	before := now.Add(-keep)
	logger := slog.New(&rt.Logs)
	switch deleted, err := ledger.Prune(ctx, before); {
	case ctx.Err() != nil:
	case err != nil:
		logger.Error("old records could not be deleted; it is tried again in an hour", "store", rt.Storage.String(), "before", before, "error", err)
	case deleted > 0:
		logger.Info("old records were deleted", "store", rt.Storage.String(), "before", before, "records", deleted)
	}
}

// retention is the longest that the configs in force ask for; 0 is for ever.
func (rt *Runtime) retention() (longest time.Duration) {
	for _, g := range rt.Watched() {
		if g.Config.Retention == 0 {
			return 0
		}
		longest = max(longest, g.Config.Retention)
	}
	return longest
}
