package modelname_test

import (
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

func TestLookup(t *testing.T) {
	const million = 1_000_000
	for _, test := range []struct {
		name          string
		display       string
		input, output int64
		released      string
	}{
		{"claude-opus-5-5", "Claude Opus 5.5", million, 128_000, "2026-09-22"},
		{"anthropic/claude-opus-5-5", "Claude Opus 5.5", million, 128_000, "2026-09-22"},
		{"claude-opus-5-5@latest", "Claude Opus 5.5", million, 128_000, "2026-09-22"},
		{"claude-opus-5-5[1M]", "Claude Opus 5.5", million, 128_000, "2026-09-22"},
		{"claude-opus-5-5-20270101", "Claude Opus 5.5", million, 128_000, "2027-01-01"}, // a snapshot that is not known
		{"claude-opus-4-5", "Claude Opus 4.5", 200_000, 64_000, "2025-11-24"},
		{"claude-opus-4-5-20251101", "Claude Opus 4.5", 200_000, 64_000, "2025-11-24"}, // not the day in its name
		{"claude-opus-4-5-20251101[1m]", "Claude Opus 4.5", million, 64_000, "2025-11-24"},
		{"us.anthropic.claude-haiku-4-5-20251001-v1:0", "Claude Haiku 4.5", 200_000, 64_000, "2025-10-15"},
		{"claude-sonnet-4-5@20250929", "Claude Sonnet 4.5", 200_000, 64_000, "2025-09-29"},
		{"claude-sonnet-4-5-20250929 [1M]", "Claude Sonnet 4.5", million, 64_000, "2025-09-29"},
		{"claude-3-5-haiku-latest", "Claude Haiku 3.5", 200_000, 8192, "2024-10-22"},
		{"claude-3-5-haiku-latest[1m]", "Claude Haiku 3.5", million, 8192, "2024-10-22"},
		{"claude-3-5-sonnet-20241022", "Claude Sonnet 3.5", 200_000, 8192, "2024-10-22"},
		{"claude-3-5-sonnet-20240620", "Claude Sonnet 3.5", 200_000, 8192, "2024-06-20"},
	} {
		f, known := modelname.Lookup(test.name)
		if !known || f.DisplayName != test.display || f.MaxInputTokens != test.input || f.MaxOutputTokens != test.output ||
			f.Released.Format(time.DateOnly) != test.released {
			t.Errorf("%s: %+v, known %t", test.name, f, known)
		}
	}
	for _, name := range []string{"", "[1m]", "claude", "claude-opus", "claude-opus-6", "claude-opus-6[1m]", "claude-opus-5-5-preview", "claude-opus-9-20270101", "glm-5", "opus"} {
		if f, known := modelname.Lookup(name); known || f != (modelname.Facts{}) {
			t.Errorf("%q: %+v is made up", name, f)
		}
	}
	if n := testing.AllocsPerRun(100, func() { modelname.Lookup("claude-opus-4-5-20251101[1m]") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
