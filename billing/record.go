package billing

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

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
