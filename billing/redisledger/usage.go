package redisledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Usage implements billing.Ledger. It reads every record that the filter's times
// allow, some hundred thousand in a second.
func (l *Ledger) Usage(ctx context.Context, filter billing.RecordFilter, by []billing.Dimension, yield func(*billing.UsageRow) bool) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	for _, dimension := range by {
		if _, err := billing.ParseDimension(string(dimension)); err != nil {
			return fmt.Errorf("summing up usage: %w", err)
		}
	}
	filter.After, filter.Limit, filter.SettledFrom, filter.SettledTo = nil, 0, time.Time{}, time.Time{}
	rows := make(map[billing.UsageRow]*billing.UsageRow) // by the names alone
	if len(by) == 0 {
		rows[billing.UsageRow{}] = new(billing.UsageRow)
	}
	err := l.records(ctx, &filter, func(r *billing.Record) bool {
		names := l.namesOf(r, by)
		row := rows[names]
		if row == nil {
			row = &billing.UsageRow{}
			*row = names
			rows[names] = row
		}
		row.Add(r)
		return true
	})
	if err != nil {
		return fmt.Errorf("summing up usage from Redis: %w", unavailable(err))
	}
	sorted := make([]*billing.UsageRow, 0, len(rows))
	for _, row := range rows {
		sorted = append(sorted, row)
	}
	slices.SortFunc(sorted, func(a, b *billing.UsageRow) int {
		for _, dimension := range by {
			if order := cmp.Compare(*a.Name(dimension), *b.Name(dimension)); order != 0 {
				return order
			}
		}
		return 0
	})
	for _, row := range sorted {
		if !yield(row) {
			return nil
		}
	}
	return nil
}

// namesOf is a row with the names that the dimensions give a record, and no sums.
func (l *Ledger) namesOf(r *billing.Record, by []billing.Dimension) (names billing.UsageRow) {
	all := billing.UsageRow{
		User: r.User, KeyID: r.KeyID, Account: r.Account, Group: r.Group, Model: r.Model, Day: r.Time.In(l.location).Format(time.DateOnly),
	}
	for _, dimension := range by {
		*names.Name(dimension) = *all.Name(dimension)
	}
	return names
}
