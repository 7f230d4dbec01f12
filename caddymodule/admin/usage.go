package admin

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// DefaultRecordLimit is how many records an answer has where the query does not
// say.
const DefaultRecordLimit = 100

// filter reads what selects records from the query.
func (c *call) filter() (f billing.RecordFilter, err error) {
	f = billing.RecordFilter{
		User: c.query.Get("user"), KeyID: c.query.Get("key"), Account: c.query.Get("account"), Group: c.query.Get("group"), Model: c.query.Get("model"),
	}
	f.From, f.To, err = c.queryRange("from", "to")
	return f, err
}

// queryRange reads two times of the query; zero = unbounded.
func (c *call) queryRange(fromWord, toWord string) (from, to time.Time, err error) {
	if from, err = c.queryMoment(fromWord); err != nil {
		return from, to, err
	}
	if to, err = c.queryMoment(toWord); err != nil {
		return from, to, err
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return from, to, refuse(http.StatusBadRequest, "%s is not before %s, so nothing lies between; %s itself is left out", fromWord, toWord, toWord)
	}
	return from, to, nil
}

// dimensionColumns are the columns that tell usage rows apart.
var dimensionColumns = map[billing.Dimension]column[billing.UsageRow]{
	billing.ByUser:    {"user", func(r *billing.UsageRow) cell { return nameCell(r.User) }},
	billing.ByKey:     {"key", func(r *billing.UsageRow) cell { return nameCell(r.KeyID) }},
	billing.ByAccount: {"account", func(r *billing.UsageRow) cell { return nameCell(r.Account) }},
	billing.ByGroup:   {"group", func(r *billing.UsageRow) cell { return nameCell(r.Group) }},
	billing.ByModel:   {"model", func(r *billing.UsageRow) cell { return nameCell(r.Model) }},
	billing.ByDay:     {"day", func(r *billing.UsageRow) cell { return nameCell(r.Day) }},
}

var usageColumns = []column[billing.UsageRow]{
	{"requests", func(r *billing.UsageRow) cell { return numberCell(r.Requests) }},
	{"input_tokens", func(r *billing.UsageRow) cell { return numberCell(r.Input) }},
	{"output_tokens", func(r *billing.UsageRow) cell { return numberCell(r.Output) }},
	{"cache_write_5m_tokens", func(r *billing.UsageRow) cell { return numberCell(r.CacheWrite5m) }},
	{"cache_write_1h_tokens", func(r *billing.UsageRow) cell { return numberCell(r.CacheWrite1h) }},
	{"cache_read_tokens", func(r *billing.UsageRow) cell { return numberCell(r.CacheRead) }},
	{"cost_usd", func(r *billing.UsageRow) cell { return usdCell(r.Cost) }},
	{"charged_usd", func(r *billing.UsageRow) cell { return usdCell(r.Charged) }},
}

// showUsage answers GET usage.
func showUsage(c *call) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	var by []billing.Dimension
	var columns []column[billing.UsageRow]
	if text := c.query.Get("by"); text != "" {
		for word := range strings.SplitSeq(text, ",") {
			dimension, err := billing.ParseDimension(word)
			if err != nil {
				return refuse(http.StatusBadRequest, "by: %w", err)
			}
			if slices.Contains(by, dimension) {
				return refuse(http.StatusBadRequest, "by: holds %s twice; keep one", word)
			}
			by = append(by, dimension)
			columns = append(columns, dimensionColumns[dimension])
		}
	}
	out, err := newExport(c, slices.Concat(columns, usageColumns))
	if err != nil {
		return err
	}
	return out.end(c, c.store.ledger.Usage(c.ctx, filter, by, out.row))
}

