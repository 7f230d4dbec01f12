package sqliteledger

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// calendar is the ledger's, by times in nanoseconds.
type calendar struct{ billing.Calendar }

var utcDays = calendar{billing.Calendar{{Location: time.UTC}}}

func (c calendar) dayOf(nanos int64) int64 { return c.Day(time.Unix(0, nanos)) }

// start and end are the first and the last nanosecond of a day, or of those that
// there are; a day that was left out ends before it begins.
func (c calendar) start(day int64) int64 { return billing.UnixNano(c.Start(day)) }

func (c calendar) end(day int64) int64 { return billing.UnixNano(c.Start(day + 1).Add(-1)) }

// dayCache is a calendar that remembers the day that it was asked for last.
type dayCache struct {
	calendar
	day, first, last int64 // last < first: none
}

func newDayCache(c calendar) dayCache { return dayCache{calendar: c, last: -1} }

func (c *dayCache) dayOf(nanos int64) int64 {
	if nanos < c.first || nanos > c.last {
		c.day = c.calendar.dayOf(nanos)
		c.first, c.last = c.start(c.day), c.end(c.day)
	}
	return c.day
}

// openCalendar reads the calendar. Where its days were those of another zone, they
// are the ledger's own from now on.
func (l *Ledger) openCalendar(ctx context.Context) (err error) {
	if l.days, err = l.readCalendar(ctx); err != nil {
		return err
	}
	eras := l.days.Calendar
	if eras[len(eras)-1].Location.String() == l.location.String() {
		return nil
	}
	next := calendar{}
	from := l.now().Round(0)
	row, err := l.writer.exec(ctx, "SELECT EXISTS (SELECT 1 FROM records)")
	if err != nil {
		return err
	}
	if row[0].(int64) == 0 { // nothing was summed up by other days
		from = time.Unix(0, math.MinInt64)
	}
	for i, era := range eras {
		if i == 0 && from.UnixNano() > math.MinInt64 || i > 0 && era.From.Before(from) {
			next.Calendar = append(next.Calendar, era)
		}
	}
	next.Calendar = append(next.Calendar, billing.Era{From: from, Location: l.location})
	if err := l.changeCalendar(ctx, next, from.UnixNano()); err != nil {
		return fmt.Errorf("making the days those of %s: %w", l.location, err)
	}
	l.days = next
	return nil
}

// changeCalendar makes another calendar the ledger's, which differs from a time on.
// Records of later times, of a clock that was ahead, are summed up again.
func (l *Ledger) changeCalendar(ctx context.Context, next calendar, from int64) error {
	last := next.Calendar[len(next.Calendar)-1]
	return l.writer.transaction(func() error {
		if err := sumUpRecords(ctx, l.writer.conn, "-", l.days, from, l.log); err != nil {
			return err
		}
		if err := sumUpRecords(ctx, l.writer.conn, "", next, from, l.log); err != nil {
			return err
		}
		for _, table := range []rollup{usageTable, byUserTable} {
			_, err := l.writer.exec(ctx, "DELETE FROM "+table.name+" WHERE day >= ? AND requests = 0", l.days.dayOf(from))
			if err != nil {
				return err
			}
		}
		if _, err := l.writer.exec(ctx, "DELETE FROM calendar WHERE start >= ?", from); err != nil {
			return err
		}
		_, err := l.writer.exec(ctx, "INSERT INTO calendar VALUES (?, ?)", from, last.Location.String())
		return err
	})
}

func (l *Ledger) readCalendar(ctx context.Context) (c calendar, err error) {
	rows, err := l.reader.QueryContext(ctx, "SELECT start, zone FROM calendar ORDER BY start")
	if err != nil {
		return c, err
	}
	defer rows.Close()
	for rows.Next() {
		var start int64
		var zone string
		if err := rows.Scan(&start, &zone); err != nil {
			return c, err
		}
		era := billing.Era{From: time.Unix(0, start), Location: l.location}
		if zone != l.location.String() {
			if era.Location, err = time.LoadLocation(zone); err != nil {
				return c, fmt.Errorf("its days were those of the time zone %s, of which this system knows nothing: install the package tzdata: %w", zone, err)
			}
		}
		c.Calendar = append(c.Calendar, era)
	}
	return c, rows.Err()
}
