package billing

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordPrice(t *testing.T) {
	plain := Usage{Input: 1000, Output: 100, CacheWrite5m: 10, CacheWrite1h: 20, CacheRead: 1000}
	searching := Usage{Input: 1000, WebSearches: 2}
	iterations := Usage{
		Input: 1, Output: 1, WebSearches: 1,
		Iterations: []Iteration{
			{Input: 10, Output: 1, CacheWrite5m: 2, CacheWrite1h: 3, CacheRead: 4},
			{Model: "claude-haiku-4-5", Input: 100, Output: 10, CacheWrite5m: 20, CacheWrite1h: 30, CacheRead: 40},
		},
	}
	for _, c := range []struct {
		name, model, sent string
		usage             Usage
		rate              string
		want              Record
		worst             string
		match             Match
	}{
		{
			"plain", "claude-opus-5", "claude-opus-5", plain, "1",
			Record{
				Input: 1000, Output: 100, CacheWrite5m: 10, CacheWrite1h: 20, CacheRead: 1000,
				InputCost: 5_000_000, OutputCost: 2_500_000, CacheWriteCost: 262_500, CacheReadCost: 500_000,
				Cost: 8_262_500, RateMultiplier: 1_000_000_000, Charged: 8_262_500,
			},
			"claude-opus-5", MatchExact,
		},
		{
			"dearer", "claude-opus-5-20260101", "claude-opus-5", Usage{Input: 1}, "1.5",
			Record{Input: 1, InputCost: 5000, Cost: 5000, RateMultiplier: 1_500_000_000, Charged: 7500},
			"claude-opus-5-20260101", MatchUndated,
		},
		{
			"free", "claude-opus-5", "claude-opus-5", Usage{Input: 1}, "0",
			Record{Input: 1, InputCost: 5000, Cost: 5000},
			"claude-opus-5", MatchExact,
		},
		{
			"searches", "claude-opus-5", "claude-opus-5", searching, "1",
			Record{
				Input: 1000, WebSearches: 2, InputCost: 5_000_000, WebSearchCost: 20_000_000,
				Cost: 25_000_000, RateMultiplier: 1_000_000_000, Charged: 25_000_000,
			},
			"claude-opus-5", MatchExact,
		},
		{
			"iterations", "claude-opus-5", "claude-opus-5", iterations, "1",
			Record{
				Input: 110, Output: 11, CacheWrite5m: 22, CacheWrite1h: 33, CacheRead: 44, WebSearches: 1,
				InputCost: 10*5000 + 100*1000, OutputCost: 25_000 + 10*5000,
				CacheWriteCost: 2*6250 + 3*10_000 + 20*1250 + 30*2000, CacheReadCost: 4*500 + 40*100, WebSearchCost: 10_000_000,
				Cost: 10_358_500, RateMultiplier: 1_000_000_000, Charged: 10_358_500,
			},
			"claude-opus-5", MatchExact,
		},
		{
			"iterations of the model that was sent", "claude-opus-5", "claude-haiku-4-5", Usage{
				Iterations: []Iteration{{Model: "claude-haiku-4-5", Input: 1}},
			}, "1",
			Record{Input: 1, InputCost: 5000, Cost: 5000, RateMultiplier: 1_000_000_000, Charged: 5000},
			"claude-opus-5", MatchExact,
		},
		{
			"an iteration of an unknown model", "claude-opus-5", "claude-opus-5", Usage{
				Iterations: []Iteration{{Input: 1}, {Model: "glm", Input: 2}, {Model: "claude-haiku-9"}},
			}, "1",
			Record{Input: 3, InputCost: 5000, Cost: 5000, RateMultiplier: 1_000_000_000, Charged: 5000, Unpriced: true},
			"glm", MatchNone,
		},
		{
			"unknown, of a family", "claude-opus-9", "claude-opus-9", Usage{Input: 1}, "1",
			Record{Input: 1, InputCost: 5000, Cost: 5000, RateMultiplier: 1_000_000_000, Charged: 5000},
			"claude-opus-9", MatchFamily,
		},
		{
			"unknown", "glm-4.6", "glm-4.6", plain, "1",
			Record{
				Input: 1000, Output: 100, CacheWrite5m: 10, CacheWrite1h: 20, CacheRead: 1000,
				RateMultiplier: 1_000_000_000, Unpriced: true,
			},
			"glm-4.6", MatchNone,
		},
		{
			"negative counts", "claude-opus-5", "claude-opus-5", Usage{Input: -1, WebSearches: -1, CacheRead: 2}, "1",
			Record{CacheRead: 2, CacheReadCost: 1000, Cost: 1000, RateMultiplier: 1_000_000_000, Charged: 1000},
			"claude-opus-5", MatchExact,
		},
	} {
		rate, err := ParseRate(c.rate)
		if err != nil {
			t.Fatal(err)
		}
		// Whatever an earlier estimate left is replaced.
		got := Record{Time: november, Model: c.model, ModelSent: c.sent, Input: 77, Output: 77, WebSearchCost: 77, Charged: 77, Unpriced: !c.want.Unpriced}
		worst, match := got.Price(BuiltIn(), c.usage, rate, "")
		c.want.Time, c.want.Model, c.want.ModelSent = november, c.model, c.sent
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if worst != c.worst || match != c.match {
			t.Errorf("%s: %s, %v; want %s, %v", c.name, worst, match, c.worst, c.match)
		}
	}
}

