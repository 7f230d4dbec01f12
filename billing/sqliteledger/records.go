package sqliteledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
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
	if err := l.flush(); err != nil {
		return err
	}
	left := filter.Limit
	var last *billing.Record
	for {
		limit := pageSize
		if filter.Limit > 0 {
			limit = min(left, pageSize)
		}
		page, err := l.page(ctx, &filter, last, limit)
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

// page reads the records that follow after.
func (l *Ledger) page(ctx context.Context, filter *billing.RecordFilter, after *billing.Record, limit int) ([]*billing.Record, error) {
	where, args := conditions(filter, after)
	rows, err := l.reader.QueryContext(ctx, fmt.Sprintf(
		"SELECT %s FROM records WHERE %s ORDER BY time DESC, id DESC LIMIT ?", columnList, where), append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]*billing.Record, 0, min(limit, 64))
	for rows.Next() {
		r := new(billing.Record)
		var nanos int64
		columns := journal.Fields(r, &nanos)
		if err := rows.Scan(columns[:]...); err != nil {
			return nil, err
		}
		r.Time = time.Unix(0, nanos).UTC()
		page = append(page, r)
	}
	return page, rows.Err()
}

func conditions(filter *billing.RecordFilter, after *billing.Record) (where string, args []any) {
	terms := []string{"TRUE"}
	add := func(term string, values ...any) {
		terms = append(terms, term)
		args = append(args, values...)
	}
	if !filter.From.IsZero() {
		add("time >= ?", billing.UnixNano(filter.From))
	}
	if !filter.To.IsZero() {
		add("time < ?", billing.UnixNano(filter.To))
	}
	for _, equal := range [...]struct{ column, value string }{
		{"user", filter.User}, {"key_id", filter.KeyID}, {"account", filter.Account},
		{`"group"`, filter.Group}, {"model", filter.Model},
	} {
		if equal.value != "" {
			add(equal.column+" = ?", equal.value)
		}
	}
	if after != nil {
		add("(time, id) < (?, ?)", billing.UnixNano(after.Time), after.ID)
	}
	return strings.Join(terms, " AND "), args
}
