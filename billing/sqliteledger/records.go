package sqliteledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// pageSize is how many records are read at once. No page is open while its
// records are handed out: a slow reader would keep the WAL from shrinking.
const pageSize = 512

// Records implements billing.Ledger. Records of one moment come in descending
// order of their ids.
func (l *Ledger) Records(ctx context.Context, filter billing.RecordFilter, yield func(*billing.Record) bool) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	if err := l.seal(ctx, filter.SettledTo); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	settled := new(conditions)
	if err := l.settledBetween(ctx, &filter, settled); err != nil {
		return fmt.Errorf("looking for when records of the ledger in %s were settled: %w", l.dir, err)
	}
	left := filter.Limit
	last := filter.After
	for {
		limit := pageSize
		if filter.Limit > 0 {
			limit = min(left, pageSize)
		}
		page, err := l.page(ctx, &filter, settled, last, limit)
		if err != nil && l.closed.Load() {
			return billing.ErrClosed
		}
		if err != nil {
			return fmt.Errorf("reading records from the ledger in %s: %w", l.dir, err)
		}
		for _, r := range page {
			if !yield(r) {
				return nil
			}
		}
		left -= len(page)
		if len(page) < limit || filter.Limit > 0 && left == 0 {
			return nil
		}
		last = page[len(page)-1]
	}
}

// page reads the records that follow after, of those settled as the conditions say.
func (l *Ledger) page(ctx context.Context, filter *billing.RecordFilter, settled *conditions, after *billing.Record, limit int) ([]*billing.Record, error) {
	where := &conditions{slices.Clone(settled.terms), slices.Clone(settled.args)}
	if !filter.From.IsZero() {
		where.add("time >= ?", billing.UnixNano(filter.From))
	}
	if !filter.To.IsZero() {
		where.add("time < ?", billing.UnixNano(filter.To))
	}
	if after != nil {
		where.add("(time, id) < (?, ?)", billing.UnixNano(after.Time), after.ID)
	}
	where.addNames(filter)
	return l.list(ctx, where, limit)
}

// Record implements billing.Ledger.
func (l *Ledger) Record(ctx context.Context, id string) (*billing.Record, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	if err := l.flush(); err != nil {
		return nil, err
	}
	where := new(conditions)
	where.add("id = ?", id)
	records, err := l.list(ctx, where, 1)
	switch {
	case err != nil && l.closed.Load():
		return nil, billing.ErrClosed
	case err != nil:
		return nil, fmt.Errorf("reading record %q from the ledger in %s: %w", id, l.dir, err)
	case len(records) == 0:
		return nil, fmt.Errorf("record %q: %w", id, billing.ErrUnknownRecord)
	}
	return records[0], nil
}

// list reads at most that many records, newest first.
func (l *Ledger) list(ctx context.Context, where *conditions, limit int) ([]*billing.Record, error) {
	rows, err := l.reader.QueryContext(ctx, fmt.Sprintf(
		"SELECT %s FROM records WHERE %s ORDER BY time DESC, id DESC LIMIT ?", columnList, where), append(where.args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]*billing.Record, 0, min(limit, 64))
	into := make([]any, len(columns))
	for rows.Next() {
		r := new(billing.Record)
		var nanos, settled int64
		for i := range billing.Fields {
			into[i] = billing.Fields[i].Of(r)
			if _, isTime := into[i].(*time.Time); isTime {
				into[i] = &nanos
			}
		}
		into[len(into)-1] = &settled
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		if settled == 0 {
			settled = min(nanos, l.settling.begun)
		}
		r.Time, r.Settled = time.Unix(0, nanos).UTC(), time.Unix(0, settled).UTC()
		page = append(page, r)
	}
	return page, rows.Err()
}

// conditions is what follows WHERE.
type conditions struct {
	terms []string
	args  []any
}

func (c *conditions) add(term string, values ...any) {
	c.terms = append(c.terms, term)
	c.args = append(c.args, values...)
}

// addNames adds what a filter says of names; usage and records have the same
// columns for them.
func (c *conditions) addNames(filter *billing.RecordFilter) {
	for i, value := range [...]string{filter.User, filter.KeyID, filter.Account, filter.Group, filter.Model} {
		if value != "" {
			c.add(nameColumns[i]+" = ?", value)
		}
	}
}

// String is TRUE where there are none.
func (c *conditions) String() string {
	if len(c.terms) == 0 {
		return "TRUE"
	}
	return strings.Join(c.terms, " AND ")
}
