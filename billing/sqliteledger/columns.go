package sqliteledger

import (
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/sub2api/caddy-sub2api/billing"
)

// columns are those of the table records, in the order of journal.Fields and
// values, and settled.
var columns = []string{
	"id", "time", "user", "key_id", "account", `"group"`, "platform", "model", "model_sent", "session",
	"stream", "status", "input", "output", "cache_write_5m", "cache_write_1h", "cache_read", "web_searches",
	"input_cost", "output_cost", "cache_write_cost", "cache_read_cost", "web_search_cost",
	"cost", "rate_multiplier", "charged", "billing", "duration_ms", "ttft_ms", "attempts",
	"upstream_request_id", "estimated", "unpriced", "user_number", "settled",
}

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
	for i, v := range [...]driver.Value{
		r.ID, r.Time.UnixNano(), r.User, r.KeyID, r.Account, r.Group, r.Platform, r.Model, r.ModelSent, r.Session,
		integer(r.Stream), int64(r.Status), r.Input, r.Output, r.CacheWrite5m, r.CacheWrite1h, r.CacheRead, r.WebSearches,
		int64(r.InputCost), int64(r.OutputCost), int64(r.CacheWriteCost), int64(r.CacheReadCost), int64(r.WebSearchCost),
		int64(r.Cost), int64(r.RateMultiplier), int64(r.Charged), r.Billing, r.DurationMS, r.TTFTMS, int64(r.Attempts),
		r.UpstreamRequestID, integer(r.Estimated), integer(r.Unpriced), r.UserNumber, r.Settled.UnixNano(),
	} {
		args[i].Value = v
	}
}

func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
