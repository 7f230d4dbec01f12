package billing

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestEstimate(t *testing.T) {
	for _, c := range []struct {
		model            string
		bytes, maxTokens int64
		asked            Usage
		want             USD
	}{
		{"claude-opus-5-5", 4000, 500, Usage{}, 1000*4000 + 500*20_000},
		{"claude-opus-5-5", 4003, 4096, Usage{Geo: "global", Tier: "auto"}, 1000*4000 + 4096*20_000},
		{"claude-opus-5-5", 4000, 128_000, Usage{}, 1000*4000 + 4096*20_000},
		{"claude-opus-5-5", 4000, 500, Usage{Speed: "fast"}, 1000*8000 + 500*40_000},
		{"claude-opus-5-5", 4000, 500, Usage{Geo: "us"}, 1000*4400 + 500*22_000},
		{"us.anthropic.claude-opus-4-5-20251101-v1:0", 4000, 500, Usage{Geo: "us"}, 1000*5000 + 500*25_000},
		{"claude-opus-9", 4000, 500, Usage{}, 1000*5000 + 500*25_000}, // as the dearest opus
		{"claude-haiku-5-5", 400_000, 1000, Usage{}, 100_000*100 + 1000*500},
		{"claude-haiku-5-5", 400_004, 1000, Usage{}, 100_001*500 + 1000*2500},
		{"claude-opus-5-5", 4000, 0, Usage{}, 1000*4000 + 4096*20_000},
		{"claude-opus-5-5", -4, -1, Usage{}, 4096 * 20_000},
		{"claude-opus-4-5", 4_000_000, 1, Usage{}, 200_000*5000 + 25_000}, // its window
		{"claude-opus-4-5[1m]", 4_000_000, 1, Usage{}, 1_000_000*5000 + 25_000},
		{"glm-4.6", 4000, 500, Usage{}, 0},
		// What was used before the request is none of its own.
		{"claude-opus-5-5", 4, 1, Usage{Input: 9, WebSearches: 9, Iterations: []Iteration{{Input: 9}}}, 4000 + 20_000},
	} {
		if got := BuiltIn().Estimate(c.model, c.bytes, c.maxTokens, c.asked, november); got != c.want {
			t.Errorf("%s, %d bytes, %d tokens, %+v: %s, want %s", c.model, c.bytes, c.maxTokens, c.asked, got, c.want)
		}
	}
}

