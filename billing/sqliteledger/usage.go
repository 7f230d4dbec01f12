package sqliteledger

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Usage implements billing.Ledger. Whole days come from the table usage, parts of
// days from the records.
func (l *Ledger) Usage(ctx context.Context, filter billing.RecordFilter, by []billing.Dimension, yield func(*billing.UsageRow) bool) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	if err := l.flush(); err != nil {
		return err
	}
	rows, err := l.usage(ctx, &filter, by)
	if err != nil && l.closed.Load() {
		return billing.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("summing up records of the ledger in %s: %w", l.dir, err)
	}
	for i := range rows {
		if !yield(&rows[i]) {
			return nil
		}
	}
	return nil
}

// usage reads all rows before the first is handed out: a slow reader would keep
// the WAL from shrinking.
func (l *Ledger) usage(ctx context.Context, filter *billing.RecordFilter, by []billing.Dimension) ([]billing.UsageRow, error) {
	list, err := l.usageWith(ctx, filter, by, func(column string) string { return "ifnull(sum(" + column + "), 0)" })
	if err != nil && strings.Contains(err.Error(), "integer overflow") {
		return l.usageWith(ctx, filter, by, sumOf) // which takes half as long again
	}
	return list, err
}

func (l *Ledger) usageWith(ctx context.Context, filter *billing.RecordFilter, by []billing.Dimension, sumOf func(column string) string) ([]billing.UsageRow, error) {
	query, args, err := usageQuery(l.days, filter, by, sumOf)
	if err != nil {
		return nil, err
	}
	rows, err := l.reader.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []billing.UsageRow
	var row billing.UsageRow
	var day int64
	targets := make([]any, 0, len(by)+len(sumColumns))
	for _, d := range by {
		targets = append(targets, map[billing.Dimension]any{
			billing.ByUser: &row.User, billing.ByKey: &row.KeyID, billing.ByAccount: &row.Account,
			billing.ByGroup: &row.Group, billing.ByModel: &row.Model, billing.ByDay: &day,
		}[d])
	}
	targets = append(targets, &row.Requests, &row.Input, &row.Output, &row.CacheWrite5m, &row.CacheWrite1h, &row.CacheRead,
		(*int64)(&row.Cost), (*int64)(&row.Charged))
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		if slices.Contains(by, billing.ByDay) {
			row.Day = billing.DayText(day)
		}
		list = append(list, row)
	}
	return list, rows.Err()
}

var dimensionColumns = map[billing.Dimension]string{
	billing.ByUser: nameColumns[0], billing.ByKey: nameColumns[1], billing.ByAccount: nameColumns[2],
	billing.ByGroup: nameColumns[3], billing.ByModel: nameColumns[4], billing.ByDay: "day",
}

func usageQuery(days calendar, filter *billing.RecordFilter, by []billing.Dimension, sumOf func(column string) string) (query string, args []any, err error) {
	var dimensions []string
	for _, d := range by {
		column, isKnown := dimensionColumns[d]
		if !isKnown {
			_, err := billing.ParseDimension(string(d))
			return "", nil, err
		}
		dimensions = append(dimensions, column)
	}
	table := rollupFor(filter, by)
	names := strings.Join(table.names, ", ")
	var parts []string
	for _, s := range stretches(days, filter) {
		where := new(conditions)
		what, from := "day, "+names+", requests", table.name
		if s.isWhole {
			where.add("day BETWEEN ? AND ?", days.dayOf(s.first), days.dayOf(s.last))
		} else {
			what, from = fmt.Sprintf("%d AS day, %s, 1 AS requests", days.dayOf(s.first), names), "records"
			where.add("time BETWEEN ? AND ?", s.first, s.last)
		}
		where.addNames(filter)
		parts = append(parts, fmt.Sprintf("SELECT %s, %s FROM %s WHERE %s", what, strings.Join(sumColumns[1:], ", "), from, where))
		args = append(args, where.args...)
	}
	what := slices.Clone(dimensions)
	for _, column := range sumColumns {
		what = append(what, sumOf(column))
	}
	query = fmt.Sprintf("SELECT %s FROM (%s)", strings.Join(what, ", "), strings.Join(parts, " UNION ALL "))
	if len(by) > 0 {
		list := strings.Join(dimensions, ", ")
		query += " GROUP BY " + list + " ORDER BY " + list
	}
	return query, args, nil
}

// rollupFor is the smallest table that tells apart what is asked for.
func rollupFor(filter *billing.RecordFilter, by []billing.Dimension) rollup {
	others := func(d billing.Dimension) bool { return d != billing.ByUser && d != billing.ByDay }
	if filter.KeyID != "" || filter.Account != "" || filter.Group != "" || filter.Model != "" || slices.ContainsFunc(by, others) {
		return usageTable
	}
	return byUserTable
}

// stretch is a span of nanoseconds, ends included: whole days, or a part of one.
type stretch struct {
	first, last int64
	isWhole     bool
}

// stretches are what the filter's time is made of: at least one, which is empty
// where nothing can match.
func stretches(days calendar, filter *billing.RecordFilter) []stretch {
	first, last := int64(math.MinInt64), int64(math.MaxInt64)
	if !filter.From.IsZero() {
		first = billing.UnixNano(filter.From)
	}
	if !filter.To.IsZero() {
		last = billing.UnixNano(filter.To)
		if last == math.MinInt64 {
			return []stretch{{first: 0, last: -1}}
		}
		last--
	}
	begin, end := days.dayOf(first), days.dayOf(last)
	if first > last || begin == end && (first > days.start(begin) || last < days.end(end)) {
		return []stretch{{first: first, last: last}}
	}
	var list []stretch
	if first > days.start(begin) {
		list = append(list, stretch{first: first, last: days.end(begin)})
		begin++
	}
	if last < days.end(end) {
		list = append(list, stretch{first: days.start(end), last: last})
		end--
	}
	if begin <= end {
		list = append(list, stretch{first: days.start(begin), last: days.end(end), isWhole: true})
	}
	return list
}
