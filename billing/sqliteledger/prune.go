package sqliteledger

import (
	"context"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// pruneStep is the number of records that one transaction deletes.
	pruneStep    = 500
	creditPruned = "pruned"
)

// Prune implements billing.Ledger. After each step it leaves the database alone for
// as long as the step took.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (count int, err error) {
	day, isDue, err := l.oldestDay(ctx, before)
	for isDue && err == nil {
		start := time.Now()
		var deleted int
		deleted, isDue, err = l.pruneStep(ctx, day)
		count += deleted
		if !isDue || err != nil {
			break
		}
		select {
		case <-time.After(time.Since(start)):
		case <-ctx.Done():
			return count, ctx.Err()
		case <-l.quit:
			return count, billing.ErrClosed
		}
	}
	if err != nil && err != billing.ErrClosed {
		err = fmt.Errorf("deleting the records of a day before %s from the ledger in %s: %w",
			before.In(l.location).Format(time.RFC3339), l.dir, l.unwritable(err))
	}
	return count, err
}

// oldestDay is that of which there are records, which is due if it had ended before a
// time, and by now.
func (l *Ledger) oldestDay(ctx context.Context, before time.Time) (day int64, isDue bool, err error) {
	if l.closed.Load() {
		return 0, false, billing.ErrClosed
	}
	if err := l.flush(); err != nil {
		return 0, false, err
	}
	err = l.change(func() error {
		row, err := l.writer.exec(ctx, "SELECT min(time) FROM records")
		if err != nil || row[0] == nil {
			return err
		}
		day = l.days.dayOf(row[0].(int64))
		end := l.days.Start(day + 1)
		isDue = !end.After(before) && !end.After(l.now().Round(0))
		return nil
	})
	return day, isDue, err
}

// pruneStep deletes records of a day, and reports whether there may be more.
func (l *Ledger) pruneStep(ctx context.Context, day int64) (deleted int, more bool, err error) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	if l.closed.Load() {
		return 0, false, billing.ErrClosed
	}
	// A record that is deleted must not be in the journal any more: an Open would
	// take it for a new one.
	if err := l.flushHeld(); err != nil {
		return 0, false, err
	}
	err = l.change(func() error {
		l.mu.Lock()
		settled := l.settled
		l.mu.Unlock()
		sealed := l.settling
		err := l.writer.transaction(func() error {
			// Later records are settled later, those that are deleted included.
			if err := l.writer.seal(ctx, &sealed, settled+1); err != nil {
				return err
			}
			deleted, err = l.writer.prune(ctx, day, l.days, l.now())
			return err
		})
		if err == nil {
			l.settling.sealed = sealed.sealed
		}
		return err
	})
	return deleted, deleted == pruneStep && err == nil, err
}

// prune deletes records of a day: they leave its usage, and what they charged
// becomes a credit. With the last of them goes all of the day's usage.
func (w *writer) prune(ctx context.Context, day int64, days calendar, now time.Time) (deleted int, err error) {
	const these = "rowid IN (SELECT rowid FROM records WHERE time BETWEEN ?1 AND ?2 ORDER BY time, rowid LIMIT ?3)"
	first, last, most := days.start(day), days.end(day), int64(pruneStep)
	_, err = w.exec(ctx, fmt.Sprintf(`INSERT INTO credits (user, number, kind, id, time, amount) SELECT user, 0, ?4, '', ?5, %s
		FROM records WHERE billing = 'balance' AND %s GROUP BY user
		ON CONFLICT DO UPDATE SET time = excluded.time, amount = CAST(amount + excluded.amount AS INTEGER)`,
		sums("-", "charged"), these), first, last, most, creditPruned, now.UnixNano())
	if err != nil {
		return 0, err
	}
	for _, table := range []rollup{usageTable, byUserTable} {
		if _, err := w.exec(ctx, table.sumUp("-", these), first, last, most, day); err != nil {
			return 0, err
		}
	}
	if _, err = w.exec(ctx, "DELETE FROM records WHERE "+these, first, last, most); err != nil {
		return 0, err
	}
	row, err := w.exec(ctx, "SELECT changes()")
	if err != nil {
		return 0, err
	}
	deleted = int(row[0].(int64))
	if deleted == pruneStep {
		return deleted, nil
	}
	for _, table := range []rollup{usageTable, byUserTable} {
		if _, err := w.exec(ctx, "DELETE FROM "+table.name+" WHERE day = ?", day); err != nil {
			return 0, err
		}
	}
	return deleted, nil
}
