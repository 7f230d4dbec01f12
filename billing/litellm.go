package billing

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// Overlay is p with the prices of a file in LiteLLM's format laid over it
// (model_prices_and_context_window.json: an object of models, prices in US dollars
// per token). p stays as it is. What the file can say of a model:
//
//   - input_cost_per_token, output_cost_per_token, cache_read_input_token_cost,
//     cache_creation_input_token_cost and cache_creation_input_token_cost_above_1hr;
//   - each of these with _above_{N}k_tokens, for requests with more than N thousand
//     prompt tokens, then with _priority or _batches, for these tiers;
//   - search_context_cost_per_query, the price of a web search: its
//     search_context_size_medium;
//   - provider_specific_entry, multipliers of all token prices: us and fast;
//   - max_input_tokens and max_output_tokens, see Facts; they are no prices, so that
//     what is no number is as absent.
//
// An entry with an input and an output price replaces the model's: its steps are
// those of the entry. One without both amends a model that is known, and is left
// out for others, as is what has no such field at all, sample_spec,
// fallback_generalizations, and every other field. null is as absent.
//
// What an entry leaves out keeps its proportion: cache prices to the input price
// (that for an hour to that for 5 minutes, if this one is given), and fast mode to
// standard, as they are in the table for that model, at every date of it, or at the
// step before. For a model that the table does not have (by name, without a date or
// as a variant, see Match), cache writes are 1.25 and 2 times the input price and
// reads a tenth, the API's general rule; if it is no Claude model, all are the input
// price. What is left out beside that stays.
//
// A name counts as it stands: "anthropic/claude-opus-5" and "us.anthropic.…" are
// priced so only if asked for by that name, and leave claude-opus-5 alone. Of two
// equal names the last one counts. A price is rounded to a femto-dollar per token,
// halves up. A price that is negative or no number is an error, as is a file that
// is not a JSON object.
//
// Some errors of the published file are left out, but only with these values:
// the 1-hour price of claude-3-haiku and claude-3-opus, 6e-06, and the multiplier
// 6 for the fast mode of models that are in the table.
func (p *Prices) Overlay(file []byte) (*Prices, error) {
	if !gjson.ValidBytes(file) {
		return nil, errors.New("price file: not valid JSON")
	}
	root := gjson.ParseBytes(file)
	if !root.IsObject() {
		return nil, errors.New("price file: want a JSON object of models and their prices")
	}
	entries := members(root)
	out := &Prices{models: make(map[string]*model, len(p.models)+len(entries)), limits: make(map[string]limits)}
	maps.Copy(out.models, p.models)
	maps.Copy(out.limits, p.limits)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if !entries[name].IsObject() || name == "sample_spec" || name == "fallback_generalizations" {
			continue
		}
		e, err := parseEntry(entries[name])
		if err != nil {
			return nil, fmt.Errorf("price file: model %q: %w", name, err)
		}
		if m := p.overlaid(name, e); m != nil {
			out.models[name] = m
		}
		if e.limits != (limits{}) {
			out.limits[name] = e.limits
		}
	}
	out.setFamilies()
	return out, nil
}

// members are an object's, of equal names the last.
func members(object gjson.Result) map[string]gjson.Result {
	out := make(map[string]gjson.Result)
	object.ForEach(func(key, value gjson.Result) bool {
		out[key.Str] = value
		return true
	})
	return out
}

// absent stands for what an entry leaves out.
const absent = -1

// entry is what the file says of a model.
type entry struct {
	// steps are by the number of prompt tokens that a request has more than.
	steps    map[int64]*stepPrices
	us, fast Rate
	search   USD
	limits   limits
}

// stepPrices are by tier.
type stepPrices [tiers]rates

const (
	tierStandard = iota
	tierPriority
	tierBatch
	tiers
)

var noPrices = rates{absent, absent, absent, absent, absent}

// at is the step for requests with more than above prompt tokens.
func (e *entry) at(above int64) *stepPrices {
	if e.steps[above] == nil {
		e.steps[above] = &stepPrices{noPrices, noPrices, noPrices}
	}
	return e.steps[above]
}

// replaces reports whether the entry replaces a model's prices.
func (e *entry) replaces() bool {
	base := e.steps[0]
	return base != nil && base[tierStandard].input != absent && base[tierStandard].output != absent
}

// empty reports whether the entry says nothing of prices.
func (e *entry) empty() bool {
	return len(e.steps) == 0 && e.us == absent && e.fast == absent && e.search == absent
}

