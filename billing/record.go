package billing

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

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

// Price fills in what r used, what that cost at list price and what is charged
// for it: the token counts (the sums, where there are iterations), the costs,
// RateMultiplier, Charged and Unpriced. Model, ModelSent and Time must be set:
// the model that the client asked for is priced, at that time, and an
// iteration of the model that was sent instead counts as that model. Where the
// client asked for an alias that moves (IsAlias), the model that the answer named
// is priced, if it has a price of its own.
//
// It returns the model among those used that the table knows least, and how
// well: callers log a MatchFamily or MatchNone once per model.
func (r *Record) Price(p *Prices, u Usage, rate Rate, named string) (model string, match Match) {
	r.setCounts(&u)
	model = r.Model
	if IsAlias(model) && named != "" {
		if _, _, match := p.find(named); match > MatchFamily {
			model = named
		}
	}
	cost, priced := p.cost(model, r.ModelSent, &u, r.Time)
	r.InputCost = cost.Input
	r.OutputCost = cost.Output
	r.CacheWriteCost = cost.CacheWrite
	r.CacheReadCost = cost.CacheRead
	r.WebSearchCost = cost.WebSearch
	r.Cost = cost.Total()
	r.RateMultiplier = rate
	r.Charged = r.Cost.Times(rate)
	r.Unpriced = !priced

	_, _, match = p.find(model)
	for i := range u.Iterations {
		other := u.Iterations[i].Model
		if other == "" || other == r.ModelSent {
			continue
		}
		if _, _, m := p.find(other); m < match {
			model, match = other, m
		}
	}
	return model, match
}

// IsAlias reports whether a model's name stands for whatever model is the newest.
func IsAlias(model string) bool { return strings.HasSuffix(modelname.Base(model), "-latest") }

func (r *Record) setCounts(u *Usage) {
	r.Input, r.Output = max(u.Input, 0), max(u.Output, 0)
	r.CacheWrite5m, r.CacheWrite1h = max(u.CacheWrite5m, 0), max(u.CacheWrite1h, 0)
	r.CacheRead, r.WebSearches = max(u.CacheRead, 0), max(u.WebSearches, 0)
	if len(u.Iterations) == 0 {
		return
	}
	r.Input, r.Output, r.CacheWrite5m, r.CacheWrite1h, r.CacheRead = 0, 0, 0, 0, 0
	for i := range u.Iterations {
		it := &u.Iterations[i]
		r.Input = saturatingSum(r.Input, it.Input)
		r.Output = saturatingSum(r.Output, it.Output)
		r.CacheWrite5m = saturatingSum(r.CacheWrite5m, it.CacheWrite5m)
		r.CacheWrite1h = saturatingSum(r.CacheWrite1h, it.CacheWrite1h)
		r.CacheRead = saturatingSum(r.CacheRead, it.CacheRead)
	}
}

// The times that fit int64 nanoseconds since 1970.
var (
	earliest = time.Unix(0, math.MinInt64)
	latest   = time.Unix(0, math.MaxInt64)
)

// UnixNano is t in nanoseconds since 1970. Times before 1678 or after 2261, which
// no int64 can hold, are the first or the last that it can.
func UnixNano(t time.Time) int64 {
	switch {
	case t.Before(earliest):
		return math.MinInt64
	case t.After(latest):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// Check is an error if the record is one that no ledger keeps: without an ID,
// outside the years 1678 to 2261, or charging a negative amount.
func (r *Record) Check() error {
	switch {
	case r.ID == "":
		return errors.New("it has no id")
	case r.Time.Before(earliest) || r.Time.After(latest):
		return fmt.Errorf("its time %v is outside the years 1678 to 2261", r.Time)
	case r.Spent() < 0:
		return fmt.Errorf("it charges a negative amount, %s", r.Spent())
	}
	return nil
}

// Spent is what the record takes: its cost from a subscription, and what is
// charged from a balance, or would be from one that has no limit.
func (r *Record) Spent() USD {
	if r.Billing == PaidFromSubscription {
		return r.Cost
	}
	return r.Charged
}
