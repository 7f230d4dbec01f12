package sqliteledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// settling is what the database has of when records were settled. Those from the row
// first on have that in a column, which grows from row to row, so that rows are found
// by it without an index: one would cost every Settle. Older ones count as settled at
// their time, and at begun where that is later. first and begun never change.
type settling struct {
	first, begun int64
	// sealed is when nothing is settled before any more, because it was exported. It is
	// guarded by Ledger.writing.
	sealed int64
}

// loadSettling reads it, and has the next record be settled later than all others.
func (l *Ledger) loadSettling(ctx context.Context) error {
	s := &l.settling
	row := l.reader.QueryRowContext(ctx, "SELECT first, begun, sealed FROM settling")
	if err := row.Scan(&s.first, &s.begun, &s.sealed); err != nil {
		return fmt.Errorf("reading the table settling: %w", err)
	}
	var last int64
	err := l.reader.QueryRowContext(ctx, "SELECT settled FROM records ORDER BY rowid DESC LIMIT 1").Scan(&last)
	if err != nil && err != sql.ErrNoRows {
		return fmt.Errorf("reading the last record: %w", err)
	}
	l.settled = max(s.begun, s.sealed-1, last)
	return nil
}

// seal has nothing be settled any more before a time that has come, after a crash
// neither.
func (l *Ledger) seal(ctx context.Context, end time.Time) error {
	if end.IsZero() || end.After(l.now().Round(0)) {
		return nil
	}
	sealed := billing.UnixNano(end)
	l.mu.Lock()
	l.settled = max(l.settled, sealed-1)
	l.mu.Unlock()
	return l.change(func() error { return l.writer.seal(ctx, &l.settling, sealed) })
}

func (w *writer) seal(ctx context.Context, s *settling, sealed int64) error {
	if sealed <= s.sealed {
		return nil
	}
	if _, err := w.exec(ctx, "UPDATE settling SET sealed = ?", sealed); err != nil {
		return err
	}
	s.sealed = sealed
	return nil
}

// settledBetween adds what a filter says of when records were settled. The signs
// before rowid keep SQLite from reading by it, and sorting all that for each page.
func (l *Ledger) settledBetween(ctx context.Context, filter *billing.RecordFilter, where *conditions) error {
	if filter.SettledFrom.IsZero() && filter.SettledTo.IsZero() {
		return nil
	}
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if !filter.SettledFrom.IsZero() {
		from = billing.UnixNano(filter.SettledFrom)
	}
	if !filter.SettledTo.IsZero() {
		to = billing.UnixNano(filter.SettledTo)
	}
	if old := &l.settling; old.first > 1 && from <= old.begun {
		if to <= old.begun {
			where.add("+rowid < ? AND time >= ? AND time < ?", old.first, from, to)
			return nil
		}
		end, err := l.rowFrom(ctx, to)
		where.add("(+rowid >= ? AND +rowid < ? OR +rowid < ? AND time >= ?)", old.first, end, old.first, from)
		return err
	}
	first, err := l.rowFrom(ctx, from)
	if err != nil {
		return err
	}
	end, err := l.rowFrom(ctx, to)
	if err != nil {
		return err
	}
	where.add("+rowid >= ? AND +rowid < ?", first, end)
	return l.timesOf(ctx, first, end, where)
}

// timesOf adds between which times the records of some rows came in, by which they are
// listed: without, all others would be looked at too. Where these are many it would
// take longer to find that out.
func (l *Ledger) timesOf(ctx context.Context, first, end int64, where *conditions) error {
	var all int64
	if err := l.reader.QueryRowContext(ctx, "SELECT ifnull(max(rowid) - min(rowid), 0) FROM records").Scan(&all); err != nil {
		return err
	}
	if end-first > all/4 {
		return nil
	}
	var earliest, latest sql.NullInt64
	row := l.reader.QueryRowContext(ctx, "SELECT min(time), max(time) FROM records WHERE rowid >= ? AND rowid < ?", first, end)
	err := row.Scan(&earliest, &latest)
	where.add("time BETWEEN ? AND ?", earliest, latest)
	return err
}

// rowFrom is the first row, of those that have their own value, whose record was
// settled at a time or later; the one after the last if there is none.
func (l *Ledger) rowFrom(ctx context.Context, settled int64) (int64, error) {
	var last sql.NullInt64
	if err := l.reader.QueryRowContext(ctx, "SELECT max(rowid) FROM records").Scan(&last); err != nil {
		return 0, err
	}
	low, high := l.settling.first, max(last.Int64+1, l.settling.first)
	for low < high {
		middle := low + (high-low)/2
		row, value := high, settled // of none, where they are deleted meanwhile
		err := l.reader.QueryRowContext(ctx,
			"SELECT rowid, settled FROM records WHERE rowid >= ? ORDER BY rowid LIMIT 1", middle).Scan(&row, &value)
		switch {
		case err != nil && err != sql.ErrNoRows:
			return 0, err
		case value < settled:
			low = row + 1
		default:
			high = middle
		}
	}
	return low, nil
}
