package anthropic

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// counts are what an upstream may say for a count, and what is billed for it where
// the count before it was 12: of a window of 1,000 tokens, and of an unknown one.
var counts = []struct {
	said                string
	windowed, unbounded int64
	none                bool // it is no count
}{
	{said: "0"},
	{said: "7", windowed: 7, unbounded: 7},
	{said: "1.5", windowed: 1, unbounded: 1},
	{said: "7e0", windowed: 7, unbounded: 7},
	{said: "10000", windowed: 10_000, unbounded: 10_000},
	{said: "10001", windowed: 10_000, unbounded: 10_001},
	{said: "10000000", windowed: 10_000, unbounded: 10_000_000},
	{said: "10000001", windowed: 10_000, unbounded: 10_000_000},
	{said: "1e30", windowed: 10_000, unbounded: 10_000_000},
	{said: "1e400", windowed: 10_000, unbounded: 10_000_000},
	{said: "9223372036854775807", windowed: 10_000, unbounded: 10_000_000},
	{said: "18446744073709551616", windowed: 10_000, unbounded: 10_000_000},
	{said: "99999999999999999999999999999999999999999", windowed: 10_000, unbounded: 10_000_000},
	{said: "-5", none: true},
	{said: "-1e30", none: true},
	{said: `"12"`, none: true},
	{said: "null", none: true},
	{said: "true", none: true},
	{said: "{}", none: true},
	{said: `{"a":1}`, none: true},
	{said: "[7]", none: true},
}

// TestCountsOnTrust: each kind of count, in each of the places where it is told.
func TestCountsOnTrust(t *testing.T) {
	kinds := []struct {
		path string // of the member, in usage
		of   func(upstream.Usage) int64
	}{
		{`{"input_tokens":%s}`, func(u upstream.Usage) int64 { return u.Input }},
		{`{"output_tokens":%s}`, func(u upstream.Usage) int64 { return u.Output }},
		{`{"cache_creation_input_tokens":%s}`, func(u upstream.Usage) int64 { return u.CacheWrite5m }},
		{`{"cache_read_input_tokens":%s}`, func(u upstream.Usage) int64 { return u.CacheRead }},
		{`{"cache_creation":{"ephemeral_5m_input_tokens":%s}}`, func(u upstream.Usage) int64 { return u.CacheWrite5m }},
		{`{"cache_creation":{"ephemeral_1h_input_tokens":%s}}`, func(u upstream.Usage) int64 { return u.CacheWrite1h }},
	}
	for _, kind := range kinds {
		for _, count := range counts {
			for _, window := range []int64{1000, 0} {
				want := count.windowed
				if window == 0 {
					want = count.unbounded
				}
				usage := fmt.Sprintf(kind.path, count.said)
				whole := ReadUsage([]byte(`{"usage":`+usage[:len(usage)-1]+`,"x":1}}`), Bounds{Window: window})
				if got := kind.of(whole.Usage); got != want || whole.Cut != (fmt.Sprint(want) != count.said && want >= 10_000) {
					t.Errorf("%s, window %d: %d, cut %t, want %d", usage, window, got, whole.Cut, want)
				}
				// No count leaves the one before it as it was.
				if count.none {
					want = 12
				}
				m, _ := metered(start0(fmt.Sprintf(kind.path, "12"))+block+delta(usage), 1<<20)
				got := m.Reading(0, Bounds{Window: window})
				if n := kind.of(got.Usage); n != want || got.Cut != whole.Cut {
					t.Errorf("%s, window %d, in a stream: %d, cut %t, want %d", usage, window, n, got.Cut, want)
				}
			}
		}
	}
}

// start0 is a message_start with a usage.
func start0(usage string) string {
	return "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":" + usage + "}}\n\n"
}

func TestWebSearchesOnTrust(t *testing.T) {
	for said, want := range map[string]int64{"3": 3, "1000": 1000, "1001": 1000, "1e30": 1000, "-3": 0, `"3"`: 0, "null": 0} {
		got := ReadUsage([]byte(`{"usage":{"output_tokens":2,"server_tool_use":{"web_search_requests":`+said+`}}}`), Bounds{})
		if got.Usage.WebSearches != want || got.Cut != (said == "1001" || said == "1e30") {
			t.Errorf("%s: %+v, want %d", said, got, want)
		}
	}
}

