package billing

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// november is a time after every dated row of the table.
var november = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// perMTok are prices in US dollars per million tokens.
type perMTok struct{ in, out, write5m, write1h, read string }

// listPrices are Anthropic's of November 2026, written down a second time. The
// steps of claude-haiku-5-5 and the dates of claude-sonnet-5-5 have tests of their
// own.
var listPrices = []struct {
	models   string
	standard perMTok
	fast     perMTok // zero: as standard
	us       bool    // has the US multiplier
}{
	{"claude-fable-5-2 claude-mythos-5-2", perMTok{"8", "40", "10", "16", "0.20"}, perMTok{"16", "80", "20", "32", "0.40"}, true},
	{"claude-fable-5-1 claude-mythos-5-1", perMTok{"10", "50", "12.5", "20", "0.25"}, perMTok{}, true},
	{"claude-fable-5 claude-mythos-5", perMTok{"10", "50", "12.5", "20", "1"}, perMTok{}, true},
	{"claude-opus-5-5", perMTok{"4", "20", "5", "8", "0.20"}, perMTok{"8", "40", "10", "16", "0.40"}, true},
	{"claude-opus-5 claude-opus-4-8", perMTok{"5", "25", "6.25", "10", "0.50"}, perMTok{"10", "50", "12.5", "20", "1"}, true},
	{"claude-opus-4-7 claude-opus-4-6", perMTok{"5", "25", "6.25", "10", "0.50"}, perMTok{}, true},
	{"claude-opus-4-5 claude-opus-4-5-20251101", perMTok{"5", "25", "6.25", "10", "0.50"}, perMTok{}, false},
	{"claude-sonnet-5-5", perMTok{"2", "10", "2.5", "4", "0.10"}, perMTok{}, true},
	{"claude-sonnet-5", perMTok{"2", "10", "2.5", "4", "0.20"}, perMTok{}, true},
	{"claude-sonnet-4-6", perMTok{"3", "15", "3.75", "6", "0.30"}, perMTok{}, true},
	{"claude-sonnet-4-5 claude-sonnet-4-5-20250929 claude-sonnet-4 claude-sonnet-4-20250514 claude-4-sonnet-20250514 claude-3-7-sonnet-20250219 " +
		"claude-3-5-sonnet-20241022 claude-3-sonnet-20240229", perMTok{"3", "15", "3.75", "6", "0.30"}, perMTok{}, false},
	{"claude-haiku-5-5", perMTok{"0.10", "0.50", "0.125", "0.20", "0.01"}, perMTok{}, true},
	{"claude-haiku-4-5 claude-haiku-4-5-20251001", perMTok{"1", "5", "1.25", "2", "0.10"}, perMTok{}, false},
	{"claude-3-5-haiku-20241022", perMTok{"0.80", "4", "1", "1.60", "0.08"}, perMTok{}, false},
	{"claude-3-haiku-20240307", perMTok{"0.25", "1.25", "0.30", "0.50", "0.03"}, perMTok{}, false},
	{"claude-opus-4-1 claude-opus-4-1-20250805 claude-opus-4 claude-opus-4-20250514 claude-4-opus-20250514 claude-3-opus-20240229",
		perMTok{"15", "75", "18.75", "30", "1.50"}, perMTok{}, false},
}

// times is the price of 1,000 tokens at that rate.
func times(t *testing.T, price, factor string) USD {
	t.Helper()
	p, err := ParseUSD(price)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseRate(factor)
	if err != nil {
		t.Fatal(err)
	}
	return p.Times(f) / 1000
}

// costOf1000 is the cost of 1,000 tokens of one kind at a time: each kind
// alone, so that no price stands in for another.
func costOf1000(t *testing.T, model string, u Usage) [5]USD {
	t.Helper()
	var got [5]USD
	for i := range got {
		one := u
		*[]*int64{&one.Input, &one.Output, &one.CacheWrite5m, &one.CacheWrite1h, &one.CacheRead}[i] = 1000
		cost, priced := BuiltIn().Cost(model, one, november)
		if !priced {
			t.Fatalf("%s has no price", model)
		}
		field := []USD{cost.Input, cost.Output, cost.CacheWrite, cost.CacheWrite, cost.CacheRead}[i]
		if cost.Total() != field {
			t.Errorf("%s, kind %d: cost %+v, want one kind alone", model, i, cost)
		}
		got[i] = field
	}
	return got
}

