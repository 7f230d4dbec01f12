package redisledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
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
		return fmt.Errorf("reading records from Redis: %w", unavailable(err))
	}
	return nil
}

func (l *Ledger) records(ctx context.Context, filter *billing.RecordFilter, yield func(*billing.Record) bool) error {
	if err := l.bringWaiting(ctx); err != nil {
		return err
	}
	count := 0
	take := func(page []*billing.Record) (isOver bool) {
		for _, r := range page {
			if !matches(filter, r) {
				continue
			}
			if count++; !yield(r) || count == filter.Limit {
				return true
			}
		}
		return false
	}
	if !filter.SettledFrom.IsZero() || !filter.SettledTo.IsZero() {
		return l.recordsBySettled(ctx, filter, take)
	}
	days, err := l.days(ctx, filter)
	if err != nil {
		return err
	}
	for _, day := range days {
		for below := upper(filter); below != ""; {
			page, _, next, err := l.page(ctx, day, lower(filter), below)
			if err != nil {
				return fmt.Errorf("of %s: %w", day, err)
			}
			if take(page) {
				return nil
			}
			below = next
		}
	}
	return nil
}

// recordsBySettled calls take with pages of the records that were settled between two
// times, newest first. It has an index of all of them in memory, some 50 bytes each.
func (l *Ledger) recordsBySettled(ctx context.Context, filter *billing.RecordFilter, take func([]*billing.Record) bool) error {
	first, last, err := l.settledDays(ctx, filter)
	if err != nil {
		return err
	}
	var members []string
	for day := first; day <= last; day++ {
		by := &redis.ZRangeBy{Min: settledBound(filter.SettledFrom, "-inf", ""), Max: settledBound(filter.SettledTo, "+inf", "(")}
		found, err := ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd {
			return pipe.ZRangeByScore(ctx, l.settledKey(strconv.FormatInt(day, 10)), by)
		})
		if err != nil {
			return err
		}
		members = append(members, found...)
	}
	above, below := strings.TrimPrefix(lower(filter), "["), strings.TrimPrefix(upper(filter), "(")
	members = slices.DeleteFunc(members, func(m string) bool {
		return len(m) < stampLength || above != "-" && m < above || below != "+" && m >= below
	})
	slices.Sort(members)
	slices.Reverse(members)
	for len(members) > 0 {
		day := dayOfMember(members[0])
		n := 1
		for n < min(len(members), pageSize) && dayOfMember(members[n]) == day {
			n++
		}
		page, err := l.readPage(ctx, day, members[:n])
		if err != nil {
			return fmt.Errorf("of %s: %w", day, err)
		}
		if take(page) {
			return nil
		}
		members = members[n:]
	}
	return nil
}

// mostDaysAhead is by how many days a clock may be wrong for all exports to be whole.
const mostDaysAhead = 400

// settledDays are the first and the last day, counted from 1970, of what the filter
// says of when records were settled. Nothing is settled within that any more, unless it
// ends later than now.
func (l *Ledger) settledDays(ctx context.Context, filter *billing.RecordFilter) (first, last int64, err error) {
	const length = int64(24 * time.Hour / time.Microsecond)
	sealed := int64(0)
	if !filter.SettledTo.IsZero() {
		sealed = ceilMicros(filter.SettledTo) - 1
	}
	answer, err := l.link.Run(ctx, sealScript, []string{l.prefix + "settled:last"}, sealed)
	if err != nil {
		return 0, 0, err
	}
	at, _ := answer.(string)
	newest, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return 0, 0, err
	}
	l.count.seal(newest)
	days, err := l.days(ctx, &billing.RecordFilter{})
	if err != nil || len(days) == 0 {
		return 0, -1, err
	}
	oldest, err := time.Parse(time.DateOnly, days[len(days)-1])
	if err != nil {
		return 0, 0, err
	}
	// Nothing is settled before its request comes, but for clocks that were ahead.
	first, last = min(oldest.UnixMicro(), newest)/length-mostDaysAhead, newest/length
	if !filter.SettledFrom.IsZero() {
		first = max(first, filter.SettledFrom.UnixMicro()/length)
	}
	if !filter.SettledTo.IsZero() {
		last = min(last, filter.SettledTo.UnixMicro()/length)
	}
	return first, last, nil
}

