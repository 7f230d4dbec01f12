package sqliteledger

import (
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/sub2api/caddy-sub2api/billing"
)

// columns are those of the table records, in the order of journal.Fields and
// values.
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

func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
