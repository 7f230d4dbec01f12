package gateway

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// transcripts are recorded answers, with what they used and what that costs in
// nano-dollars, worked out by hand.
var transcripts = []struct {
	file  string
	model string
	used  upstream.Usage
	cost  billing.USD
}{
	{
		// 69 x 3,000 + 53 x 15,000
		"thinking-signature.sse", "claude-sonnet-4-5-20250929",
		upstream.Usage{Input: 69, Output: 53, Tier: "standard", Geo: "not_available"},
		1_002_000,
	},
	{
		// Input rises from 2,037 to 15,665 by the search's results:
		// 15,665 x 3,000 + 795 x 15,000 + 10,000,000
		"web-search-citations-hugeline.sse", "claude-sonnet-4-20250514",
		upstream.Usage{Input: 15_665, Output: 795, WebSearches: 1, Tier: "standard"},
		68_920_000,
	},
	{
		// 565 x 3,000 + 48 x 15,000
		"tool-use-no-args.sse", "claude-sonnet-4-5-20250929",
		upstream.Usage{Input: 565, Output: 48, Tier: "standard"},
		2_415_000,
	},
	{
		// The totals at the end, 612 and 2,819, leave the compaction out:
		// (60,385 + 612) x 5,000 + (522 + 2,819) x 25,000
		"compaction-usage-iterations.sse", "claude-opus-4-6",
		upstream.Usage{
			Input: 612, Output: 2819, Tier: "standard", Geo: "global",
			Iterations: []upstream.Iteration{{Input: 60_385, Output: 522}, {Input: 612, Output: 2819}},
		},
		388_510_000,
	},
	{
		// Input is 43 at first: 61 x 5,000 + 2 x 25,000
		"message-delta-input-tokens.sse", "claude-opus-4-5-20251101",
		upstream.Usage{Input: 61, Output: 2},
		355_000,
	},
	{
		// 377 x 3,000 + 65 x 15,000
		"sdkpy-tool_use_response.sse", "claude-sonnet-4-20250514",
		upstream.Usage{Input: 377, Output: 65, Tier: "standard"},
		2_106_000,
	},
	{
		// 450 x 3,000 + 124 x 15,000
		"sdkpy-incomplete_partial_json_response.sse", "claude-3-7-sonnet-20250219",
		upstream.Usage{Input: 450, Output: 124, Tier: "standard"},
		3_210_000,
	},
	{
		// It breaks off after one word, so output is an estimate:
		// 12 x 4,000 + 1 x 20,000 + 100 x 5,000 + 200 x 8,000 + 2,048 x 200
		"error-midstream.sse", "claude-opus-5-5",
		upstream.Usage{Input: 12, Output: 1, CacheWrite5m: 100, CacheWrite1h: 200, CacheRead: 2048, Tier: "standard", Geo: "not_available"},
		2_577_600,
	},
}

func TestTranscriptsArePriced(t *testing.T) {
	for _, transcript := range transcripts {
		record := billing.Record{
			Model: transcript.model, ModelSent: transcript.model,
			Time: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		}
		record.Price(billing.BuiltIn(), billingUsage(transcript.used), 1_000_000_000, "")
		if record.Cost != transcript.cost || record.Charged != transcript.cost || record.Unpriced {
			t.Errorf("%s: cost %s, charged %s, unpriced %v; want %s", transcript.file, record.Cost, record.Charged, record.Unpriced, transcript.cost)
		}
	}
}

// TestTranscriptsAreMetered reads the recordings themselves, where they are, in
// pieces of several sizes.
func TestTranscriptsAreMetered(t *testing.T) {
	const variable = "SUB2API_TEST_TRANSCRIPTS"
	dir := cmp.Or(os.Getenv(variable), filepath.Join("..", "..", "shared", "transcripts"))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && os.Getenv(variable) == "" {
		t.Skipf("the recorded transcripts are not at %s; %s names their directory", dir, variable)
	}
	listed := make(map[string]bool)
	for _, transcript := range transcripts {
		listed[transcript.file] = true
		stream, err := os.ReadFile(filepath.Join(dir, transcript.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 61, 4096, len(stream)} {
			if diff := gocmp.Diff(transcript.used, meterInPieces(stream, size)); diff != "" {
				t.Errorf("%s in pieces of %d bytes (-want +got):\n%s", transcript.file, size, diff)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.sse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !listed[filepath.Base(file)] {
			t.Errorf("%s has no figures in this test", file)
		}
	}
}

// meterInPieces is what an answer used, as the gateway settles it.
func meterInPieces(stream []byte, size int) upstream.Usage {
	var meter anthropic.Meter
	for len(stream) > 0 {
		n := min(size, len(stream))
		meter.Feed(stream[:n], 0)
		stream = stream[n:]
	}
	meter.Finish()
	return meter.Reading(0, anthropic.Bounds{}).Usage
}