func TestMost(t *testing.T) {
	priority := overlay(t, `{"claude-opus-7": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "input_cost_per_token_priority": 2e-06}}`)
	cheapUS := overlay(t, `{"claude-opus-7": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "provider_specific_entry": {"us": 0.5, "fast": 0.5}}}`)
	day := time.Date(2026, 10, 7, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name             string
		prices           *Prices
		model            string
		bytes, maxTokens int64
		asked            Usage
		want             USD
	}{
		// The dearest input is what is cached for an hour.
		{"standard", BuiltIn(), "claude-opus-5-5", 2000, 500, Usage{Geo: "global"}, 1000*8000 + 500*20_000},
		{"odd bytes", BuiltIn(), "claude-opus-5-5", 2001, 500, Usage{Geo: "global"}, 1000*8000 + 500*20_000},
		{"all of max_tokens", BuiltIn(), "claude-opus-5-5", 2000, 128_000, Usage{Geo: "global"}, 1000*8000 + 128_000*20_000},
		{"us", BuiltIn(), "claude-opus-5-5", 2000, 500, Usage{Geo: "us"}, 1000*8800 + 500*22_000},
		{"us, perhaps", BuiltIn(), "claude-opus-5-5", 2000, 500, Usage{}, 1000*8800 + 500*22_000},
		{"us, older", BuiltIn(), "claude-opus-4-5", 2000, 500, Usage{}, 1000*10_000 + 500*25_000},
		{"us, cheaper", cheapUS, "claude-opus-7", 2000, 500, Usage{}, 1000*2000 + 500*1000},
		{"fast", BuiltIn(), "claude-opus-5-5", 2000, 500, Usage{Geo: "global", Speed: "fast"}, 1000*16_000 + 500*40_000},
		{"fast, cheaper", cheapUS, "claude-opus-7", 2000, 500, Usage{Geo: "global", Speed: "fast"}, 1000*2000 + 500*1000},
		{"fast, us", BuiltIn(), "claude-opus-5-5", 2000, 500, Usage{Speed: "fast"}, 1000*17_600 + 500*44_000},
		{"fast, unknown", BuiltIn(), "claude-opus-4-6", 2000, 500, Usage{Geo: "global", Speed: "fast"}, 1000*10_000 + 500*25_000},
		{"batch", BuiltIn(), "claude-opus-5-5", 2000, 500, Usage{Geo: "global", Tier: "batch"}, 1000*8000 + 500*20_000},
		{"priority, perhaps", priority, "claude-opus-7", 2000, 500, Usage{}, 1000*4000 + 500*1000},
		{"priority, auto", priority, "claude-opus-7", 2000, 500, Usage{Tier: "auto"}, 1000*4000 + 500*1000},
		{"priority, refused", priority, "claude-opus-7", 2000, 500, Usage{Tier: "standard_only"}, 1000*2000 + 500*1000},
		{"the dearest step", BuiltIn(), "claude-haiku-5-5", 2000, 500, Usage{Geo: "global"}, 1000*1000 + 500*2500},
		{"a family", BuiltIn(), "claude-fable-9", 2000, 500, Usage{Geo: "global"}, 1000*20_000 + 500*50_000},
		{"no max_tokens", BuiltIn(), "claude-opus-5-5", 2000, 0, Usage{Geo: "global"}, 1000*8000 + 128_000*20_000},
		{"no max_tokens, of a model that is not known", BuiltIn(), "claude-opus-9", 2000, -1, Usage{Geo: "global"}, 1000*10_000 + 32_768*25_000},
		{"more than the window", BuiltIn(), "claude-opus-4-5", 2_000_000, 1, Usage{Geo: "global"}, 200_000*10_000 + 25_000},
		{"more than the window, long", BuiltIn(), "claude-opus-4-5[1M]", 3_000_000, 1, Usage{Geo: "global"}, 1_000_000*10_000 + 25_000},
		{"no price", BuiltIn(), "glm-4.6", 2000, 500, Usage{}, 0},
		{"absurd", BuiltIn(), "claude-opus-5-5", math.MaxInt64, math.MaxInt64, Usage{}, math.MaxInt64},
	} {
		if got := c.prices.Most(c.model, c.bytes, c.maxTokens, false, c.asked, day); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	for model, want := range map[string]USD{
		"claude-opus-4-5": 200_000*10_000 + 500*25_000,
		"claude-opus-9":   1_000_000*10_000 + 500*25_000, // not known
	} {
		if got := BuiltIn().Most(model, 2000, 500, true, Usage{Geo: "global"}, november); got != want {
			t.Errorf("%s with input that is not in the body: %s, want %s", model, got, want)
		}
	}
}

func TestMostRoundsUp(t *testing.T) {
	p := overlay(t, `{
		"half": {"input_cost_per_token": 2.5e-09, "output_cost_per_token": 3.2e-09},
		"fifth": {"input_cost_per_token": 2.2e-09, "output_cost_per_token": 3.2e-09}
	}`)
	for _, c := range []struct {
		model            string
		bytes, maxTokens int64
		want             USD
	}{
		{"half", 6, 1, 8 + 1 + 4}, // 7.5, and 1.5 more at most if input, cache writes and reads are 2.5 each
		{"half", 0, 1, 4},
		{"fifth", 2, 1, 3 + 1 + 4},
	} {
		if got := p.Most(c.model, c.bytes, c.maxTokens, false, Usage{}, november); got != c.want {
			t.Errorf("%s, %d bytes, %d tokens: %d nano-dollars, want %d", c.model, c.bytes, c.maxTokens, int64(got), int64(c.want))
		}
	}
	if cost, _ := p.Cost("half", Usage{Input: 1, CacheWrite5m: 1, CacheRead: 1}, november); cost.Total() != 9 {
		t.Errorf("%+v, want 3 each", cost)
	}
}

// fractions is a table whose prices are no whole nano-dollars.
const fractions = `{
	"claude-opus-7": {
		"input_cost_per_token": 1.2345678e-09, "output_cost_per_token": 3.5e-09, "cache_read_input_token_cost": 2.5e-09,
		"cache_creation_input_token_cost": 1.5e-09, "cache_creation_input_token_cost_above_1hr": 2.5e-09,
		"input_cost_per_token_above_1k_tokens": 2.5e-09, "output_cost_per_token_above_2k_tokens": 3.7e-09,
		"input_cost_per_token_priority": 4e-09, "provider_specific_entry": {"us": 1.0000001, "fast": 1.5}
	}
}`

func TestNoUsageCostsMoreThanMost(t *testing.T) {
	tables := []*Prices{BuiltIn(), overlay(t, fractions)}
	models := []string{"claude-opus-7", "claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-5-5", "claude-haiku-4-5", "claude-fable-9", "glm-4.6"}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(tables).Draw(t, "prices")
		model := rapid.SampledFrom(models).Draw(t, "model")
		at := rapid.SampledFrom([]time.Time{november, november.AddDate(0, -3, 0)}).Draw(t, "at")
		size := rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, 5000), rapid.Int64Range(0, 4_000_000))
		bytes, maxTokens := size.Draw(t, "bytes"), 1+size.Draw(t, "max_tokens")
		asked := Usage{
			Speed: rapid.SampledFrom([]string{"", "standard", "fast"}).Draw(t, "asked speed"),
			Tier:  rapid.SampledFrom([]string{"", "auto", "standard_only"}).Draw(t, "asked tier"),
			Geo:   rapid.SampledFrom([]string{"", "us", "global"}).Draw(t, "asked geo"),
		}
		// What upstream may answer to that.
		speeds, tiers, geos := []string{"standard", asked.Speed}, []string{"standard", "priority"}, []string{asked.Geo}
		if asked.Tier == "standard_only" {
			tiers = tiers[:1]
		}
		if asked.Geo == "" {
			geos = []string{"us", "global", "not_available", ""}
		}
		u := Usage{
			Speed: rapid.SampledFrom(speeds).Draw(t, "speed"),
			Tier:  rapid.SampledFrom(tiers).Draw(t, "tier"),
			Geo:   rapid.SampledFrom(geos).Draw(t, "geo"),
		}
		u.Output = rapid.Int64Range(0, maxTokens).Draw(t, "output")
		rest := bytes / 2
		if facts, _ := p.Facts(model); facts.MaxInputTokens > 0 {
			rest = min(rest, facts.MaxInputTokens) // what upstream takes
		}
		for _, kind := range []*int64{&u.Input, &u.CacheWrite5m, &u.CacheWrite1h, &u.CacheRead} {
			*kind = rapid.OneOf(rapid.Int64Range(0, rest), rapid.Just(rest)).Draw(t, "tokens")
			rest -= *kind
		}
		most := p.Most(model, bytes, maxTokens, false, asked, at)
		if cost, _ := p.Cost(model, u, at); cost.Total() > most {
			t.Errorf("%s: %+v costs %s, more than the %s for %d bytes and %d tokens asked for with %+v",
				model, u, cost.Total(), most, bytes, maxTokens, asked)
		}
	})
}

func TestEstimatesAllocateNothing(t *testing.T) {
	p := BuiltIn()
	if n := testing.AllocsPerRun(100, func() {
		p.Estimate("claude-haiku-5-5", 50_000, 128_000, Usage{}, november)
		p.Most("claude-haiku-5-5", 50_000, 128_000, false, Usage{Speed: "fast"}, november)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkMost(b *testing.B) {
	p := BuiltIn()
	b.ReportAllocs()
	for b.Loop() {
		p.Most("claude-haiku-5-5", 50_000, 128_000, false, Usage{Speed: "fast"}, november)
	}
}
