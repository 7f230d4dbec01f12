package redisledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

const (
	// pageSize is how many records are read at once.
	pageSize = 256
	// daysBatch is in how many days a record is looked for at once.
	daysBatch = 128
)

// Records implements billing.Ledger. It fails while Redis does, because it could
// not show all. Other processes' spools are theirs.
func (l *Ledger) Records(ctx context.Context, filter billing.RecordFilter, yield func(*billing.Record) bool) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	if err := l.records(ctx, &filter, yield); err != nil {
		return fmt.Errorf("reading records from Redis: %w", err)
	}
	return nil
}

func (l *Ledger) records(ctx context.Context, filter *billing.RecordFilter, yield func(*billing.Record) bool) error {
	if err := l.bringWaiting(ctx); err != nil {
		return err
	}
	days, err := l.days(ctx, filter)
	if err != nil {
		return err
	}
	count := 0
	for _, day := range days {
		for below := upper(filter); below != ""; {
			page, _, next, err := l.page(ctx, day, lower(filter), below)
			if err != nil {
				return fmt.Errorf("of %s: %w", day, err)
			}
			for _, r := range page {
				if !matches(filter, r) {
					continue
				}
				if count++; !yield(r) || count == filter.Limit {
					return nil
				}
			}
			below = next
		}
	}
	return nil
}

// bringWaiting brings Redis the records of the spool.
func (l *Ledger) bringWaiting(ctx context.Context) error {
	if l.spool == nil {
		return nil
	}
	if err := l.drain(ctx); err != nil {
		return fmt.Errorf("bringing it those that wait in the spool: %w", err)
	}
	return nil
}

// Record implements billing.Ledger, in two round trips for the last few months, and
// one more for each few before them.
func (l *Ledger) Record(ctx context.Context, id string) (*billing.Record, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	r, err := l.record(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading record %q from Redis: %w", id, err)
	}
	return r, nil
}

func (l *Ledger) record(ctx context.Context, id string) (*billing.Record, error) {
	if err := l.bringWaiting(ctx); err != nil {
		return nil, err
	}
	days, err := l.days(ctx, &billing.RecordFilter{})
	if err != nil {
		return nil, err
	}
	for batch := range slices.Chunk(days, daysBatch) {
		data, err := l.findRecord(ctx, id, batch)
		if err != nil {
			return nil, err
		}
		if data == "" {
			continue
		}
		r := new(billing.Record)
		if !journal.Decode([]byte(data), r) {
			return nil, fmt.Errorf("it can't be read: %d bytes", len(data))
		}
		return r, nil
	}
	return nil, billing.ErrUnknownRecord
}

// findRecord looks a record up in some days, in one round trip; "" for none.
func (l *Ledger) findRecord(ctx context.Context, id string, days []string) (string, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	found := make([]*redis.StringCmd, len(days))
	pipe := l.client.Pipeline()
	for i, day := range days {
		found[i] = pipe.HGet(bounded, l.recordsKey(day), id)
	}
	_, _ = pipe.Exec(bounded) // the first error of those that the commands have
	for _, cmd := range found {
		switch err := cmd.Err(); {
		case err == nil:
			return cmd.Val(), nil
		case !errors.Is(err, redis.Nil):
			return "", l.note(ctx, err)
		}
	}
	return "", nil
}

// days are those that may have records which the filter matches, last first.
func (l *Ledger) days(ctx context.Context, filter *billing.RecordFilter) ([]string, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	days, err := l.client.SMembers(bounded, l.daysKey()).Result()
	if l.note(ctx, err) != nil {
		return nil, err
	}
	days = slices.DeleteFunc(days, func(d string) bool {
		return !filter.From.IsZero() && d < day(filter.From) || !filter.To.IsZero() && d > day(filter.To) ||
			filter.After != nil && d > day(filter.After.Time)
	})
	slices.Sort(days)
	slices.Reverse(days)
	return days, nil
}

// lower and upper are the filter's bounds of members of an index.
func lower(filter *billing.RecordFilter) string {
	if filter.From.IsZero() {
		return "-"
	}
	return "[" + stamp(filter.From)
}

func upper(filter *billing.RecordFilter) string {
	bound := ""
	if !filter.To.IsZero() {
		bound = "(" + stamp(filter.To)
	}
	if after := filter.After; after != nil {
		if last := "(" + stamp(after.Time) + after.ID; bound == "" || last < bound {
			bound = last
		}
	}
	return cmp.Or(bound, "+")
}

// page reads a day's last records between the bounds, and the members of the index
// that name them. next is the upper bound for those before them, "" if there are
// none.
func (l *Ledger) page(ctx context.Context, day, above, below string) (page []*billing.Record, members []string, next string, err error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	members, err = l.client.ZRangeArgs(bounded, redis.ZRangeArgs{
		Key: l.indexKey(day), Start: below, Stop: above, ByLex: true, Rev: true, Count: pageSize,
	}).Result()
	if l.note(ctx, err) != nil || len(members) == 0 {
		return nil, nil, "", err
	}
	ids := make([]string, len(members))
	for i, member := range members {
		ids[i] = idOf(member)
	}
	values, err := l.client.HMGet(bounded, l.recordsKey(day), ids...).Result()
	if l.note(ctx, err) != nil {
		return nil, nil, "", err
	}
	page = make([]*billing.Record, 0, len(values))
	for i, value := range values {
		data, ok := value.(string)
		if !ok {
			continue // deleted by now
		}
		r := new(billing.Record)
		if !journal.Decode([]byte(data), r) {
			return nil, nil, "", fmt.Errorf("record %q can't be read: %d bytes", ids[i], len(data))
		}
		page = append(page, r)
	}
	if len(members) == pageSize {
		next = "(" + members[len(members)-1]
	}
	return page, members, next, nil
}

// idOf is the ID of the record that a member of an index names.
func idOf(member string) string { return member[min(stampLength, len(member)):] }

// matches tells whether the filter's names match; its times are the index's
// matter.
func matches(filter *billing.RecordFilter, r *billing.Record) bool {
	for _, equal := range [...]struct{ want, got string }{
		{filter.User, r.User}, {filter.KeyID, r.KeyID}, {filter.Account, r.Account},
		{filter.Group, r.Group}, {filter.Model, r.Model},
	} {
		if equal.want != "" && equal.want != equal.got {
			return false
		}
	}
	return true
}
