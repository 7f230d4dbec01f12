package billing

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
	"pgregory.net/rapid"
)

// asFile writes a table's prices at a time in LiteLLM's format.
func asFile(p *Prices, at time.Time, number func(femto USD) string) string {
	var models []string
	for name, m := range p.models {
		v := m.on(at)
		entry := map[string]string{}
		for _, s := range v.steps {
			above := ""
			if s.above > 0 {
				above = fmt.Sprintf("_above_%dk_tokens", s.above/1000)
			}
			entry["input_cost_per_token"+above] = number(s.standard.input)
			entry["output_cost_per_token"+above] = number(s.standard.output)
			entry["cache_creation_input_token_cost"+above] = number(s.standard.write5m)
			entry["cache_creation_input_token_cost_above_1hr"+above] = number(s.standard.write1h)
			entry["cache_read_input_token_cost"+above] = number(s.standard.read)
		}
		entry["provider_specific_entry"] = `{"us": ` + v.us.String() + `}`
		if v.steps[0].fast != nil {
			entry["provider_specific_entry"] = `{"fast": 2.0, "us": ` + v.us.String() + `}`
		}
		entry["search_context_cost_per_query"] = `{"search_context_size_medium": ` + v.search.String() + `}`
		var fields []string
		for field, value := range entry {
			fields = append(fields, strconv.Quote(field)+": "+value)
		}
		models = append(models, strconv.Quote(name)+": {"+strings.Join(fields, ", ")+"}")
	}
	return "{" + strings.Join(models, ",\n") + "}"
}

func drawUsage(t *rapid.T) Usage {
	count := rapid.OneOf(rapid.Int64Range(0, 300_000), rapid.SampledFrom([]int64{0, 1, 100_000, 100_001}))
	u := Usage{
		Input: count.Draw(t, "input"), Output: count.Draw(t, "output"),
		CacheWrite5m: count.Draw(t, "5m"), CacheWrite1h: count.Draw(t, "1h"), CacheRead: count.Draw(t, "read"),
		WebSearches: rapid.Int64Range(0, 3).Draw(t, "searches"),
		Speed:       rapid.SampledFrom([]string{"", "standard", "fast"}).Draw(t, "speed"),
		Tier:        rapid.SampledFrom([]string{"", "standard", "priority", "batch"}).Draw(t, "tier"),
		Geo:         rapid.SampledFrom([]string{"", "us", "global"}).Draw(t, "geo"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "iterations") {
		u.Iterations = append(u.Iterations, Iteration{
			Model: rapid.SampledFrom([]string{"", "claude-haiku-5-5", "claude-opus-9"}).Draw(t, "model"),
			Input: count.Draw(t, "input"), Output: count.Draw(t, "output"), CacheRead: count.Draw(t, "read"),
		})
	}
	return u
}

func TestOverlayOfTheTableItself(t *testing.T) {
	models := []string{"claude-opus-9", "claude-sonnet-9", "claude-haiku-9", "claude-fable-9", "claude-mythos-9", "glm-4.6"}
	for name := range BuiltIn().models {
		models = append(models, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.SampledFrom([]time.Time{november, november.AddDate(0, -3, 0)}).Draw(t, "at")
		forms := []func(USD) string{
			func(femto USD) string { return fmt.Sprintf("%de-15", femto) },
			func(femto USD) string { return fmt.Sprintf("%d.%09de-06", femto/nano, femto%nano) },
			func(femto USD) string { return fmt.Sprintf("0.%015d", femto) },
		}
		number := rapid.SampledFrom(forms).Draw(t, "form")
		p, err := BuiltIn().Overlay([]byte(asFile(BuiltIn(), at, number)))
		if err != nil {
			t.Fatal(err)
		}
		model, u := rapid.SampledFrom(models).Draw(t, "model"), drawUsage(t)
		want, wantPriced := BuiltIn().Cost(model, u, at)
		if got, priced := p.Cost(model, u, at); got != want || priced != wantPriced {
			t.Errorf("%s: %+v, %v; want %+v, %v", model, got, priced, want, wantPriced)
		}
	})
}

func FuzzOverlay(f *testing.F) {
	for _, file := range []string{
		`{}`, `[1]`, `{"sample_spec": {}}`,
		`{"claude-opus-5": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05, "provider_specific_entry": {"us": 1.1, "fast": 2}}}`,
		`{"claude-haiku-5-5": {"input_cost_per_token_above_7k_tokens_priority": 0, "cache_read_input_token_cost": 1e-99}}`,
		`{"x/claude-haiku-5-5": {"input_cost_per_token": 9223.3, "output_cost_per_token": 9223.3, "cache_creation_input_token_cost": 1e-15}}`,
		`{"claude-opus-7": {"input_cost_per_token": 1e-15, "output_cost_per_token": 0, "cache_creation_input_token_cost_above_1hr_above_200k_tokens_batches": 9e3}}`,
		asFile(BuiltIn(), november, func(femto USD) string { return fmt.Sprintf("%de-15", femto) }),
	} {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := BuiltIn().Overlay(file)
		if err != nil {
			return
		}
		named := members(gjson.ParseBytes(file))
		for name, m := range BuiltIn().models {
			if _, ok := named[name]; !ok && p.models[name] != m {
				t.Errorf("%s is not in the file and has another price", name)
			}
		}
		for name, m := range p.models {
			last := int64(-1)
			for _, v := range m.versions {
				last = -1
				for _, s := range v.steps {
					if s.above <= last {
						t.Errorf("%s: steps are out of order", name)
					}
					last = s.above
				}
			}
			for _, speed := range []string{"", "fast"} {
				for _, tier := range []string{"", "priority", "batch"} {
					u := Usage{Input: 1 << 40, Output: 1 << 40, CacheWrite5m: 1, CacheWrite1h: 1, CacheRead: 1, WebSearches: 1, Speed: speed, Tier: tier, Geo: "us"}
					cost, priced := p.Cost(name, u, november)
					if min(cost.Input, cost.Output, cost.CacheWrite, cost.CacheRead, cost.WebSearch) < 0 || !priced {
						t.Errorf("%s: %+v, %v", name, cost, priced)
					}
				}
			}
		}
		again, err := BuiltIn().Overlay(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, model := range []string{"claude-opus-9", "claude-haiku-9", "x"} {
			u := Usage{Input: 1000, Output: 1000, CacheRead: 1000, Speed: "fast", Geo: "us"}
			first, _ := p.Cost(model, u, november)
			second, _ := again.Cost(model, u, november)
			if diff := cmp.Diff(first, second); diff != "" {
				t.Errorf("%s is priced in two ways:\n%s", model, diff)
			}
		}
	})
}
