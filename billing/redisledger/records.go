package redisledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// pageSize is how many records are read at once.
const pageSize = 256

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
	if l.spool != nil {
		if err := l.drain(ctx); err != nil {
			return fmt.Errorf("bringing it those that wait in the spool: %w", err)
		}
	}
	days, err := l.days(ctx, filter)
	if err != nil {
		return err
	}
	count := 0
	for _, day := range days {
		for below := upper(filter); below != ""; {
			page, next, err := l.page(ctx, day, lower(filter), below)
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

// days are those that may have records which the filter matches, last first.
func (l *Ledger) days(ctx context.Context, filter *billing.RecordFilter) ([]string, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	days, err := l.client.SMembers(bounded, l.daysKey()).Result()
	if l.note(ctx, err) != nil {
		return nil, err
	}
	days = slices.DeleteFunc(days, func(d string) bool {
		return !filter.From.IsZero() && d < day(filter.From) || !filter.To.IsZero() && d > day(filter.To)
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
	if filter.To.IsZero() {
		return "+"
	}
	return "(" + stamp(filter.To)
}

// page reads a day's last records between the bounds. next is the upper bound for
// those before them, "" if there are none.
func (l *Ledger) page(ctx context.Context, day, above, below string) (page []*billing.Record, next string, err error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	members, err := l.client.ZRangeArgs(bounded, redis.ZRangeArgs{
		Key: l.indexKey(day), Start: below, Stop: above, ByLex: true, Rev: true, Count: pageSize,
	}).Result()
	if l.note(ctx, err) != nil || len(members) == 0 {
		return nil, "", err
	}
	ids := make([]string, len(members))
	for i, member := range members {
		ids[i] = member[min(stampLength, len(member)):]
	}
	values, err := l.client.HMGet(bounded, l.recordsKey(day), ids...).Result()
	if l.note(ctx, err) != nil {
		return nil, "", err
	}
	page = make([]*billing.Record, 0, len(values))
	for i, value := range values {
		data, ok := value.(string)
		if !ok {
			continue // deleted by now
		}
		r := new(billing.Record)
		if !journal.Decode([]byte(data), r) {
			return nil, "", fmt.Errorf("record %q can't be read: %d bytes", ids[i], len(data))
		}
		page = append(page, r)
	}
	if len(members) == pageSize {
		next = "(" + members[len(members)-1]
	}
	return page, next, nil
}

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