// TestEveryListPrice takes each kind of token alone, at each price that a model
// has, for each name.
func TestEveryListPrice(t *testing.T) {
	for _, row := range listPrices {
		fast := row.fast
		if fast == (perMTok{}) {
			fast = row.standard
		}
		us := map[bool]string{true: "1.1", false: "1"}[row.us]
		usBatch, fastBatch := map[string]string{"1.1": "0.55", "1": "0.5"}[us], us
		if fast == row.standard { // fast mode is ignored, so batch counts
			fastBatch = usBatch
		}
		for _, c := range []struct {
			name   string
			usage  Usage
			prices perMTok
			factor string
		}{
			{"standard", Usage{}, row.standard, "1"},
			{"other values", Usage{Speed: "standard", Tier: "priority", Geo: "global"}, row.standard, "1"},
			{"batch", Usage{Tier: "batch"}, row.standard, "0.5"},
			{"us", Usage{Geo: "us"}, row.standard, us},
			{"us, batch", Usage{Geo: "us", Tier: "batch"}, row.standard, usBatch},
			{"fast", Usage{Speed: "fast"}, fast, "1"},
			{"fast, us", Usage{Speed: "fast", Geo: "us"}, fast, us},
			{"fast, priority", Usage{Speed: "fast", Tier: "priority"}, fast, "1"},
			{"fast, us, batch", Usage{Speed: "fast", Geo: "us", Tier: "batch"}, fast, fastBatch},
		} {
			want := [5]USD{}
			for i, price := range []string{c.prices.in, c.prices.out, c.prices.write5m, c.prices.write1h, c.prices.read} {
				want[i] = times(t, price, c.factor)
			}
			for _, model := range strings.Fields(row.models) {
				if diff := cmp.Diff(want, costOf1000(t, model, c.usage)); diff != "" {
					t.Errorf("%s, %s (-want +got):\n%s", model, c.name, diff)
				}
			}
		}
	}
}

// TestEveryModelIsListed sees to it that no model is left out above.
func TestEveryModelIsListed(t *testing.T) {
	listed := make(map[string]bool)
	for _, row := range listPrices {
		for _, name := range strings.Fields(row.models) {
			model, match := BuiltIn().Match(name)
			if match < MatchUndated {
				t.Errorf("%s is matched as %v", name, match)
			}
			listed[model] = true
		}
	}
	for name := range BuiltIn().models {
		if !listed[name] {
			t.Errorf("%s is in the table and not in listPrices", name)
		}
	}
}

// TestMultipliersStack prices one request in nano-dollars, as it was served in
// different ways.
func TestMultipliersStack(t *testing.T) {
	for _, c := range []struct {
		model, speed, tier, geo string
		searches                int64
		want                    USD
	}{
		// 1000 x 4,000 + 100 x 20,000 + 10 x 5,000 + 20 x 8,000 + 5000 x 200
		{"claude-opus-5-5", "standard", "standard", "global", 0, 7_210_000},
		{"claude-opus-5-5", "standard", "standard", "not_available", 0, 7_210_000},
		{"claude-opus-5-5", "standard", "priority", "global", 0, 7_210_000}, // no price of its own is known
		{"claude-opus-5-5", "standard", "standard", "us", 0, 7_931_000},     // x 1.1
		{"claude-opus-5-5", "standard", "batch", "global", 0, 3_605_000},    // x 0.5
		{"claude-opus-5-5", "standard", "batch", "us", 0, 3_965_500},        // x 1.1 x 0.5
		{"claude-opus-5-5", "fast", "standard", "global", 0, 14_420_000},    // every price is twice the standard one
		{"claude-opus-5-5", "fast", "standard", "us", 0, 15_862_000},        // x 1.1
		{"claude-opus-5-5", "fast", "priority", "us", 0, 15_862_000},
		{"claude-opus-5-5", "fast", "batch", "global", 0, 14_420_000}, // there is no fast batch
		{"claude-opus-5-5", "fast", "batch", "us", 0, 15_862_000},
		{"claude-opus-5-5", "standard", "batch", "us", 2, 23_965_500}, // searches cost what they cost
		{"claude-opus-5-5", "fast", "standard", "us", 2, 35_862_000},
		// 1000 x 3,000 + 100 x 15,000 + 10 x 3,750 + 20 x 6,000 + 5000 x 300, older than the US multiplier
		{"claude-sonnet-4-5", "standard", "standard", "us", 0, 6_157_500},
		{"claude-sonnet-4-5", "fast", "batch", "us", 0, 3_078_750}, // no fast mode: it is ignored
		// 1000 x 100 + 100 x 500 + 10 x 125 + 20 x 200 + 5000 x 10
		{"claude-haiku-5-5", "standard", "standard", "", 0, 205_250},
		// 55,000 + 27,500 + 2,887.5 + 27,500
		{"claude-haiku-5-5", "standard", "batch", "us", 0, 112_888},
	} {
		u := Usage{Input: 1000, Output: 100, CacheWrite5m: 10, CacheWrite1h: 20, CacheRead: 5000, WebSearches: c.searches, Speed: c.speed, Tier: c.tier, Geo: c.geo}
		if got, priced := BuiltIn().Cost(c.model, u, november); got.Total() != c.want || !priced {
			t.Errorf("%s, %s, %s, %s, %d searches: %s, %v; want %s", c.model, c.speed, c.tier, c.geo, c.searches, got.Total(), priced, c.want)
		}
	}
}

