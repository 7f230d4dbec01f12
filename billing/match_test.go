package billing

import "testing"

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		model, name string
		match       Match
	}{
		{"claude-opus-5-5", "claude-opus-5-5", MatchExact},
		{"claude-sonnet-4-6[1m]", "claude-sonnet-4-6", MatchExact},
		{"claude-opus-5-5[1M]", "claude-opus-5-5", MatchExact},
		{"claude-opus-5-5 [1m]", "claude-opus-5-5", MatchExact},
		{"claude-opus-5-5[1M] ", "claude-opus-5-5", MatchExact},
		{"claude-sonnet-4-5-20250929[1M]", "claude-sonnet-4-5", MatchUndated},
		{"vertex_ai/claude-sonnet-4-5@20250929[1M]", "claude-sonnet-4-5", MatchUndated},
		{"claude-3-5-haiku-latest[1M]", "claude-3-5-haiku", MatchVariant},
		{"claude-opus-9[1M]", "opus", MatchFamily},
		{"glm-4.6[1M]", "", MatchNone},
		{"[1M]", "", MatchNone},
		{"us.anthropic.claude-haiku-5-5[1m]", "claude-haiku-5-5", MatchExact},
		{"us.anthropic.claude-opus-4-7", "claude-opus-4-7", MatchExact},
		{"anthropic/claude-haiku-5-5", "claude-haiku-5-5", MatchExact},
		{"projects/p/models/claude-haiku-5-5", "claude-haiku-5-5", MatchExact},
		{"claude-sonnet-4-5-20250929", "claude-sonnet-4-5", MatchUndated},
		{"claude-sonnet-4-5@20250929", "claude-sonnet-4-5", MatchUndated},
		{"vertex_ai/claude-sonnet-4-5@20250929", "claude-sonnet-4-5", MatchUndated},
		{"claude-opus-5-5@latest", "claude-opus-5-5", MatchUndated},
		{"global.anthropic.claude-opus-4-5-20251101-v1:0[1m]", "claude-opus-4-5", MatchUndated},
		{"claude-4-opus-20250514", "claude-4-opus", MatchUndated},
		{"claude-opus-4-20250514", "claude-opus-4", MatchUndated},
		{"eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5", MatchUndated},
		{"anthropic.claude-opus-4-6-v1", "claude-opus-4-6", MatchUndated},
		{"claude-3-5-haiku-latest", "claude-3-5-haiku", MatchVariant},
		{"claude-opus-5-5-preview", "claude-opus-5-5", MatchVariant},
		{"claude-sonnet-4-5-20250929-thinking", "claude-sonnet-4-5", MatchVariant},
		{"claude-opus-4-9", "opus", MatchFamily}, // no variant of the retired opus-4
		{"claude-sonnet-5-9-preview", "sonnet", MatchFamily},
		{"claude-opus-6", "opus", MatchFamily},
		{"claude-fable-6", "fable", MatchFamily},
		{"claude-mythos-7-1", "mythos", MatchFamily},
		{"haiku", "haiku", MatchFamily},
		{"opusculum", "", MatchNone},
		{"glm-4.6", "", MatchNone},
		{"claude-", "", MatchNone},
		{"-", "", MatchNone},
		{"", "", MatchNone},
	} {
		if name, match := BuiltIn().Match(c.model); name != c.name || match != c.match {
			t.Errorf("Match(%q) = %q, %v; want %q, %v", c.model, name, match, c.name, c.match)
		}
	}
}

func TestUnknownModelsCostTheDearestOfTheirFamily(t *testing.T) {
	u := Usage{Input: 1000, Output: 1000, CacheWrite5m: 1000, CacheWrite1h: 1000, CacheRead: 1000, WebSearches: 1}
	for unknown, dearest := range map[string]string{
		"claude-fable-9": "claude-fable-5", "claude-mythos-9": "claude-mythos-5", "claude-opus-9": "claude-opus-5",
		"claude-sonnet-9": "claude-sonnet-4-6", "claude-haiku-9": "claude-haiku-4-5",
	} {
		for _, variant := range []Usage{u, {Input: 9, Output: 9, Speed: "fast"}, {Input: 10, Geo: "us"}} {
			got, priced := BuiltIn().Cost(unknown, variant, november)
			want, _ := BuiltIn().Cost(dearest, variant, november)
			if got != want || !priced {
				t.Errorf("%s: %+v, %v; want the price of %s: %+v", unknown, got, priced, dearest, want)
			}
		}
	}
	if got, priced := BuiltIn().Cost("glm-4.6", u, november); got != (Cost{}) || priced {
		t.Errorf("no family: %+v, %v; want 0 and unpriced", got, priced)
	}
}
