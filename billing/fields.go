package billing

import "strings"

// Field is one of a record's fields, as it is kept and shown.
type Field struct {
	// Name is that in JSON and in exports.
	Name string
	// Of returns a pointer to a record's: *string, *int64, *int, *bool, *time.Time, *USD or
	// *Rate.
	Of func(*Record) any
}

// Column is the field's name where a store has columns: without the unit of tokens and
// dollars.
func (f Field) Column() string {
	return strings.TrimSuffix(strings.TrimSuffix(f.Name, "_tokens"), "_usd")
}

// Fields are those of a record, in the order in which they are kept. Settled is not among
// them: a record gets it when it enters the store. The order is that of files which older
// programs wrote: new fields come last.
var Fields = [...]Field{
	{"id", func(r *Record) any { return &r.ID }},
	{"time", func(r *Record) any { return &r.Time }},
	{"user", func(r *Record) any { return &r.User }},
	{"key_id", func(r *Record) any { return &r.KeyID }},
	{"account", func(r *Record) any { return &r.Account }},
	{"group", func(r *Record) any { return &r.Group }},
	{"platform", func(r *Record) any { return &r.Platform }},
	{"model", func(r *Record) any { return &r.Model }},
	{"model_sent", func(r *Record) any { return &r.ModelSent }},
	{"session", func(r *Record) any { return &r.Session }},
	{"stream", func(r *Record) any { return &r.Stream }},
	{"status", func(r *Record) any { return &r.Status }},
	{"input_tokens", func(r *Record) any { return &r.Input }},
	{"output_tokens", func(r *Record) any { return &r.Output }},
	{"cache_write_5m_tokens", func(r *Record) any { return &r.CacheWrite5m }},
	{"cache_write_1h_tokens", func(r *Record) any { return &r.CacheWrite1h }},
	{"cache_read_tokens", func(r *Record) any { return &r.CacheRead }},
	{"web_searches", func(r *Record) any { return &r.WebSearches }},
	{"input_cost_usd", func(r *Record) any { return &r.InputCost }},
	{"output_cost_usd", func(r *Record) any { return &r.OutputCost }},
	{"cache_write_cost_usd", func(r *Record) any { return &r.CacheWriteCost }},
	{"cache_read_cost_usd", func(r *Record) any { return &r.CacheReadCost }},
	{"web_search_cost_usd", func(r *Record) any { return &r.WebSearchCost }},
	{"cost_usd", func(r *Record) any { return &r.Cost }},
	{"rate_multiplier", func(r *Record) any { return &r.RateMultiplier }},
	{"charged_usd", func(r *Record) any { return &r.Charged }},
	{"billing", func(r *Record) any { return &r.Billing }},
	{"duration_ms", func(r *Record) any { return &r.DurationMS }},
	{"ttft_ms", func(r *Record) any { return &r.TTFTMS }},
	{"attempts", func(r *Record) any { return &r.Attempts }},
	{"upstream_request_id", func(r *Record) any { return &r.UpstreamRequestID }},
	{"estimated", func(r *Record) any { return &r.Estimated }},
	{"unpriced", func(r *Record) any { return &r.Unpriced }},
	{"user_number", func(r *Record) any { return &r.UserNumber }},
}
