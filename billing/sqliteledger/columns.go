package sqliteledger

import (
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// columns are those of the table records in the order that values and targets
// keep to.
var columns = []string{
	"id", "time", "user", "key_id", "account", `"group"`, "platform", "model", "model_sent", "session",
	"stream", "status", "input", "output", "cache_write_5m", "cache_write_1h", "cache_read", "web_searches",
	"input_cost", "output_cost", "cache_write_cost", "cache_read_cost", "web_search_cost",
	"cost", "rate_multiplier", "charged", "billing", "duration_ms", "ttft_ms", "attempts",
	"upstream_request_id", "estimated", "unpriced",
}

var (
	columnList   = strings.Join(columns, ", ")
	insertRecord = fmt.Sprintf("INSERT INTO records (%s) VALUES (?%s) ON CONFLICT (id) DO NOTHING",
		columnList, strings.Repeat(", ?", len(columns)-1))
)

// values sets the arguments of insertRecord.
func values(args []driver.NamedValue, r *billing.Record) {
	for i, v := range [...]driver.Value{
		r.ID, r.Time.UnixNano(), r.User, r.KeyID, r.Account, r.Group, r.Platform, r.Model, r.ModelSent, r.Session,
		integer(r.Stream), int64(r.Status), r.Input, r.Output, r.CacheWrite5m, r.CacheWrite1h, r.CacheRead, r.WebSearches,
		int64(r.InputCost), int64(r.OutputCost), int64(r.CacheWriteCost), int64(r.CacheReadCost), int64(r.WebSearchCost),
		int64(r.Cost), int64(r.RateMultiplier), int64(r.Charged), r.Billing, r.DurationMS, r.TTFTMS, int64(r.Attempts),
		r.UpstreamRequestID, integer(r.Estimated), integer(r.Unpriced),
	} {
		args[i].Value = v
	}
}

// targets are the record's fields by column; nanos stands for the time.
func targets(r *billing.Record, nanos *int64) [33]any {
	return [...]any{
		&r.ID, nanos, &r.User, &r.KeyID, &r.Account, &r.Group, &r.Platform, &r.Model, &r.ModelSent, &r.Session,
		&r.Stream, &r.Status, &r.Input, &r.Output, &r.CacheWrite5m, &r.CacheWrite1h, &r.CacheRead, &r.WebSearches,
		&r.InputCost, &r.OutputCost, &r.CacheWriteCost, &r.CacheReadCost, &r.WebSearchCost,
		&r.Cost, &r.RateMultiplier, &r.Charged, &r.Billing, &r.DurationMS, &r.TTFTMS, &r.Attempts,
		&r.UpstreamRequestID, &r.Estimated, &r.Unpriced,
	}
}

func unixNano(n int64) time.Time { return time.Unix(0, n).UTC() }

// The times that fit int64 nanoseconds since 1970.
var (
	earliest = time.Unix(0, -1<<63)
	latest   = time.Unix(0, 1<<63-1)
)

func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