func TestAliasesArePricedByWhatAnswers(t *testing.T) {
	for _, c := range []struct {
		model, named string
		input        USD // of 1,000 tokens
	}{
		{"claude-opus-latest", "claude-opus-5-5", 1000 * 4000},
		{"claude-opus-latest[1m]", "claude-opus-5-5", 1000 * 4000},
		{"claude-opus-latest", "claude-opus-4-5-20251101", 1000 * 5000},
		{"claude-opus-latest", "", 1000 * 5000},        // the family's dearest
		{"claude-opus-latest", "glm-4.6", 1000 * 5000}, // which has no price
		{"claude-opus-5", "claude-opus-5-5", 1000 * 5000},
	} {
		r := Record{Time: november, Model: c.model, ModelSent: c.model}
		if r.Price(BuiltIn(), Usage{Input: 1000, Geo: "global"}, nano, c.named); r.InputCost != c.input || r.Model != c.model {
			t.Errorf("%s answered by %q: %+v, want %s", c.model, c.named, r, c.input)
		}
	}
}

func TestRecordPriceAllocatesNothing(t *testing.T) {
	r := Record{Time: november, Model: "claude-opus-5"}
	u := Usage{Iterations: []Iteration{{Input: 1}, {Model: "claude-haiku-9"}}}
	if n := testing.AllocsPerRun(100, func() { r.Price(BuiltIn(), u, nano, "") }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestRecordJSONNames(t *testing.T) {
	const want = "id time settled user key_id account group platform model model_sent session stream status input_tokens output_tokens " +
		"cache_write_5m_tokens cache_write_1h_tokens cache_read_tokens web_searches input_cost_usd output_cost_usd " +
		"cache_write_cost_usd cache_read_cost_usd web_search_cost_usd cost_usd rate_multiplier charged_usd billing " +
		"duration_ms ttft_ms attempts upstream_request_id estimated unpriced"
	data, err := json.Marshal(Record{Time: november, RateMultiplier: 1_500_000_000, Charged: 1})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			t.Fatal(err)
		}
		if _, isBrace := token.(json.Delim); isBrace {
			continue
		}
		names = append(names, token.(string))
		if _, err := decoder.Token(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, strings.Join(names, " ")); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, part := range []string{`"time":"2026-11-23T12:00:00Z"`, `"rate_multiplier":1.5`, `"charged_usd":"0.000000001"`} {
		if !strings.Contains(string(data), part) {
			t.Errorf("%s lacks %s", data, part)
		}
	}
}
