package billing

import (
	"math/bits"
	"time"
)

// Prices is a table of model prices. It never changes once made, so it can be
// shared freely.
type Prices struct {
	models map[string]*model
	// families are by their words: the models that are still offered.
	families map[string][]*model
	// limits are those that a price file names, by its names of models.
	limits map[string]limits
}

// model is the prices of one model over time, in order of version.from.
type model struct {
	name     string
	retired  bool
	versions []version
}

// version is the prices of a model from one moment on.
type version struct {
	from time.Time
	// us multiplies the token prices where inference ran in the US.
	us Rate
	// search is the price of one web search.
	search USD
	// steps are in order of above; the first one's is 0.
	steps []step
}

// step is the prices of requests with more than above prompt tokens.
type step struct {
	above    int64
	standard rates
	// fast, priority and batch are nil where the model has no prices of its own
	// for fast mode and for these tiers.
	fast, priority, batch *rates
}

// rates are prices per token in femto-dollars (1e-15 USD). A price of one
// nano-dollar per million tokens is one femto-dollar per token, so list
// prices with up to 9 decimals are exact.
type rates struct{ input, output, write5m, write1h, read USD }

// femtoPerNano is how many of the units of rates make a nano-dollar.
const femtoPerNano = 1_000_000

const (
	// webSearchPrice is the API's list price: 10 dollars for 1,000 searches.
	webSearchPrice USD = nano / 100
	// batchDiscount is what the API's batch tier costs of the standard price.
	batchDiscount Rate = nano / 2
)

// Cost is what u costs at the table's prices, for a client that asked for model at
// that time. priced is false where some tokens' price is unknown; those cost
// nothing. See Match for how a model is found.
//
// Every iteration is priced by its own model and steps on its own prompt size
// (input, cache writes and cache reads); without iterations the request is one
// prompt. Past a step every token of that prompt has the step's price. Fast
// mode counts for models that have a price for it, and then the tier does not.
// The priority tier is priced as standard and the batch tier at half of that,
// but for models with prices of their own for them. The US multiplier multiplies
// all of these. Web searches have one price. Negative counts are taken for 0.
//
// Each field of Cost is rounded once, from the exact sum over all its tokens,
// to the nearest nano-dollar, halves up.
func (p *Prices) Cost(model string, u Usage, at time.Time) (cost Cost, priced bool) {
	return p.cost(model, "", &u, at)
}

// cost is Cost, where iterations of the model that was sent upstream are
// those of the model that the client asked for.
func (p *Prices) cost(model, sent string, u *Usage, at time.Time) (cost Cost, priced bool) {
	asked := p.at(model, at)
	var t tally
	if len(u.Iterations) == 0 {
		t.add(asked, u, &Iteration{
			Input: u.Input, Output: u.Output,
			CacheWrite5m: u.CacheWrite5m, CacheWrite1h: u.CacheWrite1h, CacheRead: u.CacheRead,
		})
	}
	for i := range u.Iterations {
		it := &u.Iterations[i]
		v := asked
		if it.Model != "" && it.Model != sent {
			v = p.at(it.Model, at)
		}
		t.add(v, u, it)
	}
	if asked != nil && u.WebSearches > 0 {
		var searches exact
		searches.add(u.WebSearches, asked.search)
		cost.WebSearch = searches.in(1)
	}
	cost.Input = t.input.in(femtoPerNano)
	cost.Output = t.output.in(femtoPerNano)
	cost.CacheWrite = t.write.in(femtoPerNano)
	cost.CacheRead = t.read.in(femtoPerNano)
	return cost, !t.unpriced
}

// tally sums up, in femto-dollars.
type tally struct {
	input, output, write, read exact
	unpriced                   bool
}

// add adds one prompt's tokens; v is nil for a model without a price.
func (t *tally) add(v *version, u *Usage, it *Iteration) {
	if v == nil {
		t.unpriced = true
		return
	}
	r := v.rates(u, saturatingSum(it.Input, it.CacheWrite5m, it.CacheWrite1h, it.CacheRead))
	t.input.add(it.Input, r.input)
	t.output.add(it.Output, r.output)
	t.write.add(it.CacheWrite5m, r.write5m)
	t.write.add(it.CacheWrite1h, r.write1h)
	t.read.add(it.CacheRead, r.read)
}

// rates are the prices for a prompt of that many tokens, with all multipliers.
func (v *version) rates(u *Usage, prompt int64) rates {
	s := &v.steps[0]
	for i := range v.steps {
		if prompt > v.steps[i].above {
			s = &v.steps[i]
		}
	}
	r, factor := s.standard, Rate(nano)
	if u.Geo == "us" {
		factor = v.us
	}
	switch {
	case u.Speed == "fast" && s.fast != nil:
		r = *s.fast
	case u.Tier == "priority" && s.priority != nil:
		r = *s.priority
	case u.Tier == "batch" && s.batch != nil:
		r = *s.batch
	case u.Tier == "batch":
		factor = Rate(USD(factor).Times(batchDiscount))
	}
	if factor == nano {
		return r
	}
	return r.times(factor)
}

func (r rates) times(factor Rate) rates {
	return rates{
		r.input.Times(factor), r.output.Times(factor),
		r.write5m.Times(factor), r.write1h.Times(factor), r.read.Times(factor),
	}
}

// on is the version that holds at that time; before the first one, the first.
func (m *model) on(at time.Time) *version {
	v := &m.versions[0]
	for i := range m.versions {
		if !at.Before(m.versions[i].from) {
			v = &m.versions[i]
		}
	}
	return v
}

// exact is a sum of products in 128 bits.
type exact struct{ hi, lo uint64 }

// add adds n × price, where n is negative nothing. Both are below 2^63, so
// only a sum that no real request comes near could wrap; it stops at the top.
func (e *exact) add(n int64, price USD) {
	if n <= 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(n), uint64(price))
	var carry uint64
	e.lo, carry = bits.Add64(e.lo, lo, 0)
	e.hi, carry = bits.Add64(e.hi, hi, carry)
	if carry != 0 {
		e.hi, e.lo = ^uint64(0), ^uint64(0)
	}
}

// in is the sum in units of d.
func (e *exact) in(d uint64) USD {
	return USD(min(roundedQuotient(e.hi, e.lo, d), 1<<63-1))
}

// saturatingSum adds up counts, taking negative ones for 0.
func saturatingSum(counts ...int64) int64 {
	var sum USD
	for _, n := range counts {
		sum = sum.Plus(USD(max(n, 0)))
	}
	return int64(sum)
}
