//go:build unix

package sqliteledger

import (
	"context"
	"database/sql/driver"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// benchmarkRecords names the environment variable with the number of records that
// are summed up; 100,000 without it.
const benchmarkRecords = "SUB2API_BENCH_RECORDS"

// The month of a benchmark's records, of 2,000 users. On each day each of them has
// used 2 keys, 3 models and 3 accounts of the pool.
var (
	monthStart = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	monthEnd   = monthStart.AddDate(0, 1, 0)
)

// monthRecords makes ?1 records in the order of their time, from ?2 on, ?3
// nanoseconds apart.
const monthRecords = `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 - 1),
	m(i, u, turn) AS (SELECT i, i * 7919 % 2000, i / 2000 FROM n)
	INSERT INTO records SELECT printf('%012d-%08d', i, i * 7919 % 100000000), ?2 + i * ?3, printf('user-%04d', u),
		printf('%012x', 2 * u + turn % 2), printf('account-%02d', (u + turn / 2 % 3) % 50), 'default', 'anthropic',
		CASE turn / 6 % 3 WHEN 0 THEN 'claude-sonnet-5-5' WHEN 1 THEN 'claude-opus-5' ELSE 'claude-haiku-5' END, 'claude-sonnet-5-5',
		'7d444840-9dc0-11d1-b245-5ffdce74fad2', 1, 200, 12, 345, 678, 0, 91011, 0, 24000, 3450000, 1695000, 9101100, 0,
		14270100, 1000000000, 14270100, 'balance', 5432, 321, 1, 'req_011CSHoEeqs5C35K2UUqR7Fy', 0, 0 FROM m`

// monthLedger is a ledger with a month of records, upgraded from the first schema,
// which gives the time of an upgrade too.
func monthLedger(b *testing.B) *Ledger {
	count := int64(100_000)
	if text := os.Getenv(benchmarkRecords); text != "" {
		var err error
		if count, err = strconv.ParseInt(text, 10, 64); err != nil || count <= 0 {
			b.Fatalf("%s: %q, %v", benchmarkRecords, text, err)
		}
	}
	dir := b.TempDir()
	c, err := connect(b.Context(), filepath.Join(dir, "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	for _, statement := range []string{
		"PRAGMA synchronous = OFF; PRAGMA cache_size = -65536", version1, "DROP INDEX records_user_time", monthRecords,
		"INSERT INTO users SELECT user, 1000000000000000 - sum(charged), 0 FROM records GROUP BY user",
		"INSERT INTO credits SELECT name, 'opening', '', 0, 1000000000000000 FROM users",
		"CREATE INDEX records_user_time ON records (user, time)", "PRAGMA user_version = 1",
	} {
		var args []driver.Value
		if statement == monthRecords {
			args = []driver.Value{count, monthStart.UnixNano(), int64(monthEnd.Sub(monthStart)) / count}
		}
		if _, err := c.exec(b.Context(), statement, args...); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	timed := func(version int, f func()) {
		start, used := time.Now(), cpuTime()
		f()
		b.Logf("upgraded a file of %d records to version %d in %v, %v of CPU", count, version, time.Since(start), cpuTime()-used)
	}
	timed(2, func() {
		w, err := openWriter(b.Context(), filepath.Join(dir, databaseName), false)
		if err == nil {
			err = upgrade(b.Context(), w, 2, time.Now(), slog.New(slog.DiscardHandler))
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	})
	var l *Ledger
	timed(schemaVersion, func() { l = open(b, dir, Options{}) })
	return l
}

// BenchmarkUsage sums up a month.
func BenchmarkUsage(b *testing.B) {
	l := monthLedger(b)
	defer l.Close()
	month := billing.RecordFilter{From: monthStart, To: monthEnd}
	parts := billing.RecordFilter{From: monthStart.Add(6 * time.Hour), To: monthEnd.Add(-6 * time.Hour)}
	for _, c := range []struct {
		name   string
		filter billing.RecordFilter
		by     []billing.Dimension
	}{
		{"all", month, nil},
		{"by=user", month, []billing.Dimension{billing.ByUser}},
		{"by=user/parts-of-days", parts, []billing.Dimension{billing.ByUser}},
		{"by=user,model,day", month, []billing.Dimension{billing.ByUser, billing.ByModel, billing.ByDay}},
		{"by=model,one-user", billing.RecordFilter{User: "user-0007"}, []billing.Dimension{billing.ByModel}},
	} {
		b.Run(c.name, func(b *testing.B) {
			rows, used := 0, cpuTime()
			for b.Loop() {
				rows = 0
				err := l.Usage(context.Background(), c.filter, c.by, func(*billing.UsageRow) bool { rows++; return true })
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows), "rows")
			b.ReportMetric(float64((cpuTime()-used).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// BenchmarkExport lists what was settled in an hour of the month, at its begin, in the
// middle of it and at its end.
func BenchmarkExport(b *testing.B) {
	l := monthLedger(b)
	defer l.Close()
	for _, statement := range []string{"UPDATE records SET settled = time", "UPDATE settling SET first = 1"} {
		if _, err := l.writer.exec(b.Context(), statement); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.loadSettling(b.Context()); err != nil {
		b.Fatal(err)
	}
	for name, from := range map[string]time.Time{
		"first": monthStart, "middle": monthStart.AddDate(0, 0, 15), "last": monthEnd.Add(-time.Hour),
	} {
		b.Run(name, func(b *testing.B) {
			filter := billing.RecordFilter{SettledFrom: from, SettledTo: from.Add(time.Hour)}
			records, used := 0, cpuTime()
			for b.Loop() {
				records = 0
				if err := l.Records(context.Background(), filter, func(*billing.Record) bool { records++; return true }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(records), "records")
			b.ReportMetric(float64((cpuTime()-used).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}
