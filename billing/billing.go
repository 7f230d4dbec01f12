// Package billing is what a request cost and who pays: money (USD), prices
// (Prices), what was used (Usage), what is kept of it (Record), and the ledger
// that charges it exactly once (Ledger, implemented by the packages below).
package billing

import "time"

// Usage is what one answer used. Counts are tokens.
type Usage struct {
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
	// WebSearches are priced per search, beside the tokens.
	WebSearches int64
	// Speed is "fast", or anything else for standard speed.
	Speed string
	// Tier is "batch" or "priority", or anything else for the standard tier.
	Tier string
	// Geo is where inference ran; "us" has a multiplier.
	Geo string
	// Iterations, where present, replace the token counts above, each priced
	// by its own model.
	Iterations []Iteration
}

// Iteration is one model call among several that made an answer.
type Iteration struct {
	// Model is "" for the model that the client asked for.
	Model        string
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
}

// Cost is the price of a Usage, by kind.
type Cost struct {
	Input, Output, CacheWrite, CacheRead, WebSearch USD
}

// Total is the sum of all kinds.
func (c Cost) Total() USD {
	return c.Input.Plus(c.Output).Plus(c.CacheWrite).Plus(c.CacheRead).Plus(c.WebSearch)
}

// How a record was paid: the values of Record.Billing.
const (
	PaidFromBalance      = "balance"
	PaidFromSubscription = "subscription"
	PaidByNobody         = "none"
)

// Record is what is kept of one request. Its JSON names are the contract of
// the admin API and of exports.
type Record struct {
	// ID is made when the request comes in. Settling the same ID twice changes
	// nothing. Ids that begin with the time (UUID version 7) keep a store's
	// index of them quick to write.
	ID   string    `json:"id"`
	Time time.Time `json:"time"` // when the request came in, UTC
	// Settled is when the record entered the store: the ledger's to set. It only
	// grows from record to record, whatever the clock does, so that what is read up to
	// one moment and then from it is complete.
	Settled time.Time `json:"settled"`
	User    string    `json:"user"`
	// UserNumber is Payer.UserNumber; 0: whoever has the name when it is settled.
	UserNumber        int64  `json:"-"`
	KeyID             string `json:"key_id"`
	Account           string `json:"account"`
	Group             string `json:"group"`
	Platform          string `json:"platform"`
	Model             string `json:"model"`      // as the client asked for; this one is priced
	ModelSent         string `json:"model_sent"` // as it went upstream
	Session           string `json:"session"`
	Stream            bool   `json:"stream"`
	Status            int    `json:"status"`
	Input             int64  `json:"input_tokens"`
	Output            int64  `json:"output_tokens"`
	CacheWrite5m      int64  `json:"cache_write_5m_tokens"`
	CacheWrite1h      int64  `json:"cache_write_1h_tokens"`
	CacheRead         int64  `json:"cache_read_tokens"`
	WebSearches       int64  `json:"web_searches"`
	InputCost         USD    `json:"input_cost_usd"`
	OutputCost        USD    `json:"output_cost_usd"`
	CacheWriteCost    USD    `json:"cache_write_cost_usd"`
	CacheReadCost     USD    `json:"cache_read_cost_usd"`
	WebSearchCost     USD    `json:"web_search_cost_usd"`
	Cost              USD    `json:"cost_usd"`
	RateMultiplier    Rate   `json:"rate_multiplier"`
	Charged           USD    `json:"charged_usd"`
	Billing           string `json:"billing"` // balance, subscription or none
	DurationMS        int64  `json:"duration_ms"`
	TTFTMS            int64  `json:"ttft_ms"` // request in to first content out; 0 = none came
	Attempts          int    `json:"attempts"`
	UpstreamRequestID string `json:"upstream_request_id"`
	Estimated         bool   `json:"estimated"` // the output tokens are an estimate
	Unpriced          bool   `json:"unpriced"`  // no price was known
}