func TestDatedPrice(t *testing.T) {
	day := time.Date(2026, 10, 7, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		at   time.Time
		want USD
	}{
		{time.Time{}, 200_000},
		{day.Add(-time.Nanosecond), 200_000},
		{day, 100_000},
		{day.In(time.FixedZone("west", -8*3600)), 100_000},
		{november, 100_000},
	} {
		cost, _ := BuiltIn().Cost("claude-sonnet-5-5", Usage{Input: 1000, CacheRead: 1000}, c.at)
		if cost.CacheRead != c.want || cost.Input != 2_000_000 {
			t.Errorf("at %v: %+v, want cache read %s and input as ever", c.at, cost, c.want)
		}
	}
}

func TestPromptStepRepricesEveryToken(t *testing.T) {
	small := Cost{Output: 500_000, CacheWrite: 2*125_000 + 200_000, CacheRead: 10_000}
	large := Cost{Output: 2_500_000, CacheWrite: 2*625_000 + 1_000_000, CacheRead: 50_000}
	prompt := Usage{Output: 1000, CacheWrite5m: 2000, CacheWrite1h: 1000, CacheRead: 1000}
	with := func(u Usage, input int64) Usage { u.Input = input; return u }
	small.Input, large.Input = 96_000*100, 96_001*500
	doubled := Cost{2 * small.Input, 2 * small.Output, 2 * small.CacheWrite, 2 * small.CacheRead, 0}
	iteration := Iteration{Input: 96_000, Output: 1000, CacheWrite5m: 2000, CacheWrite1h: 1000, CacheRead: 1000}
	longer := iteration
	longer.Input++
	for _, c := range []struct {
		name  string
		usage Usage
		want  Cost
	}{
		{"100,000 tokens", with(prompt, 96_000), small},
		{"100,001 tokens", with(prompt, 96_001), large},
		{"output is no prompt", Usage{Input: 100_000, Output: 1_000_000}, Cost{Input: 10_000_000, Output: 500_000_000}},
		{"each iteration on its own", Usage{Iterations: []Iteration{iteration, iteration}}, doubled},
		{"one iteration past it", Usage{Input: 5, Iterations: []Iteration{longer}}, large},
	} {
		if got, priced := BuiltIn().Cost("claude-haiku-5-5", c.usage, november); got != c.want || !priced {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, priced, c.want)
		}
	}
	if got, _ := BuiltIn().Cost("claude-haiku-4-5", with(prompt, 1_000_000), november); got.Input != 1_000_000_000 {
		t.Errorf("a model without steps: %+v", got)
	}
	stacked, _ := BuiltIn().Cost("claude-haiku-5-5", Usage{Input: 200_000, Geo: "us", Tier: "batch"}, november)
	if want := USD(200_000 * 275); stacked.Input != want {
		t.Errorf("step, us and batch: %s, want %s", stacked.Input, want)
	}
}

func TestIterationsArePricedByTheirOwnModels(t *testing.T) {
	u := Usage{
		Input: 612, Output: 100, WebSearches: 3,
		Iterations: []Iteration{
			{Input: 1000, Output: 10},
			{Model: "claude-haiku-4-5", Input: 60_000, CacheRead: 1000},
			{Model: "claude-opus-5", Output: 100, CacheWrite1h: 10},
		},
	}
	got, priced := BuiltIn().Cost("claude-sonnet-5", u, november)
	want := Cost{
		Input:      1000*2000 + 60_000*1000,
		Output:     10*10_000 + 100*25_000,
		CacheWrite: 10 * 10_000,
		CacheRead:  1000 * 100,
		WebSearch:  30_000_000,
	}
	if got != want || !priced {
		t.Errorf("%+v, %v; want %+v", got, priced, want)
	}
	u.Iterations = append(u.Iterations, Iteration{Model: "who", Input: 1})
	if again, priced := BuiltIn().Cost("claude-sonnet-5", u, november); again != want || priced {
		t.Errorf("with an unknown model: %+v, %v; want %+v and unpriced", again, priced, want)
	}
}

