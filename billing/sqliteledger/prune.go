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
	first := dayOf(billing.UnixNano(before)) // that stays
	for {
		start := time.Now()
		deleted, more, err := l.pruneStep(ctx, first)
		count += deleted
		if err != nil && err != billing.ErrClosed {
			err = fmt.Errorf("deleting records before %s from the ledger in %s: %w", dayText(first), l.dir, l.unwritable(err))
		}
		if err != nil || !more {
			return count, err
		}
		select {
		case <-time.After(time.Since(start)):
		case <-ctx.Done():
			return count, ctx.Err()
		case <-l.quit:
			return count, billing.ErrClosed
		}
	}
}

// pruneStep deletes records of the oldest day before a day, and tells whether there
// may be more.
func (l *Ledger) pruneStep(ctx context.Context, before int64) (deleted int, more bool, err error) {
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
		row, err := l.writer.exec(ctx, "SELECT min(time) FROM records")
		if err != nil || row[0] == nil || dayOf(row[0].(int64)) >= before {
			return err
		}
		more = true
		return l.writer.transaction(func() error {
			deleted, err = l.writer.prune(ctx, dayOf(row[0].(int64)))
			return err
		})
	})
	return deleted, more && err == nil, err
}

// prune deletes records of a day: they leave its usage, and what they charged
// becomes a credit. With the last of them goes all of the day's usage.
func (w *writer) prune(ctx context.Context, day int64) (deleted int, err error) {
	const these = "rowid IN (SELECT rowid FROM records WHERE time BETWEEN ?1 AND ?2 ORDER BY time, rowid LIMIT ?3)"
	first, last, most := dayStart(day), dayEnd(day), int64(pruneStep)
	_, err = w.exec(ctx, fmt.Sprintf(`INSERT INTO credits (user, kind, id, time, amount) SELECT user, ?4, '', ?5, %s
		FROM records WHERE billing = 'balance' AND %s GROUP BY user
		ON CONFLICT DO UPDATE SET time = excluded.time, amount = CAST(amount + excluded.amount AS INTEGER)`,
		sums("-", "charged"), these), first, last, most, creditPruned, time.Now().UnixNano())
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
