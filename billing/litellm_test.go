package billing

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

func overlay(t testing.TB, file string) *Prices {
	t.Helper()
	p, err := BuiltIn().Overlay([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// inAnyOrder are two files: with the models as given, and the other way round.
func inAnyOrder(models ...string) []string {
	backwards := make([]string, 0, len(models))
	for i := range models {
		backwards = append(backwards, models[len(models)-1-i])
	}
	return []string{"{" + strings.Join(models, ",") + "}", "{" + strings.Join(backwards, ",") + "}"}
}

// prices are nano-dollars per token.
type prices struct{ in, out, write5m, write1h, read USD }

// pricesOf prices 100 tokens of each kind, beside others that make it a prompt of
// that size; parts of a nano-dollar are dropped.
func pricesOf(t *testing.T, p *Prices, model string, u Usage, prompt int64, at time.Time) prices {
	t.Helper()
	const n = 100
	price := func(tokens Usage, field func(Cost) USD) USD {
		tokens.Speed, tokens.Tier, tokens.Geo = u.Speed, u.Tier, u.Geo
		cost, priced := p.Cost(model, tokens, at)
		if !priced {
			t.Fatalf("%s has no price", model)
		}
		return field(cost) / n
	}
	return prices{
		in:      price(Usage{Input: n, CacheRead: prompt - n}, func(c Cost) USD { return c.Input }),
		out:     price(Usage{Output: n, CacheRead: prompt}, func(c Cost) USD { return c.Output }),
		write5m: price(Usage{CacheWrite5m: n, CacheRead: prompt - n}, func(c Cost) USD { return c.CacheWrite }),
		write1h: price(Usage{CacheWrite1h: n, CacheRead: prompt - n}, func(c Cost) USD { return c.CacheWrite }),
		read:    price(Usage{CacheRead: n, Input: prompt - n}, func(c Cost) USD { return c.CacheRead }),
	}
}

func TestOverlay(t *testing.T) {
	before := time.Date(2026, 10, 6, 0, 0, 0, 0, time.UTC)
	fast, priority, batch, us := Usage{Speed: "fast"}, Usage{Tier: "priority"}, Usage{Tier: "batch"}, Usage{Geo: "us"}
	const (
		haiku = `"claude-haiku-5-5": {
			"litellm_provider": "anthropic", "mode": "chat", "max_input_tokens": 1000000, "supports_vision": true,
			"input_cost_per_token": 1.1e-07, "input_cost_per_token_above_120k_tokens": 5.5e-07,
			"output_cost_per_token": 5.1e-07, "output_cost_per_token_above_120k_tokens": 2.6e-06,
			"cache_creation_input_token_cost": 1.3e-07, "cache_creation_input_token_cost_above_120k_tokens": 6.5e-07,
			"cache_creation_input_token_cost_above_1hr": 2.1e-07, "cache_creation_input_token_cost_above_1hr_above_120k_tokens": 1.1e-06,
			"cache_read_input_token_cost": 2e-08, "cache_read_input_token_cost_above_120k_tokens": 6e-08,
			"input_cost_per_token_batches": 4e-08, "input_cost_per_token_above_120k_tokens_batches": 3e-07,
			"input_cost_per_token_flex": 1, "output_cost_per_reasoning_token": 1, "input_cost_per_token_above_1hr": 1,
			"provider_specific_entry": {"us": 1.2, "fast": 3.0, "eu": "?"}
		}`
		tiers = `"claude-opus-6": {
			"input_cost_per_token": 6e-06, "output_cost_per_token": 3e-05, "input_cost_per_token_priority": 9e-06,
			"output_cost_per_token_priority": 4e-05, "cache_read_input_token_cost_priority": 1e-06,
			"input_cost_per_token_batches": 2e-06, "output_cost_per_token_batches": 1e-05,
			"input_cost_per_token_above_200k_tokens": 1.2e-05, "input_cost_per_token_above_200k_tokens_priority": 2e-05
		}`
	)
	for _, c := range []struct {
		name, file, model string
		usage             Usage
		prompt            int64
		at                time.Time
		want              prices
	}{
		{"each price of its own", haiku, "claude-haiku-5-5", Usage{}, 120_000, november, prices{110, 510, 130, 210, 20}},
		{"each price past the step", haiku, "claude-haiku-5-5", Usage{}, 120_001, november, prices{550, 2600, 650, 1100, 60}},
		{"the US multiplier", haiku, "us.anthropic.claude-haiku-5-5", us, 1000, november, prices{132, 612, 156, 252, 24}},
		{"the fast multiplier", haiku, "claude-haiku-5-5", fast, 120_001, november, prices{1650, 7800, 1950, 3300, 180}},
		// Caches go along with the tier's input price, 40 of 110; output is as in the standard tier.
		{"a batch price", haiku, "claude-haiku-5-5", batch, 1000, november, prices{40, 510, 47, 76, 7}},
		{"a batch price past the step", haiku, "claude-haiku-5-5", batch, 120_001, november, prices{300, 2600, 354, 600, 32}},

		{"an unknown Claude: the API's rule for caches", tiers, "claude-opus-6", Usage{}, 1000, november, prices{6000, 30_000, 7500, 12_000, 600}},
		{"a step: caches go along, output stays", tiers, "claude-opus-6", Usage{}, 200_001, november, prices{12_000, 30_000, 15_000, 24_000, 1200}},
		{"priority", tiers, "claude-opus-6", priority, 200_000, november, prices{9000, 40_000, 11_250, 18_000, 1000}},
		// Of priority, output is 4/3 and reads 5/3 of standard; reads go along with 20,000 of 18,000.
		{"priority past the step", tiers, "claude-opus-6", priority, 200_001, november, prices{20_000, 40_000, 25_000, 40_000, 2222}},
		{"batch past a step without batch prices", tiers, "claude-opus-6", batch, 200_001, november, prices{4000, 10_000, 5000, 8000, 400}},
		{"no multiplier was given", tiers, "claude-opus-6", us, 1000, november, prices{6000, 30_000, 7500, 12_000, 600}},

		{"no Claude: caches as input", `"glm-4.6": {"input_cost_per_token": 6e-7, "output_cost_per_token": 0.0000022}`, "glm-4.6", Usage{}, 1000, november, prices{600, 2200, 600, 600, 600}},
		{"no Claude: an hour as five minutes", `"glm-4.6": {"input_cost_per_token": 6e-7, "output_cost_per_token": 0.0000022, "cache_creation_input_token_cost": 7e-7}`, "glm-4.6", Usage{}, 1000, november, prices{600, 2200, 700, 700, 600}},
		{"the half of all", `"claude-opus-5-5": {"input_cost_per_token": 2e-06, "output_cost_per_token": 1e-05}`, "claude-opus-5-5", Usage{}, 1000, november, prices{2000, 10_000, 2500, 4000, 100}},
		{"the half of all, fast", `"claude-opus-5-5": {"input_cost_per_token": 2e-06, "output_cost_per_token": 1e-05}`, "claude-opus-5-5", fast, 1000, november, prices{4000, 20_000, 5000, 8000, 200}},
		{"the half of all, us", `"claude-opus-5-5": {"input_cost_per_token": 2e-06, "output_cost_per_token": 1e-05}`, "claude-opus-5-5", us, 1000, november, prices{2200, 11_000, 2750, 4400, 110}},
		{"another fast mode", `"claude-opus-5-5": {"provider_specific_entry": {"fast": 3}}`, "claude-opus-5-5", fast, 1000, november, prices{12_000, 60_000, 15_000, 24_000, 600}},
		{"no fast mode", `"claude-opus-5-5": {"provider_specific_entry": {"fast": 1.0}}`, "claude-opus-5-5", fast, 1000, november, prices{4000, 20_000, 5000, 8000, 200}},
		{"no step any more", `"claude-haiku-5-5": {"input_cost_per_token": 2e-07, "output_cost_per_token": 1e-06}`, "claude-haiku-5-5", Usage{}, 200_000, november, prices{200, 1000, 250, 400, 20}},
		{"amended, below the step", `"claude-haiku-5-5": {"cache_read_input_token_cost": 2e-08}`, "claude-haiku-5-5", Usage{}, 100_000, november, prices{100, 500, 125, 200, 20}},
		{"amended, past the step", `"claude-haiku-5-5": {"cache_read_input_token_cost": 2e-08}`, "claude-haiku-5-5", Usage{}, 100_001, november, prices{500, 2500, 625, 1000, 50}},
		{"the step amended", `"claude-haiku-5-5": {"output_cost_per_token_above_100k_tokens": 3e-06}`, "claude-haiku-5-5", Usage{}, 100_001, november, prices{500, 3000, 625, 1000, 50}},
		{"a step between", `"claude-haiku-5-5": {"input_cost_per_token_above_50k_tokens": 2e-07}`, "claude-haiku-5-5", Usage{}, 50_001, november, prices{200, 500, 250, 400, 20}},
		{"a step between, past the next", `"claude-haiku-5-5": {"input_cost_per_token_above_50k_tokens": 2e-07}`, "claude-haiku-5-5", Usage{}, 100_001, november, prices{500, 2500, 625, 1000, 50}},
		{"dates stay for what is left out", `"claude-sonnet-5-5": {"input_cost_per_token": 4e-06, "output_cost_per_token": 1e-05}`, "claude-sonnet-5-5", Usage{}, 1000, november, prices{4000, 10_000, 5000, 8000, 200}},
		{"dates stay for what is left out, before", `"claude-sonnet-5-5": {"input_cost_per_token": 4e-06, "output_cost_per_token": 1e-05}`, "claude-sonnet-5-5", Usage{}, 1000, before, prices{4000, 10_000, 5000, 8000, 400}},
		{"a date's price is replaced too", `"claude-sonnet-5-5": {"cache_read_input_token_cost": 3e-07}`, "claude-sonnet-5-5", Usage{}, 1000, before, prices{2000, 10_000, 2500, 4000, 300}},
		{"a dated name goes by the model", `"claude-opus-4-5-20251101": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}`, "claude-opus-4-5@20251101", Usage{}, 1000, november, prices{1000, 2000, 1250, 2000, 100}},
		{"and is no price of the undated one", `"claude-opus-4-5-20251101": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}`, "claude-opus-4-5", Usage{}, 1000, november, prices{5000, 25_000, 6250, 10_000, 500}},
		{"free", `"claude-opus-5": {"input_cost_per_token": 0, "output_cost_per_token": -0.0}`, "claude-opus-5", fast, 1000, november, prices{}},

		{"known to be wrong: an hour of claude-3-haiku", `"claude-3-haiku-20240307": {"cache_creation_input_token_cost_above_1hr": 6e-06}`, "claude-3-haiku-20240307", Usage{}, 1000, november, prices{250, 1250, 300, 500, 30}},
		{"but another price is taken", `"claude-3-haiku-20240307": {"cache_creation_input_token_cost_above_1hr": 6e-07}`, "claude-3-haiku-20240307", Usage{}, 1000, november, prices{250, 1250, 300, 600, 30}},
		{"known to be wrong: an hour of claude-3-opus", `"claude-3-opus-20240229": {"cache_creation_input_token_cost_above_1hr": 6e-06}`, "claude-3-opus-20240229", Usage{}, 1000, november, prices{15_000, 75_000, 18_750, 30_000, 1500}},
		{"known to be wrong: fast mode", `"claude-opus-4-6": {"provider_specific_entry": {"fast": 6.0}}`, "claude-opus-4-6", fast, 1000, november, prices{5000, 25_000, 6250, 10_000, 500}},
		{"but another multiplier is taken", `"claude-opus-4-6": {"provider_specific_entry": {"fast": 6.5}}`, "claude-opus-4-6", fast, 1000, november, prices{32_500, 162_500, 40_625, 65_000, 3250}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := overlay(t, "{"+c.file+"}")
			if got := pricesOf(t, p, c.model, c.usage, c.prompt, c.at); got != c.want {
				t.Errorf("%s: %+v, want %+v", c.model, got, c.want)
			}
		})
	}
}

func TestOverlaySearchPrice(t *testing.T) {
	p := overlay(t, `{
		"claude-opus-5": {"search_context_cost_per_query": {"search_context_size_low": 0.001, "search_context_size_medium": 0.0125, "search_context_size_high": 0.1}},
		"claude-opus-4-8": {"search_context_cost_per_query": 2e-02},
		"claude-opus-4-7": {"input_cost_per_token": 1, "output_cost_per_token": 1, "search_context_cost_per_query": {"search_context_size_low": 0.001}},
		"claude-opus-4-6": {"search_context_cost_per_query": null},
		"claude-opus-7": {"input_cost_per_token": 1, "output_cost_per_token": 1}
	}`)
	for model, want := range map[string]USD{
		"claude-opus-5": 12_500_000, "claude-opus-4-8": 20_000_000, "claude-opus-4-7": 10_000_000,
		"claude-opus-4-6": 10_000_000, "claude-opus-5-5": 10_000_000, "claude-opus-7": 10_000_000,
	} {
		if got, _ := p.Cost(model, Usage{WebSearches: 1, Geo: "us", Tier: "batch"}, november); got != (Cost{WebSearch: want}) {
			t.Errorf("%s: %+v, want %s a search", model, got, want)
		}
	}
}

func TestOverlaySkips(t *testing.T) {
	p := overlay(t, `{
		"sample_spec": {"input_cost_per_token": "text", "output_cost_per_token": 0},
		"fallback_generalizations": {"input_cost_per_token": -1},
		"comment": "no model",
		"gpt-image": {"output_cost_per_image": 0.04, "max_tokens": "?"},
		"half-a-price": {"input_cost_per_token": 1e-06},
		"no-base": {"input_cost_per_token_above_200k_tokens": 1e-06, "output_cost_per_token_above_200k_tokens": 1e-06},
		"nulls": {"input_cost_per_token": null, "output_cost_per_token": 1e-06},
		"claude-opus-5": {"input_cost_per_token": null, "mode": "chat", "input_cost_per_token_above_0k_tokens": 1,
			"input_cost_per_token_above_012k_tokens": 1, "input_cost_per_token_above_12junk_tokens": 1, "provider_specific_entry": null}
	}`)
	for _, model := range []string{"sample_spec", "fallback_generalizations", "comment", "gpt-image", "half-a-price", "no-base", "nulls"} {
		if name, match := p.Match(model); match != MatchNone {
			t.Errorf("%s is matched as %s, %v", model, name, match)
		}
	}
	if p.models["claude-opus-5"] != BuiltIn().models["claude-opus-5"] {
		t.Error("an entry that says nothing changed claude-opus-5")
	}
}

func TestOverlayNames(t *testing.T) {
	entry := func(name string, price int) string {
		return fmt.Sprintf(`%q: {"input_cost_per_token": %de-06, "output_cost_per_token": 1}`, name, price)
	}
	for _, file := range inAnyOrder(
		entry("openrouter/anthropic/claude-opus-5", 71), entry("us.anthropic.claude-opus-5-v1:0", 72),
		entry("vertex_ai/claude-sonnet-4-5@20250929", 73), entry("claude-sonnet-4-5-20250929", 74),
		entry("anthropic/claude-haiku-4-5", 75), entry("claude-opus-4-8", 6),
	) {
		p := overlay(t, file)
		for model, want := range map[string]USD{ // dollars per million tokens
			"openrouter/anthropic/claude-opus-5":             71,
			"us.anthropic.claude-opus-5-v1:0":                72,
			"vertex_ai/claude-sonnet-4-5@20250929":           73,
			"claude-sonnet-4-5-20250929":                     74,
			"eu.anthropic.claude-sonnet-4-5-20250929-v1:0":   74,
			"claude-sonnet-4-5@20250929":                     74,
			"anthropic/claude-haiku-4-5":                     75,
			"claude-opus-5":                                  5,
			"anthropic/claude-opus-5":                        5,
			"claude-sonnet-4-5":                              3,
			"claude-haiku-4-5":                               1,
			"claude-opus-4-8[1m]":                            6,
			"claude-opus-4-8[1M]":                            6,
			"openrouter/anthropic/claude-opus-5[1M]":         71,
			"us.anthropic.claude-opus-5-v1:0[1m]":            72,
			"anthropic/claude-haiku-4-5 [1M]":                75,
			"claude-sonnet-4-5-20250929[1M]":                 74,
			"bedrock/us-east-1/anthropic.claude-opus-4-8-v1": 6,
			"claude-opus-9":                                  6, // the dearest of the family now
			"claude-sonnet-9":                                74,
			"claude-haiku-9":                                 1,
		} {
			if got, _ := p.Cost(model, Usage{Input: 1_000_000}, november); got.Input != want*nano {
				t.Errorf("%s: %s, want %d", model, got.Input, want)
			}
		}
	}
}

func TestOverlayRetiredStayRetired(t *testing.T) {
	p := overlay(t, `{
		"claude-opus-4-20250514": {"input_cost_per_token": 1.5e-05, "output_cost_per_token": 7.5e-05},
		"claude-4-opus-20250514": {"input_cost_per_token": 1.5e-05, "output_cost_per_token": 7.5e-05},
		"claude-3-opus-latest": {"input_cost_per_token": 1.5e-05, "output_cost_per_token": 7.5e-05}
	}`)
	if got, _ := p.Cost("claude-opus-9", Usage{Input: 1}, november); got.Input != 5000 {
		t.Errorf("an unknown opus costs %d nano-dollars a token, want 5000 as claude-opus-5", int64(got.Input))
	}
}

func TestOverlayLastOfEqualNames(t *testing.T) {
	p := overlay(t, `{
		"m": {"input_cost_per_token": "bad", "output_cost_per_token": 1},
		"m": {"input_cost_per_token": -1, "output_cost_per_token": 2e-06, "input_cost_per_token": 3e-06}
	}`)
	if got, _ := p.Cost("m", Usage{Input: 1, Output: 1}, november); got.Total() != 5000 {
		t.Errorf("%+v, want 3000 and 2000 nano-dollars", got)
	}
}

func TestOverlayErrors(t *testing.T) {
	for file, want := range map[string]string{
		``:         `price file: not valid JSON`,
		`{"m": {}`: `price file: not valid JSON`,
		`[]`:       `price file: want a JSON object of models and their prices`,
		`"x"`:      `price file: want a JSON object of models and their prices`,
		`{"m": {"input_cost_per_token": -3e-06}}`:                                         `price file: model "m": input_cost_per_token: -3e-06 is negative`,
		`{"m": {"input_cost_per_token": -1e-99}}`:                                         `price file: model "m": input_cost_per_token: -1e-99 is negative`,
		`{"m": {"output_cost_per_token_above_200k_tokens_priority": "3e-06"}}`:            `price file: model "m": output_cost_per_token_above_200k_tokens_priority: want a number, have "3e-06"`,
		`{"m": {"cache_read_input_token_cost": true}}`:                                    `price file: model "m": cache_read_input_token_cost: want a number, have true`,
		`{"m": {"cache_creation_input_token_cost_above_1hr": {}}}`:                        `price file: model "m": cache_creation_input_token_cost_above_1hr: want a number, have {}`,
		`{"m": {"input_cost_per_token": 9223.372036854775808}}`:                           `price file: model "m": input_cost_per_token: 9223.372036854775808 is too large`,
		`{"m": {"input_cost_per_token": 1e400}}`:                                          `price file: model "m": input_cost_per_token: 1e400 is too large`,
		`{"m": {"input_cost_per_token": 1e99999999999999999999}}`:                         `price file: model "m": input_cost_per_token: 1e99999999999999999999 is too large`,
		`{"m": {"provider_specific_entry": {"us": "1.1"}}}`:                               `price file: model "m": provider_specific_entry: us: want a number, have "1.1"`,
		`{"m": {"provider_specific_entry": {"fast": -2}}}`:                                `price file: model "m": provider_specific_entry: fast: -2 is negative`,
		`{"m": {"provider_specific_entry": 2}}`:                                           `price file: model "m": provider_specific_entry: want an object of multipliers, have 2`,
		`{"m": {"search_context_cost_per_query": {"search_context_size_medium": -0.01}}}`: `price file: model "m": search_context_cost_per_query: search_context_size_medium: -0.01 is negative`,
		`{"m": {"search_context_cost_per_query": "free"}}`:                                `price file: model "m": search_context_cost_per_query: want a number, have "free"`,
		`{"b": {"input_cost_per_token": -2}, "a": {"input_cost_per_token": -1}}`:          `price file: model "a": input_cost_per_token: -1 is negative`,
	} {
		if _, err := BuiltIn().Overlay([]byte(file)); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", file, err, want)
		}
	}
	// What no zero value of Prices has is no reason to panic.
	if _, err := new(Prices).Overlay([]byte(`{"m": {"input_cost_per_token": 1, "output_cost_per_token": 1}}`)); err != nil {
		t.Error(err)
	}
}

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]int64{ // femto-dollars
		"0": 0, "-0": 0, "-0.0e5": 0, "0e-99999999999999999999": 0,
		"3e-06": 3_000_000_000, "3E-6": 3_000_000_000, "1.25e-05": 12_500_000_000, "0.000003": 3_000_000_000,
		"30.0e-7": 3_000_000_000, "0.0003e-2": 3_000_000_000, "1": 1_000_000_000_000_000, "1e+1": 10_000_000_000_000_000,
		"1e-15": 1, "5e-16": 1, "4.9999e-16": 0, "1.5e-15": 2, "2.5e-15": 3, "2.49e-15": 2, "1e-16": 0, "9e-17": 0,
		"1.2345678901234565e-06":                      1_234_567_890,
		"3.0000000000000005e-07":                      300_000_000, // a float's noise
		"2.9999999999999997e-07":                      300_000_000,
		"9223.372036854775807":                        math.MaxInt64,
		"9223.3720368547758074":                       math.MaxInt64,
		"1e-1000000000000":                            0,
		"0.00000000000000000000000000000000000001e38": 1_000_000_000_000_000,
	} {
		if got, err := parseNumber(gjson.Parse(text), femtoDecimals); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"9223.3720368547758075", "9224", "1e4", "1e1000000000000", "12345678901234567890e-1"} {
		if got, err := parseNumber(gjson.Parse(text), femtoDecimals); err == nil {
			t.Errorf("%s: %d, want an error", text, got)
		}
	}
}