// overlaid is the model of that name with the prices of an entry, nil if these are
// none.
func (p *Prices) overlaid(name string, e *entry) *model {
	known, _, match := p.find(name)
	if match < MatchVariant {
		known = nil
	}
	if e.empty() || known == nil && !e.replaces() {
		return nil
	}
	m := &model{name: name}
	base := []version{{us: nano, search: webSearchPrice, steps: []step{{standard: usualRates(name)}}}}
	if known != nil {
		base, m.retired = known.versions, known.retired
		e.leaveOutErrors(known.name)
	}
	for i := range base {
		m.versions = append(m.versions, base[i].overlaid(e))
	}
	return m
}

// usualRates are in proportion to an input price, for a model whose own are
// unknown.
func usualRates(name string) rates {
	if strings.Contains(name, "claude") {
		return rates{input: 100, write5m: 125, write1h: 200, read: 10}
	}
	return rates{input: 100, write5m: 100, write1h: 100, read: 100}
}

// leaveOutErrors leaves out what the published file is known to have wrong.
func (e *entry) leaveOutErrors(model string) {
	if e.fast == 6*nano {
		e.fast = absent
	}
	if base := e.steps[0]; base != nil && (model == "claude-3-haiku" || model == "claude-3-opus") {
		if hour := &base[tierStandard].write1h; *hour == 6_000_000_000 {
			*hour = absent
		}
	}
}

// overlaid is v with the prices of an entry.
func (v *version) overlaid(e *entry) version {
	out := version{from: v.from, us: v.us, search: v.search}
	if e.us != absent {
		out.us = e.us
	}
	if e.search != absent {
		out.search = e.search
	}
	kept := v.steps
	if e.replaces() {
		kept = v.steps[:1]
	}
	steps := map[int64]*step{0: &kept[0]}
	for above := range e.steps {
		steps[above] = nil
	}
	for i := range kept {
		steps[kept[i].above] = &kept[i]
	}
	var last *step
	for _, above := range slices.Sorted(maps.Keys(steps)) {
		if steps[above] != nil {
			last = steps[above]
		}
		out.steps = append(out.steps, last.overlaid(above, e))
		last = &out.steps[len(out.steps)-1]
	}
	return out
}

// overlaid is the step above so many prompt tokens: s, in the table or as the one
// before it has become, with the prices of an entry.
func (s *step) overlaid(above int64, e *entry) step {
	given := stepPrices{noPrices, noPrices, noPrices}
	if e.steps[above] != nil {
		given = *e.steps[above]
	}
	out := step{above: above, standard: s.standard.complete(given[tierStandard])}
	tier := func(own *rates, given rates) *rates {
		if own == nil && given == noPrices {
			return nil
		}
		r := out.standard
		if own != nil {
			r = r.inProportion(own, &s.standard)
		}
		r = r.complete(given)
		return &r
	}
	out.priority = tier(s.priority, given[tierPriority])
	out.batch = tier(s.batch, given[tierBatch])
	switch {
	case e.fast != absent:
		fast := out.standard.times(e.fast)
		out.fast = &fast
	case s.fast != nil:
		fast := out.standard.inProportion(s.fast, &s.standard)
		out.fast = &fast
	}
	return out
}

// complete is given, with what it leaves out in proportion to r.
func (r rates) complete(given rates) rates {
	or := func(price, otherwise USD) USD {
		if price == absent {
			return otherwise
		}
		return price
	}
	var out rates
	out.input = or(given.input, r.input)
	out.output = or(given.output, r.output)
	out.write5m = or(given.write5m, r.write5m.inProportion(out.input, r.input))
	out.write1h = or(given.write1h, r.write1h.inProportion(out.input, r.input))
	if given.write1h == absent && given.write5m != absent {
		out.write1h = r.write1h.inProportion(given.write5m, r.write5m)
	}
	out.read = or(given.read, r.read.inProportion(out.input, r.input))
	return out
}

// inProportion is r, each price of it multiplied by part and divided by whole.
func (r rates) inProportion(part, whole *rates) rates {
	return rates{
		input:   r.input.inProportion(part.input, whole.input),
		output:  r.output.inProportion(part.output, whole.output),
		write5m: r.write5m.inProportion(part.write5m, whole.write5m),
		write1h: r.write1h.inProportion(part.write1h, whole.write1h),
		read:    r.read.inProportion(part.read, whole.read),
	}
}

// inProportion is u multiplied by part and divided by whole, halves rounded up;
// of nothing it is u. None may be negative.
func (u USD) inProportion(part, whole USD) USD {
	if whole == 0 {
		return u
	}
	var product exact
	product.add(int64(u), part)
	return product.in(uint64(whole))
}
