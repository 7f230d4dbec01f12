package blackbox_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// counted is what a record says of an answer.
type counted struct {
	Input, Output, Write5m, Write1h, Read, Searches int64
	Estimated                                       bool
}

func count(r *billing.Record) counted {
	return counted{r.Input, r.Output, r.CacheWrite5m, r.CacheWrite1h, r.CacheRead, r.WebSearches, r.Estimated}
}

// transcripts are the files of testdata/transcripts and what they used.
var transcripts = map[string]counted{
	"tool-use":       {Input: 441, Output: 65},
	"growing-input":  {Input: 15665, Output: 577, Write5m: 250, Write1h: 200, Read: 80, Searches: 2},
	"iterations":     {Input: 60612, Output: 1151, Write5m: 10, Write1h: 20, Read: 11},
	"all-at-the-end": {Input: 31, Output: 7, Read: 4},
	// 48 bytes of text, and some of its frame, at four bytes a token.
	"error": {Input: 25, Output: 12, Estimated: true},
}

func transcript(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "transcripts", name+".sse"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTranscriptsComeOutAsTheyWentIn replays recorded streams, in several
// framings and in pieces of odd sizes.
func TestTranscriptsComeOutAsTheyWentIn(t *testing.T) {
	framings := map[string]func([]byte) []byte{
		"as it is":     func(b []byte) []byte { return b },
		"CRLF":         func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) },
		"CR":           func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r")) },
		"unterminated": func(b []byte) []byte { return bytes.TrimRight(b, "\n") },
		"no names":     func(b []byte) []byte { return withoutLines(b, "event: ") },
		"comments":     func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("event: "), []byte(": x\nid: 1\nevent:")) },
		"byte order mark": func(b []byte) []byte {
			return append([]byte("\ufeff"), b...)
		},
	}
	g := serve(t, simulator.Config{}, mainAccount+alice)
	type replay struct {
		name string
		want counted
	}
	var replays []replay
	for name, want := range transcripts {
		for framing, change := range framings {
			sent := change(transcript(t, name))
			for _, pieces := range [][]int{nil, {1}, {7}, {13, 1, 1, 1, 200}, {1000, 3}} {
				replays = append(replays, replay{fmt.Sprintf("%s, %s, in %v", name, framing, pieces), want})
				g.sim.Queue("sk-upstream-main", simulator.Reply{Body: sent, Pieces: pieces})
				a := g.say("claude-sonnet-5-5", true)
				if name == "error" { // nothing is read after it, be it half of its last CRLF
					sent, a.body = bytes.TrimRight(sent, "\n"), bytes.TrimRight(a.body, "\n")
				}
				if a.status != 200 || a.err != nil || !bytes.Equal(a.body, sent) {
					t.Errorf("%s: %d %v\n%s", replays[len(replays)-1].name, a.status, a.err, cmp.Diff(string(sent), string(a.body)))
				}
			}
		}
	}
	records := g.records()
	if len(records) != len(replays) {
		t.Fatalf("%d records of %d replays", len(records), len(replays))
	}
	for i, r := range records {
		if diff := cmp.Diff(replays[i].want, count(&r)); diff != "" {
			t.Errorf("%s: %s", replays[i].name, diff)
		}
	}
}

func withoutLines(b []byte, prefix string) (out []byte) {
	for line := range bytes.Lines(b) {
		if !bytes.HasPrefix(line, []byte(prefix)) {
			out = append(out, line...)
		}
	}
	return out
}

func TestHugeLinesPass(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	huge := fmt.Appendf(nil, `data: {"type":"content_block_start","index":9,"content_block":{"type":"web_search_tool_result","content":"%s"}}`,
		strings.Repeat(`\"usage\":{\"output_tokens\":1} `, 300_000))
	before, after, _ := bytes.Cut(transcript(t, "growing-input"), []byte("event: an_event_of_next_year"))
	sent := bytes.Join([][]byte{before, []byte("event: content_block_start\n"), huge, []byte("\n\nevent: an_event_of_next_year"), after}, nil)
	g.sim.Queue("sk-upstream-main", simulator.Reply{Body: sent, Pieces: []int{65_537}})
	if a := g.say("claude-sonnet-5-5", true); !bytes.Equal(a.body, sent) {
		t.Errorf("%d of %d bytes came out, or others", len(a.body), len(sent))
	}
	g.wantOneRecord(func(r *billing.Record) {
		if diff := cmp.Diff(transcripts["growing-input"], count(r)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCostsOfTranscripts(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	opening := g.balance()
	for name, want := range map[string]string{
		// claude-sonnet-5-5: 2 in, 10 out, 2.5 and 4 written, 0.10 read, per
		// million tokens; a search is one cent.
		"tool-use":       "0.001532000", // 441×2 + 65×10
		"growing-input":  "0.058533000", // 15665×2 + 577×10 + 250×2.5 + 200×4 + 80×0.1, two searches
		"all-at-the-end": "0.000132400", // 31×2 + 7×10 + 4×0.1
		// The compaction is claude-haiku-4-5's: 1 in, 5 out, 1.25 and 2 written,
		// 0.10 read; the rest claude-sonnet-5-5's.
		"iterations": "0.068287600", // 60000×1 + 900×5 + 10×1.25 + 20×2 + 11×0.1; 612×2 + 251×10
	} {
		before := g.balance()
		g.sim.Queue("sk-upstream-main", simulator.Reply{Body: transcript(t, name)})
		g.say("claude-sonnet-5-5", true)
		if cost := before - g.balance(); cost.String() != want {
			t.Errorf("%s cost %s, want %s", name, cost, want)
		}
	}
	spent := opening - g.balance()
	var charged billing.USD
	for _, r := range g.records() {
		charged = charged.Plus(r.Charged)
	}
	if charged != spent {
		t.Errorf("the records' charges are %s, the balance went down by %s", charged, spent)
	}
}
