package sqliteledger

import (
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// columns are those of the table records, in the order of billing.Fields, and settled.
var columns = func() (names []string) {
	for _, field := range billing.Fields {
		names = append(names, `"`+field.Column()+`"`)
	}
	return append(names, "settled")
}()

var (
	columnList   = strings.Join(columns, ", ")
	insertRecord = fmt.Sprintf("INSERT INTO records (%s) VALUES (?%s) ON CONFLICT (id) DO NOTHING",
		columnList, strings.Repeat(", ?", len(columns)-1))
)

// rollup is a table of sums over the records of each day.
type rollup struct {
	name  string
	names []string // what its rows are told apart by, beside day
}

var (
	nameColumns = []string{"user", "key_id", "account", `"group"`, "model"}
	sumColumns  = []string{
		"requests", "input", "output", "cache_write_5m", "cache_write_1h", "cache_read", "cost", "charged",
	}

	usageTable  = rollup{"usage", nameColumns}
	byUserTable = rollup{"usage_by_user", nameColumns[:1]}
)

func (t rollup) columnList() string {
	return "day, " + strings.Join(t.names, ", ") + ", " + strings.Join(sumColumns, ", ")
}

// addition is the statement that adds sums to a row.
func (t rollup) addition() string {
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s) %s",
		t.name, t.columnList(), strings.Repeat(", ?", len(t.names)+len(sumColumns)), onConflictAdd)
}

// sumUp is the statement that adds the records of the day ?4 that match where, or
// takes them away with the sign "-".
func (t rollup) sumUp(sign, where string) string {
	names := strings.Join(t.names, ", ")
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT ?4, %s, %scount(*), %s FROM records WHERE %s GROUP BY %s %s",
		t.name, t.columnList(), names, sign, sums(sign, sumColumns[1:]...), where, names, onConflictAdd)
}

// sumOf is the exact sum of a column, or the largest integer where it is beyond:
// SQLite's own sum is an error there. The upper and lower bits are summed up apart;
// with too many of the upper ones their product is a float, of which the cast makes
// the largest integer.
func sumOf(column string) string {
	return fmt.Sprintf("CAST(ifnull(sum(%s >> 30) * 1073741824 + sum(%[1]s & 1073741823), 0) AS INTEGER)", column)
}

// sums are those of columns, with a sign before each.
func sums(sign string, columns ...string) string {
	list := make([]string, len(columns))
	for i, column := range columns {
		list[i] = sign + sumOf(column)
	}
	return strings.Join(list, ", ")
}

// onConflictAdd adds what could not be inserted to the row that is there. A sum
// beyond the integers is a float in SQLite: the cast makes it the largest integer.
var onConflictAdd = func() string {
	var list []string
	for _, column := range sumColumns {
		list = append(list, fmt.Sprintf("%s = CAST(%[1]s + excluded.%[1]s AS INTEGER)", column))
	}
	return "ON CONFLICT DO UPDATE SET " + strings.Join(list, ", ")
}()

const (
	kindSubscription = "subscription"
	kindKey          = "key"
	setWindows       = "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

// values sets the arguments of insertRecord.
func values(args []driver.NamedValue, r *billing.Record) {
	for i := range billing.Fields {
		args[i].Value = value(billing.Fields[i].Of(r))
	}
	args[len(billing.Fields)].Value = r.Settled.UnixNano()
}

// value is what SQLite keeps of a record's field.
func value(field any) driver.Value {
	switch v := field.(type) {
	case *string:
		return *v
	case *time.Time:
		return v.UnixNano()
	case *int64:
		return *v
	case *int:
		return int64(*v)
	case *bool:
		return integer(*v)
	case *billing.USD:
		return int64(*v)
	case *billing.Rate:
		return int64(*v)
	}
	panic(fmt.Sprintf("sqliteledger: no column for %T", field))
}

func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
