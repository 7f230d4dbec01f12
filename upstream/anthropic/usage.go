package anthropic

import (
	"bytes"
	"math"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// totals gathers an answer's usage from its `usage` objects. Each count that is
// not null replaces the one before it: the counts are running totals, and
// nothing is ever added up.
type totals struct {
	input, output, cacheRead, webSearches count
	// cacheWrite is the total; split5m and split1h are its parts as message_start
	// told them.
	cacheWrite, split5m, split1h count
	speed, tier, geo             string
	iterations                   []upstream.Iteration
}

// count is a number of tokens, as far as it was said.
type count struct {
	n    int64
	said bool
}

// maxCount bounds a count, so that absurd figures can't overflow a price.
const maxCount = math.MaxInt32

func (c *count) read(v gjson.Result) {
	if v.Type == gjson.Number {
		*c = count{min(max(v.Int(), 0), maxCount), true}
	}
}

// read takes in one `usage` object.
func (t *totals) read(usage gjson.Result) {
	usage.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "input_tokens":
			t.input.read(v)
		case "output_tokens":
			t.output.read(v)
		case "cache_creation_input_tokens":
			t.cacheWrite.read(v)
		case "cache_read_input_tokens":
			t.cacheRead.read(v)
		case "cache_creation":
			t.split5m.read(v.Get("ephemeral_5m_input_tokens"))
			t.split1h.read(v.Get("ephemeral_1h_input_tokens"))
		case "server_tool_use":
			t.webSearches.read(v.Get("web_search_requests"))
		case "speed":
			replace(&t.speed, v)
		case "service_tier":
			replace(&t.tier, v)
		case "inference_geo":
			replace(&t.geo, v)
		case "iterations":
			if v.IsArray() {
				t.iterations = readIterations(v)
			}
		}
		return true
	})
}

func replace(s *string, v gjson.Result) {
	if v.Type == gjson.String {
		*s = strings.Clone(v.Str)
	}
}

func readIterations(list gjson.Result) (out []upstream.Iteration) {
	list.ForEach(func(_, v gjson.Result) bool {
		var t totals
		t.read(v)
		w5m, w1h := t.cacheWrites()
		out = append(out, upstream.Iteration{
			Model:        strings.Clone(v.Get("model").Str),
			Input:        t.input.n,
			Output:       t.output.n,
			CacheWrite5m: w5m,
			CacheWrite1h: w1h,
			CacheRead:    t.cacheRead.n,
		})
		return true
	})
	return out
}

// cacheWrites splits the total of cache writes. What the split does not explain
// was written for five minutes, the API's default.
func (t *totals) cacheWrites() (w5m, w1h int64) {
	if !t.cacheWrite.said {
		return t.split5m.n, t.split1h.n
	}
	w1h = min(t.split1h.n, t.cacheWrite.n)
	return t.cacheWrite.n - w1h, w1h
}

func (t *totals) usage() upstream.Usage {
	w5m, w1h := t.cacheWrites()
	return upstream.Usage{
		Input:        t.input.n,
		Output:       t.output.n,
		CacheWrite5m: w5m,
		CacheWrite1h: w1h,
		CacheRead:    t.cacheRead.n,
		WebSearches:  t.webSearches.n,
		Speed:        t.speed,
		Tier:         t.tier,
		Geo:          t.geo,
		Iterations:   t.iterations,
	}
}

// EstimateTokens is about how many tokens of output a text of that size is.
func EstimateTokens(size int64) int64 { return size / bytesPerToken }

// ReadTailUsage reads the usage of a non-streaming answer from its last bytes;
// false where they have none.
func ReadTailUsage(tail []byte) (upstream.Usage, bool) {
	usage := tailUsage(tail)
	if !usage.IsObject() {
		return upstream.Usage{}, false
	}
	var t totals
	t.read(usage)
	return t.usage(), t.output.said
}

// tailUsage finds the last `usage` member in the end of a message. In what the
// model wrote, the quotes before and after the word would be escaped.
func tailUsage(tail []byte) gjson.Result {
	const key = `"usage"`
	at := bytes.LastIndex(tail, []byte(key))
	if at < 0 || at > 0 && tail[at-1] == '\\' {
		return gjson.Result{}
	}
	i := space(textOf(tail), at+len(key))
	if i >= len(tail) || tail[i] != ':' {
		return gjson.Result{}
	}
	i = space(textOf(tail), i+1)
	if i >= len(tail) {
		return gjson.Result{}
	}
	usage := gjson.Parse(textOf(tail[i:skip(textOf(tail), i)]))
	usage.Index = i
	return usage
}

// ReadUsage reads the usage of a non-streaming answer; false where it has none.
func ReadUsage(body []byte) (upstream.Usage, bool) {
	usage := gjson.Get(textOf(body), "usage")
	if !usage.IsObject() {
		return upstream.Usage{}, false
	}
	var t totals
	t.read(usage)
	return t.usage(), true
}