// TestIterationsOnTrust: they count instead of the totals, so that none of them may be
// absurd, nor all of them together, and such as say nothing don't hide the totals.
func TestIterationsOnTrust(t *testing.T) {
	type iterations = []upstream.Iteration
	for _, test := range []struct {
		list string
		want iterations
		cut  bool
	}{
		{`[{"model":"m","input_tokens":5,"output_tokens":2}]`, iterations{{Model: "m", Input: 5, Output: 2}}, false},
		{`[{"input_tokens":5},{"input_tokens":1e30,"output_tokens":-1},{"input_tokens":3,"output_tokens":4}]`,
			iterations{{Input: 5}, {Input: 9_995}, {Output: 4}}, true},
		{`[{"cache_read_input_tokens":10000},{"cache_creation":{"ephemeral_1h_input_tokens":10001}}]`,
			iterations{{CacheRead: 10_000}, {CacheWrite1h: 10_000}}, true},
		{`[{"input_tokens":"5","output_tokens":null}]`, nil, false},
		{`[{"input_tokens":0,"output_tokens":0}]`, nil, false},
		{`[]`, nil, false},
		{`[null,5,"x",[],{}]`, nil, false},
		{`{"input_tokens":5}`, nil, false},
		{`null`, nil, false},
		{`[null,{"model":7,"output_tokens":1}]`, iterations{{Output: 1}}, false},
	} {
		usage := `{"input_tokens":61,"output_tokens":9,"iterations":` + test.list + `}`
		want := Reading{Cut: test.cut, Usage: upstream.Usage{Input: 61, Output: 9, Iterations: test.want}}
		if diff := cmp.Diff(want, ReadUsage([]byte(`{"usage":`+usage+`}`), Bounds{Window: 1000})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.list, diff)
		}
		m, _ := metered(block+delta(usage), 1<<20)
		if diff := cmp.Diff(want, m.Reading(0, Bounds{Window: 1000})); diff != "" {
			t.Errorf("%s, in a stream (-want +got):\n%s", test.list, diff)
		}
	}
	many := strings.Repeat(`{"output_tokens":1},`, 5000)
	if got := ReadUsage([]byte(`{"usage":{"iterations":[`+many+`{}]}}`), Bounds{}); len(got.Usage.Iterations) != maxIterations || !got.Cut {
		t.Errorf("%d iterations, cut %t", len(got.Usage.Iterations), got.Cut)
	}
}

func TestReadUsage(t *testing.T) {
	const content = `"content":[{"type":"thinking","thinking":"01234567","signature":"012345678901"},{"type":"text","text":"\"usage\":{}\n9012"},{"type":"tool_use","input":{"a": "4567"}}]`
	estimate := Reading{Estimated: true, Usage: upstream.Usage{Input: 100, Output: 8 + 2}}
	for _, test := range []struct {
		body string
		want Reading
	}{
		{`{` + content + `,"usage":{"input_tokens":3,"output_tokens":4,"cache_creation_input_tokens":5}}`, Reading{Usage: upstream.Usage{Input: 3, Output: 4, CacheWrite5m: 5}}},
		{`{` + content + `}`, estimate},
		{`{` + content + `,"usage":null}`, estimate},
		{`{` + content + `,"usage":{}}`, estimate},
		{`{` + content + `,"usage":[]}`, estimate},
		{`{` + content + `,"usage":"none"}`, estimate},
		{`{` + content + `,"usage":{"input_tokens":0,"output_tokens":0}}`, estimate},
		{`{` + content + `,"usage":{"input_tokens":"12","output_tokens":"9"}}`, estimate},
		{`{` + content + `,"usage":{"input_tokens":7}}`, Reading{Estimated: true, Usage: upstream.Usage{Input: 7, Output: 10}}},
		{`{` + content + `,"usage":{"input_tokens":7,"output_tokens":0}}`, Reading{Usage: upstream.Usage{Input: 7}}},
		{`{"content":"0123456789"}`, Reading{Estimated: true, Usage: upstream.Usage{Input: 100, Output: 2}}},
		{`{"content":[],"usage":{"input_tokens":3,"output_tokens":0}}`, Reading{Usage: upstream.Usage{Input: 3}}},
		{`{"content":[]}`, Reading{}},
		{`{"content":null}`, Reading{}},
		{`{"content":[null]}`, Reading{Estimated: true, Usage: upstream.Usage{Input: 100}}},
		{`{}`, Reading{}},
		{`[1]`, Reading{}},
		{``, Reading{}},
	} {
		if diff := cmp.Diff(test.want, ReadUsage([]byte(test.body), Bounds{Body: 400})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.body, diff)
		}
	}
	bounded := ReadUsage([]byte(`{`+content+`}`), Bounds{Body: 4000, Window: 50, MaxTokens: 6})
	if want := (Reading{Estimated: true, Usage: upstream.Usage{Input: 50, Output: 6}}); !cmp.Equal(bounded, want) {
		t.Errorf("bounded: %+v, want %+v", bounded, want)
	}
}