func TestWebSearchesHaveNoMultiplier(t *testing.T) {
	for _, u := range []Usage{{}, {Geo: "us"}, {Tier: "batch"}, {Speed: "fast"}} {
		u.WebSearches = 7
		if got, _ := BuiltIn().Cost("claude-opus-5", u, november); got != (Cost{WebSearch: 70_000_000}) {
			t.Errorf("%+v: %+v, want 0.07 dollars", u, got)
		}
	}
}

func TestRoundedOncePerKind(t *testing.T) {
	// 5.5 nano-dollars a token: haiku-5-5's cache reads in a US batch.
	u := Usage{Geo: "us", Tier: "batch", CacheRead: 1}
	if got, _ := BuiltIn().Cost("claude-haiku-5-5", u, november); got.CacheRead != 6 {
		t.Errorf("one token: %d nano-dollars, want 6: halves go up", int64(got.CacheRead))
	}
	u.CacheRead, u.Iterations = 0, []Iteration{{CacheRead: 1}, {CacheRead: 1}}
	if got, _ := BuiltIn().Cost("claude-haiku-5-5", u, november); got.CacheRead != 11 {
		t.Errorf("two iterations: %d nano-dollars, want 11: the sum is rounded, not each", int64(got.CacheRead))
	}
}

func TestAbsurdCounts(t *testing.T) {
	negative := Usage{Input: -5, Output: -5, CacheWrite5m: -5, CacheWrite1h: -5, CacheRead: -5, WebSearches: -5}
	if got, priced := BuiltIn().Cost("claude-opus-4-1", negative, november); got != (Cost{}) || !priced {
		t.Errorf("negative counts: %+v, want 0", got)
	}
	const most = math.MaxInt64
	huge := Iteration{Input: most, Output: most, CacheWrite5m: most, CacheWrite1h: most, CacheRead: most}
	got, _ := BuiltIn().Cost("claude-opus-4-1", Usage{WebSearches: most, Iterations: []Iteration{huge, huge, huge}}, november)
	if got != (Cost{most, most, most, most, most}) || got.Total() != most {
		t.Errorf("huge counts: %+v, want the largest amounts", got)
	}
}

func TestTableErrors(t *testing.T) {
	for line, part := range map[string]string{
		"m 1 2 3 4":                                "line 1: want a model and 5 prices",
		"m 1 2 3 4 x":                              "line 1: m: ",
		"m 1 2 3 4 -1":                             "negative",
		"m 1 2 3 4 5 us=x":                         `option "us=x"`,
		"m 1 2 3 4 5 fast=1/2":                     "want 5 prices, have 2",
		"m 1 2 3 4 5 colour=red":                   "unknown option",
		"m 1 2 3 4 5 above=5":                      "small prompts",
		"m 1 2 3 4 5\nm 1 2 3 4 5":                 "line 2: m: row is out of order",
		"m 1 2 3 4 5 from=2026-01-32":              `option "from=2026-01-32"`,
		"m 1 2 3 4 5 from=2026-01-02\nm 1 2 3 4 5": "out of order",
	} {
		if _, err := parseTable(line); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("table %q: %v, want an error with %q", line, err, part)
		}
	}
}

func BenchmarkCost(b *testing.B) {
	p := BuiltIn()
	plain := Usage{Input: 12, Output: 345, CacheWrite5m: 678, CacheWrite1h: 9, CacheRead: 91011, WebSearches: 1}
	stacked := plain
	stacked.Geo, stacked.Tier = "us", "batch"
	iterations := plain
	iterations.Iterations = []Iteration{{Input: 5}, {Model: "claude-haiku-4-5-20251001", Input: 60_000}, {Output: 99}}
	for _, c := range []struct {
		name, model string
		usage       Usage
	}{
		{"exact", "claude-sonnet-5-5", plain},
		{"dated", "claude-sonnet-4-5-20250929", plain},
		{"us batch", "claude-haiku-5-5", stacked},
		{"iterations", "claude-opus-5-5", iterations},
		{"family", "claude-opus-9", plain},
		{"none", "glm-4.6", plain},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Cost(c.model, c.usage, november)
			}
		})
	}
}

func TestCostAllocatesNothing(t *testing.T) {
	u := Usage{Geo: "us", Tier: "batch", Iterations: []Iteration{{Input: 5}, {Model: "us.anthropic.claude-haiku-9", Input: 6}}}
	if n := testing.AllocsPerRun(100, func() { BuiltIn().Cost("claude-sonnet-4-5-20250929", u, november) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
