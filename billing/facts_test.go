package billing

import (
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

func TestEveryModelWithAPriceHasFacts(t *testing.T) {
	for name := range BuiltIn().models {
		f, known := BuiltIn().Facts(name)
		if !known || f.DisplayName == "" || f.MaxInputTokens < 200_000 || f.MaxOutputTokens < 4096 || f.MaxOutputTokens > f.MaxInputTokens ||
			f.Released.Before(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: %+v, known %t", name, f, known)
		}
	}
}

func TestLimitsOfAPriceFile(t *testing.T) {
	first := overlay(t, `{
		"claude-opus-5-5": {"max_input_tokens": 500000},
		"claude-sonnet-5-5": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "max_input_tokens": 3e5, "max_output_tokens": 1000.0},
		"glm-5": {"max_input_tokens": 200000, "max_output_tokens": 32768},
		"glm-5[1m]": {"max_input_tokens": 900000},
		"claude-haiku-5-5": {"max_input_tokens": "many", "max_output_tokens": null},
		"claude-opus-5": {"max_input_tokens": -1, "max_output_tokens": 1e99},
		"sample_spec": {"max_input_tokens": 7}
	}`)
	both, err := first.Overlay([]byte(`{"glm-5": {"max_output_tokens": 4096}, "claude-opus-4-8": {"max_output_tokens": 5}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		prices        *Prices
		model         string
		input, output int64 // 0 = not known
	}{
		{first, "claude-opus-5-5", 500_000, 128_000},
		{first, "anthropic/claude-opus-5-5-20270101", 500_000, 128_000},
		{first, "claude-opus-5-5[1M]", modelname.LongContext, 128_000},
		{first, "claude-sonnet-5-5", 300_000, 1000},
		{first, "glm-5", 200_000, 32_768},
		{first, "glm-5[1M]", modelname.LongContext, 32_768},
		{first, "glm-5[1m]", 900_000, 0}, // the file's own word
		{first, "glm-6", 0, 0},
		{first, "sample_spec", 0, 0},
		{first, "claude-haiku-5-5", 1_000_000, 128_000},
		{first, "claude-opus-5", 1_000_000, 128_000},
		{both, "glm-5", 0, 4096},
		{both, "claude-opus-4-8", 1_000_000, 5},
		{both, "claude-opus-5-5", 500_000, 128_000},
		{BuiltIn(), "claude-opus-5-5", 1_000_000, 128_000},
		{BuiltIn(), "glm-5", 0, 0},
	} {
		f, known := test.prices.Facts(test.model)
		if f.MaxInputTokens != test.input || f.MaxOutputTokens != test.output || known != (test.input+test.output > 0) {
			t.Errorf("%s: %+v, known %t; want %d, %d", test.model, f, known, test.input, test.output)
		}
	}
	if _, match := first.Match("glm-5"); match != MatchNone {
		t.Errorf("limits are no price: %v", match)
	}
}