func TestTailOfALargeAnswer(t *testing.T) {
	const tail = `xx \"usage\": {\"output_tokens\":1}"}],"stop_reason":"end_turn", "usage" : {"input_tokens":3,"output_tokens":4,"iterations":[{"model":"glm","input_tokens":9}]},"x":1}`
	u, ok := ReadTailUsage([]byte(tail), Bounds{})
	if want := (Reading{Usage: upstream.Usage{Input: 3, Output: 4, Iterations: []upstream.Iteration{{Model: "glm", Input: 9}}}}); !ok || !cmp.Equal(u, want) {
		t.Errorf("got %+v, %v", u, ok)
	}
	want := strings.Replace(tail, `"glm"`, `"asked"`, 1)
	if got := (&Renamer{Sent: "glm", Asked: "asked"}).Tail([]byte(tail)); string(got) != want {
		t.Errorf("renamed:\n got %s\nwant %s", got, want)
	}
	for _, tail := range []string{``, `"usage"`, `"usage":`, `"usage":{"output_tok`, `{"text":"\"usage\":{\"output_tokens\":1}"}`, `"usage":null}`, `"usage":{}}`, `"usage":{"input_tokens":0,"output_tokens":0}}`, `"usage":{"output_tokens":"4"}}`} {
		if u, ok := ReadTailUsage([]byte(tail), Bounds{}); ok {
			t.Errorf("%s: got %+v", tail, u)
		}
		if got, want := EstimateBySize([]byte(tail), 8<<20, Bounds{Body: 400}), (Reading{Estimated: true, Usage: upstream.Usage{Input: 100, Output: 2 << 20}}); !cmp.Equal(got, want) {
			t.Errorf("%s by size: %+v, want %+v", tail, got, want)
		}
	}
	if got := EstimateBySize([]byte(`"usage":{"input_tokens":3,"output_tokens":900}}`), 8<<20, Bounds{Body: 400, MaxTokens: 500}); got.Usage.Input != 3 || got.Usage.Output != 900 {
		t.Errorf("by size, beside a usage: %+v", got)
	}
	if u, ok := ReadHeadUsage([]byte(`{"usage":{"input_tokens":3,"output_tokens":4},"content":[{"type":"text","text":"cut of`), Bounds{}); !ok || u.Usage.Output != 4 {
		t.Errorf("usage at the head: %+v, %t", u, ok)
	}
	if u, ok := ReadHeadUsage([]byte(`{"content":[{"type":"text","text":"cut of`), Bounds{}); ok {
		t.Errorf("no usage at the head: %+v", u)
	}
}

func TestTheAnswersModelIsKeptForAliases(t *testing.T) {
	const start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-opus-5-5\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n"
	for keep, want := range map[bool]string{true: "claude-opus-5-5", false: ""} {
		m := Meter{KeepModel: keep}
		m.Feed([]byte(start), 0)
		if got := m.Reading(0, Bounds{}).Model; got != want {
			t.Errorf("of a stream, keep %t: %q", keep, got)
		}
		body := []byte(`{"type":"message","model":"claude-opus-5-5","content":[],"usage":{"input_tokens":1,"output_tokens":1}}`)
		if got := ReadUsage(body, Bounds{Alias: keep}).Model; got != want {
			t.Errorf("of a whole answer, keep %t: %q", keep, got)
		}
	}
}
