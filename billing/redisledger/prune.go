package redisledger

import (
	"context"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// Prune implements billing.Ledger, 256 records with one script. It can be called
// again after an error, and by several processes at once. A record that is settled
// after its day was pruned is kept until the next time.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (int, error) {
	if l.closed.Load() {
		return 0, billing.ErrClosed
	}
	count, err := l.prune(ctx, before)
	if err != nil {
		return count, fmt.Errorf("pruning records in Redis, %d are deleted: %w", count, err)
	}
	return count, nil
}

func (l *Ledger) prune(ctx context.Context, before time.Time) (count int, err error) {
	if err := l.bringWaiting(ctx); err != nil {
		return 0, err
	}
	days, err := l.days(ctx, &billing.RecordFilter{})
	if err != nil {
		return 0, err
	}
	for _, d := range days {
		if d >= day(before) {
			continue
		}
		for next := "+"; next != ""; {
			var page []*billing.Record
			var members []string
			if page, members, next, err = l.page(ctx, d, "-", next); err != nil {
				return count, fmt.Errorf("of %s: %w", d, err)
			}
			deleted, err := l.deleteRecords(ctx, d, page, members)
			if err != nil {
				return count, fmt.Errorf("of %s: %w", d, err)
			}
			count += deleted
		}
	}
	return count, nil
}

// deleteRecords deletes a page of a day, and the day if it has no more.
func (l *Ledger) deleteRecords(ctx context.Context, day string, page []*billing.Record, members []string) (int, error) {
	charges := make(map[string]*billing.Record, len(page))
	for _, r := range page {
		if r.Billing == billing.PaidFromBalance {
			charges[r.ID] = r
		}
	}
	keys := []string{l.daysKey(), l.recordsKey(day), l.indexKey(day)}
	numbers := make(map[string]int)
	args := []any{day}
	for _, member := range members {
		charged, user := billing.USD(0), 0
		if r := charges[idOf(member)]; r != nil {
			if numbers[r.User] == 0 {
				keys = append(keys, l.userKey(r.User))
				numbers[r.User] = len(keys)
			}
			charged, user = r.Charged, numbers[r.User]
		}
		args = append(args, member, int64(charged), user)
	}
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	reply, err := redispipe.Run(bounded, l.client, pruneScript, keys, args...)
	if l.note(ctx, err) != nil {
		return 0, err
	}
	count, ok := reply.(int64)
	if !ok {
		return 0, fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	return int(count), nil
}
