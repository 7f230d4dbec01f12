package billing

import (
	"cmp"
	"math/bits"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

// Sizes that a hold goes by.
const (
	usualBytesPerToken = 4    // of English text or code
	leastBytesPerToken = 2    // of a whole request
	usualOutput        = 4096 // tokens at most
	// largestOutput is that of a model of which it is not known.
	largestOutput = 32_768
)

// Estimate is about what a request costs: that of one input token for every 4
// bytes of its body, at most the model's window, and of maxTokens output tokens but
// not more than 4,096. Speed, Geo and Tier of asked are as the request asks for
// them; its counts are not looked at. A maxTokens below 1 is none: 4,096. Models and
// prompt sizes are priced as Cost does; a model without a price costs nothing.
func (p *Prices) Estimate(model string, bytes, maxTokens int64, asked Usage, at time.Time) USD {
	if maxTokens < 1 {
		maxTokens = usualOutput
	}
	facts, _ := p.Facts(model)
	cost, _ := p.Cost(model, Usage{
		Input:  withinWindow(bytes/usualBytesPerToken, facts),
		Output: min(maxTokens, usualOutput),
		Speed:  asked.Speed, Tier: asked.Tier, Geo: asked.Geo,
	}, at)
	return cost.Total()
}

// Most is what a request can cost: no Usage with at most one input token, of
// whatever kind, for every 2 bytes of its body, and maxTokens output tokens, costs
// more. It goes by the dearest kind of input token, and by the dearest prices of
// each kind among
//
//   - the steps by prompt size, whether the body reaches them or not;
//   - standard speed and the one that is asked for: fast mode may be declined;
//   - the standard tier, the one that is asked for, and priority, which an account
//     may have by default, unless the request refuses it ("standard_only");
//   - the place that is asked for; without one, the US too, since an account may
//     have that by default.
//
// Input is at most the model's window; elsewhere says that some of it is not in the
// body (a link, the id of a file), and then it is all of the window. A maxTokens
// below 1 is none: the model's largest output, 32,768 where that is not known.
//
// What can't be foreseen is left out: web searches, input that a server tool adds,
// and iterations, which other models may make. A model without a price costs
// nothing.
func (p *Prices) Most(model string, bytes, maxTokens int64, elsewhere bool, asked Usage, at time.Time) USD {
	v := p.at(model, at)
	if v == nil {
		return 0
	}
	facts, _ := p.Facts(model)
	tokens := withinWindow(bytes/leastBytesPerToken, facts)
	if elsewhere {
		tokens = cmp.Or(facts.MaxInputTokens, modelname.LongContext)
	}
	if maxTokens < 1 {
		maxTokens = cmp.Or(facts.MaxOutputTokens, largestOutput)
	}
	var inputPrice, outputPrice USD
	var surplus USD
	for _, u := range answersTo(&asked) {
		for i := range v.steps {
			r := v.rates(&u, v.steps[i].above+1)
			for _, price := range [...]USD{r.input, r.write5m, r.write1h, r.read} {
				inputPrice = max(inputPrice, price)
				if price%femtoPerNano != 0 {
					// Cost rounds input, cache writes and reads, each on its own.
					surplus = 1
				}
			}
			outputPrice = max(outputPrice, r.output)
		}
	}
	var input, output exact
	input.add(tokens, inputPrice)
	output.add(maxTokens, outputPrice)
	if input == (exact{}) {
		surplus = 0
	}
	return input.ceil(femtoPerNano).Plus(output.ceil(femtoPerNano)).Plus(surplus)
}

// withinWindow bounds a number of input tokens by the model's window, where that is
// known.
func withinWindow(tokens int64, facts modelname.Facts) int64 {
	if facts.MaxInputTokens > 0 {
		return min(tokens, facts.MaxInputTokens)
	}
	return tokens
}

// answersTo are the speeds, tiers and places that an answer may have.
func answersTo(asked *Usage) [12]Usage {
	tiers := [...]string{"standard", asked.Tier, "priority"}
	if asked.Tier == "standard_only" || asked.Tier == "standard" {
		tiers[2] = "standard"
	}
	geos := [...]string{asked.Geo, asked.Geo}
	if asked.Geo == "" {
		geos[1] = "us"
	}
	var out [12]Usage
	i := 0
	for _, tier := range tiers {
		for _, geo := range geos {
			for _, speed := range [...]string{"standard", asked.Speed} {
				out[i] = Usage{Speed: speed, Tier: tier, Geo: geo}
				i++
			}
		}
	}
	return out
}

// ceil is the sum in units of d, rounded up.
func (e *exact) ceil(d uint64) USD {
	if e.hi >= d {
		return 1<<63 - 1
	}
	quotient, rest := bits.Div64(e.hi, e.lo, d)
	if rest > 0 && quotient < 1<<63 {
		quotient++
	}
	return USD(min(quotient, 1<<63-1))
}