// settledBound is a bound of scores, in microseconds, rounded up.
func settledBound(t time.Time, none, begin string) string {
	if t.IsZero() {
		return none
	}
	return begin + strconv.FormatInt(ceilMicros(t), 10)
}

func ceilMicros(t time.Time) int64 { return t.Add(time.Microsecond - 1).UnixMicro() }

// dayOfMember is the day under which the record is kept that a member of an index names.
func dayOfMember(member string) string {
	return day(timeOf(member))
}

// bringWaiting brings Redis the records of the spool.
func (l *Ledger) bringWaiting(ctx context.Context) error {
	err := l.link.Down()
	if err == nil {
		err = l.drain(ctx)
	}
	if err != nil {
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
		return nil, fmt.Errorf("reading record %q from Redis: %w", id, unavailable(err))
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
		return decode(data)
	}
	return nil, billing.ErrUnknownRecord
}

// findRecord looks a record up in some days, in one round trip; "" for none.
func (l *Ledger) findRecord(ctx context.Context, id string, days []string) (string, error) {
	found := make([]*redis.StringCmd, len(days))
	err := l.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) {
		for i, day := range days {
			found[i] = pipe.HGet(ctx, l.recordsKey(day), id)
		}
	})
	if err != nil {
		return "", err
	}
	for _, cmd := range found {
		if err := cmd.Err(); !errors.Is(err, redis.Nil) {
			return cmd.Val(), err
		}
	}
	return "", nil
}

// days are those that may have records which the filter matches, last first.
func (l *Ledger) days(ctx context.Context, filter *billing.RecordFilter) ([]string, error) {
	days, err := ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd { return pipe.SMembers(ctx, l.daysKey()) })
	if err != nil {
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
	members, err = ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd {
		return pipe.ZRangeArgs(ctx, redis.ZRangeArgs{
			Key: l.indexKey(day), Start: below, Stop: above, ByLex: true, Rev: true, Count: pageSize,
		})
	})
	if err != nil || len(members) == 0 {
		return nil, nil, "", err
	}
	if len(members) == pageSize {
		next = "(" + members[len(members)-1]
	}
	page, err = l.readPage(ctx, day, members)
	return page, members, next, err
}

// readPage reads those of a day's records that members of an index name, and that are
// not deleted by now.
func (l *Ledger) readPage(ctx context.Context, day string, members []string) ([]*billing.Record, error) {
	ids := make([]string, len(members))
	for i, member := range members {
		ids[i] = idOf(member)
	}
	values, err := ask(ctx, l, func(pipe redis.Pipeliner) *redis.SliceCmd { return pipe.HMGet(ctx, l.recordsKey(day), ids...) })
	if err != nil {
		return nil, err
	}
	page := make([]*billing.Record, 0, len(values))
	for i, value := range values {
		data, isThere := value.(string)
		if !isThere {
			continue
		}
		r, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", ids[i], err)
		}
		page = append(page, r)
	}
	return page, nil
}

// settledLength is the length of what follows a record in Redis: when it was settled.
const settledLength = 16

// decode reads a record. Those that an earlier version kept, which end in a truth
// value, do not say when they were settled.
func decode(data string) (*billing.Record, error) {
	r := new(billing.Record)
	if !journal.Decode([]byte(data), r) {
		return nil, fmt.Errorf("it can't be read: %d bytes", len(data))
	}
	r.Settled = r.Time
	if last := data[len(data)-1]; '0' <= last && last <= '9' {
		micros, err := strconv.ParseInt(data[len(data)-settledLength:], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("when it was settled can't be read: %w", err)
		}
		r.Settled = time.UnixMicro(micros).UTC()
	}
	return r, nil
}

// idOf is the ID of the record that a member of an index names.
func idOf(member string) string { return member[min(stampLength, len(member)):] }

// matches reports whether the filter's names match; its times are the index's
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
