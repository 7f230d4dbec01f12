package modelname

import (
	"strings"
	"time"
)

// LongContext is the context window, in tokens, of a model that is asked for with
// "[1m]".
const LongContext = 1_000_000

// Facts are what a model's provider documents of it.
type Facts struct {
	// DisplayName is what the API calls the model for people; "" = not known.
	DisplayName string
	// MaxInputTokens is the context window, and MaxOutputTokens the largest
	// max_tokens of a request that is answered at once (batches may have more);
	// 0 = not known.
	MaxInputTokens, MaxOutputTokens int64
	// Released is the day on which the model came out, UTC; zero = not known.
	Released time.Time
}

// Lookup returns what is known of a model, and whether anything is. The name may
// be written in any of its Spellings, or end with "-latest". With "[1m]" the window
// of a known model is LongContext. Released is that of the model's first snapshot;
// of a snapshot with another date, it is the date in its name.
func Lookup(name string) (Facts, bool) {
	for _, spelling := range Spellings(name) {
		r, known := facts[strings.TrimSuffix(spelling, "-latest")]
		if !known {
			continue
		}
		f := r.Facts
		if date := Date(name); !date.IsZero() && date != r.snapshot {
			f.Released = date
		}
		if IsLong(name) {
			f.MaxInputTokens = LongContext
		}
		return f, true
	}
	return Facts{}, false
}

// row is what is known of a model, and the date in the name of its first snapshot;
// zero where its name has none.
type row struct {
	Facts
	snapshot time.Time
}

func of(display string, input, output int64, released time.Time) row {
	return row{Facts: Facts{display, input, output, released}}
}

func (r row) named(snapshot time.Time) row {
	r.snapshot = snapshot
	return r
}

func day(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// k is the number of tokens that the documentation writes as 64K, m as 1M: the API
// itself says 64000 and 1000000.
const (
	k = 1_000
	m = 1_000_000
)

// facts are by name without a date. The names from 4.6 on have none: they are
// snapshots themselves.
//
// Sources. "page": the model's page in Anthropic's documentation, as of November
// 2026, platform.claude.com/docs/en/models/<model>/overview, which begins with
// "Released <date>", "Context window" and "Max output". "2025": the comparison
// table of docs.anthropic.com/en/docs/about-claude/models/overview in 2025, the
// days of release and names from the API's own answers to GET /v1/models then.
// "2024": that table in 2024, the day being the one in the name.
var facts = map[string]row{
	// The pages of Fable 5.2 and Mythos 5.2 ("What's new") name the limits. The day:
	// Amazon Bedrock's model card of Mythos 5.2, and Anthropic's Go SDK v2.8.0.
	"claude-fable-5-2":  of("Claude Fable 5.2", 1*m, 128*k, day(2026, 11, 9)),
	"claude-mythos-5-2": of("Claude Mythos 5.2", 1*m, 128*k, day(2026, 11, 9)),

	"claude-fable-5-1":  of("Claude Fable 5.1", 1*m, 128*k, day(2026, 9, 1)),  // page
	"claude-mythos-5-1": of("Claude Mythos 5.1", 1*m, 128*k, day(2026, 9, 1)), // page
	"claude-fable-5":    of("Claude Fable 5", 1*m, 128*k, day(2026, 6, 9)),    // page
	"claude-mythos-5":   of("Claude Mythos 5", 1*m, 128*k, day(2026, 6, 9)),   // page

	"claude-opus-5-5": of("Claude Opus 5.5", 1*m, 128*k, day(2026, 9, 22)),                           // page
	"claude-opus-5":   of("Claude Opus 5", 1*m, 128*k, day(2026, 7, 24)),                             // page
	"claude-opus-4-8": of("Claude Opus 4.8", 1*m, 128*k, day(2026, 5, 28)),                           // page
	"claude-opus-4-7": of("Claude Opus 4.7", 1*m, 128*k, day(2026, 4, 16)),                           // page
	"claude-opus-4-6": of("Claude Opus 4.6", 1*m, 128*k, day(2026, 2, 5)),                            // page
	"claude-opus-4-5": of("Claude Opus 4.5", 200*k, 64*k, day(2025, 11, 24)).named(day(2025, 11, 1)), // page
	"claude-opus-4-1": of("Claude Opus 4.1", 200*k, 32*k, day(2025, 8, 5)).named(day(2025, 8, 5)),    // 2025
	"claude-opus-4":   of("Claude Opus 4", 200*k, 32*k, day(2025, 5, 22)).named(day(2025, 5, 14)),    // 2025
	"claude-4-opus":   of("Claude Opus 4", 200*k, 32*k, day(2025, 5, 22)).named(day(2025, 5, 14)),    // as claude-opus-4
	"claude-3-opus":   of("Claude Opus 3", 200*k, 4096, day(2024, 2, 29)).named(day(2024, 2, 29)),    // 2025

	"claude-sonnet-5-5": of("Claude Sonnet 5.5", 1*m, 128*k, day(2026, 9, 28)),                          // page
	"claude-sonnet-5":   of("Claude Sonnet 5", 1*m, 128*k, day(2026, 6, 30)),                            // page
	"claude-sonnet-4-6": of("Claude Sonnet 4.6", 1*m, 128*k, day(2026, 2, 17)),                          // page
	"claude-sonnet-4-5": of("Claude Sonnet 4.5", 200*k, 64*k, day(2025, 9, 29)).named(day(2025, 9, 29)), // page
	"claude-sonnet-4":   of("Claude Sonnet 4", 200*k, 64*k, day(2025, 5, 22)).named(day(2025, 5, 14)),   // 2025
	"claude-4-sonnet":   of("Claude Sonnet 4", 200*k, 64*k, day(2025, 5, 22)).named(day(2025, 5, 14)),   // as claude-sonnet-4
	"claude-3-7-sonnet": of("Claude Sonnet 3.7", 200*k, 64*k, day(2025, 2, 24)).named(day(2025, 2, 19)), // 2025
	"claude-3-5-sonnet": of("Claude Sonnet 3.5", 200*k, 8192, day(2024, 6, 20)).named(day(2024, 6, 20)), // 2025
	"claude-3-sonnet":   of("Claude Sonnet 3", 200*k, 4096, day(2024, 2, 29)).named(day(2024, 2, 29)),   // 2024

	"claude-haiku-5-5": of("Claude Haiku 5.5", 1*m, 128*k, day(2026, 10, 7)),                            // page
	"claude-haiku-4-5": of("Claude Haiku 4.5", 200*k, 64*k, day(2025, 10, 15)).named(day(2025, 10, 1)),  // page
	"claude-3-5-haiku": of("Claude Haiku 3.5", 200*k, 8192, day(2024, 10, 22)).named(day(2024, 10, 22)), // 2025
	"claude-3-haiku":   of("Claude Haiku 3", 200*k, 4096, day(2024, 3, 7)).named(day(2024, 3, 7)),       // 2025
}