// recordColumns are all fields of a record, under their names in JSON.
var recordColumns = []column[billing.Record]{
	{"id", func(r *billing.Record) cell { return nameCell(r.ID) }},
	{"time", func(r *billing.Record) cell { return timeCell(r.Time) }},
	{"settled", func(r *billing.Record) cell { return timeCell(r.Settled) }},
	{"user", func(r *billing.Record) cell { return nameCell(r.User) }},
	{"key_id", func(r *billing.Record) cell { return nameCell(r.KeyID) }},
	{"account", func(r *billing.Record) cell { return nameCell(r.Account) }},
	{"group", func(r *billing.Record) cell { return nameCell(r.Group) }},
	{"platform", func(r *billing.Record) cell { return nameCell(r.Platform) }},
	{"model", func(r *billing.Record) cell { return nameCell(r.Model) }},
	{"model_sent", func(r *billing.Record) cell { return nameCell(r.ModelSent) }},
	{"session", func(r *billing.Record) cell { return nameCell(r.Session) }},
	{"stream", func(r *billing.Record) cell { return boolCell(r.Stream) }},
	{"status", func(r *billing.Record) cell { return numberCell(int64(r.Status)) }},
	{"input_tokens", func(r *billing.Record) cell { return numberCell(r.Input) }},
	{"output_tokens", func(r *billing.Record) cell { return numberCell(r.Output) }},
	{"cache_write_5m_tokens", func(r *billing.Record) cell { return numberCell(r.CacheWrite5m) }},
	{"cache_write_1h_tokens", func(r *billing.Record) cell { return numberCell(r.CacheWrite1h) }},
	{"cache_read_tokens", func(r *billing.Record) cell { return numberCell(r.CacheRead) }},
	{"web_searches", func(r *billing.Record) cell { return numberCell(r.WebSearches) }},
	{"input_cost_usd", func(r *billing.Record) cell { return usdCell(r.InputCost) }},
	{"output_cost_usd", func(r *billing.Record) cell { return usdCell(r.OutputCost) }},
	{"cache_write_cost_usd", func(r *billing.Record) cell { return usdCell(r.CacheWriteCost) }},
	{"cache_read_cost_usd", func(r *billing.Record) cell { return usdCell(r.CacheReadCost) }},
	{"web_search_cost_usd", func(r *billing.Record) cell { return usdCell(r.WebSearchCost) }},
	{"cost_usd", func(r *billing.Record) cell { return usdCell(r.Cost) }},
	{"rate_multiplier", func(r *billing.Record) cell { return rateCell(r.RateMultiplier) }},
	{"charged_usd", func(r *billing.Record) cell { return usdCell(r.Charged) }},
	{"billing", func(r *billing.Record) cell { return nameCell(r.Billing) }},
	{"duration_ms", func(r *billing.Record) cell { return numberCell(r.DurationMS) }},
	{"ttft_ms", func(r *billing.Record) cell { return numberCell(r.TTFTMS) }},
	{"attempts", func(r *billing.Record) cell { return numberCell(int64(r.Attempts)) }},
	{"upstream_request_id", func(r *billing.Record) cell { return nameCell(r.UpstreamRequestID) }},
	{"estimated", func(r *billing.Record) cell { return boolCell(r.Estimated) }},
	{"unpriced", func(r *billing.Record) cell { return boolCell(r.Unpriced) }},
}

// showRecords answers GET records.
func showRecords(c *call) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	if filter.SettledFrom, filter.SettledTo, err = c.queryRange("settled_from", "settled_to"); err != nil {
		return err
	}
	filter.Limit = DefaultRecordLimit
	if text := c.query.Get("limit"); text != "" {
		if filter.Limit, err = strconv.Atoi(text); err != nil || filter.Limit < 0 {
			return refuse(http.StatusBadRequest, "limit: %.80q is no number of records; 0 is all", text)
		}
	}
	out, err := newExport(c, recordColumns)
	if err != nil {
		return err
	}
	if id := c.query.Get("after"); id != "" {
		filter.After, err = c.store.ledger.Record(c.ctx, id)
		if errors.Is(err, billing.ErrUnknownRecord) {
			return refuse(http.StatusBadRequest, "after: there is no record %.80q", id)
		}
		if err != nil {
			return err
		}
	}
	return out.end(c, c.store.ledger.Records(c.ctx, filter, out.row))
}
