package redisledger

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// pruneEvery is how often a day is deleted, by all processes together.
const pruneEvery = time.Hour

// Prune implements billing.Ledger, 256 records with one script. It can be called again
// after an error, and goes on with the same day. A record that is settled after its day
// was pruned is kept until the next time.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (int, error) {
	if l.closed.Load() {
		return 0, billing.ErrClosed
	}
	count, err := l.prune(ctx, before)
	if err != nil {
		return count, fmt.Errorf("pruning records in Redis, %d are deleted: %w", count, unavailable(err))
	}
	return count, nil
}

func (l *Ledger) prune(ctx context.Context, before time.Time) (count int, err error) {
	if err := l.bringWaiting(ctx); err != nil {
		return 0, err
	}
	if err := l.heartbeat(ctx); err != nil { // which tells the time
		return 0, err
	}
	now := l.snapshot.now()
	if ahead := now.Sub(l.clock()); ahead < -time.Second { // this process's clock is not trusted alone
		before = before.Add(ahead)
	}
	days, err := l.days(ctx, &billing.RecordFilter{})
	if err != nil || len(days) == 0 {
		return 0, err
	}
	oldest, err := l.oldest(ctx, days[len(days)-1])
	if err != nil {
		return 0, err
	}
	end := billing.WindowsFrom(oldest, l.location)[billing.Daily].End
	if end.After(before) || end.After(now) {
		return 0, nil
	}
	if isDue, err := l.pruneIsDue(ctx, end); err != nil || !isDue {
		return 0, err
	}
	for _, d := range days {
		if d > day(end) {
			continue
		}
		for next := "(" + stamp(end); next != ""; {
			var page []*billing.Record
			var members []string
			if page, members, next, err = l.page(ctx, d, "-", next); err != nil {
				return count, fmt.Errorf("of %s: %w", d, err)
			}
			if len(members) == 0 {
				break
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

// oldest is the time of a day's first record.
func (l *Ledger) oldest(ctx context.Context, day string) (time.Time, error) {
	members, err := ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd { return pipe.ZRange(ctx, l.indexKey(day), 0, 0) })
	if err != nil {
		return time.Time{}, err
	}
	if len(members) == 0 || len(members[0]) < stampLength {
		return time.Parse(time.DateOnly, day)
	}
	return timeOf(members[0]), nil
}

// pruneIsDue reports whether the day that ends at a time may be deleted now: no other
// was in the last hour.
func (l *Ledger) pruneIsDue(ctx context.Context, end time.Time) (bool, error) {
	isDue, err := l.link.Run(ctx, pruneDueScript, []string{l.prefix + "pruned"}, end.Unix(), int64(pruneEvery/time.Second))
	return isDue == int64(1), err
}

// deleteRecords deletes a page of a day, and the day if it has no more.
func (l *Ledger) deleteRecords(ctx context.Context, day string, page []*billing.Record, members []string) (int, error) {
	records := make(map[string]*billing.Record, len(page))
	for _, r := range page {
		records[r.ID] = r
	}
	keys := []string{l.daysKey(), l.recordsKey(day), l.indexKey(day)}
	numbers := make(map[string]int)
	number := func(key string) int {
		if numbers[key] == 0 {
			keys = append(keys, key)
			numbers[key] = len(keys)
		}
		return numbers[key]
	}
	args := []any{day}
	for _, member := range members {
		charged, user, settled := billing.USD(0), 0, 0
		if r := records[idOf(member)]; r != nil {
			settled = number(l.settledKey(strconv.FormatInt(r.Settled.Unix()/int64(24*time.Hour/time.Second), 10)))
			if r.Billing == billing.PaidFromBalance {
				charged, user = r.Charged, number(l.userKey(r.User))
			}
		}
		args = append(args, member, int64(charged), user, settled)
	}
	answer, err := l.link.Run(ctx, pruneScript, keys, args...)
	if err != nil {
		return 0, err
	}
	count, ok := answer.(int64)
	if !ok {
		return 0, fmt.Errorf("an unknown answer of Redis: %T %v", answer, answer)
	}
	return int(count), nil
}
