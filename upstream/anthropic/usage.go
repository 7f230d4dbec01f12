package anthropic

import (
	"bytes"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// Reading is what is to be billed for one answer.
type Reading struct {
	Usage upstream.Usage
	// Estimated: upstream did not report all of it, and the rest is an estimate.
	Estimated bool
	// Cut: upstream reported a count that can't be true, and it was cut to the most
	// that is believed. It is worth a line in the operator's log.
	Cut bool
	// Model is the one that the answer names, where Bounds.Alias wants to know; "" =
	// none.
	Model string
}

// Bounds are what is known before an answer of what it can have used.
type Bounds struct {
	// Body is the size of the request's body in bytes.
	Body int64
	// Window is how many tokens the model's context window has; 0 = unknown.
	Window int64
	// MaxTokens is the request's own limit of output tokens; 0 = none.
	MaxTokens int64
	// Alias: the model that was asked for is a name for another one, which moves.
	Alias bool
}

// What is believed of counts that upstream reports.
const (
	// windowsBelieved is how many windows of its model a count may have: server
	// tools and iterations read the same window again and again.
	windowsBelieved = 10
	unknownWindow   = 1_000_000     // the largest window of today's models
	maxWindow       = 1_000_000_000 // so that no product overflows
	maxSearches     = 1_000
	maxIterations   = 1_000
	// maxCount is exact as a float64, and maxIterations of it fit an int64.
	maxCount = 1 << 53
	// maxWord bounds the words in a usage; "not_available" has 13 bytes.
	maxWord = 64
)

// believed is the largest count of tokens that is believed.
func (b Bounds) believed() int64 {
	window := b.Window
	if window <= 0 {
		window = unknownWindow
	}
	return windowsBelieved * min(window, maxWindow)
}

// input is an estimate of the input tokens.
func (b Bounds) input() int64 {
	tokens := max(0, b.Body) / textPerToken
	if b.Window > 0 {
		tokens = min(tokens, b.Window)
	}
	return min(tokens, b.believed())
}

// output bounds an estimate of the output tokens.
func (b Bounds) output(tokens int64) int64 {
	if b.MaxTokens > 0 {
		tokens = min(tokens, b.MaxTokens)
	}
	return min(tokens, b.believed())
}

// totals gathers an answer's usage from its `usage` objects. Each count that is a
// number replaces the one before it: the counts are running totals, and nothing
// is ever added up. What is no count (null, a text, a negative number) changes
// nothing.
type totals struct {
	input, output, cacheRead, webSearches count
	// cacheWrite is the total; split5m and split1h are its parts as message_start
	// told them.
	cacheWrite, split5m, split1h count
	speed, tier, geo             string
	iterations                   []upstream.Iteration
	cut                          bool // there were more iterations
}

// count is a number of tokens, as far as it was said.
type count struct {
	n    int64
	said bool
}

func (c *count) read(v gjson.Result) (ok bool) {
	if v.Type != gjson.Number || !(v.Num >= 0) { // NaN is no count either
		return false
	}
	*c = count{int64(min(v.Num, maxCount)), true}
	return true
}

// raise keeps the larger of two counts.
func (c *count) raise(other count) {
	c.n = max(c.n, other.n)
	c.said = c.said || other.said
}

// read takes in one `usage` object. It reports whether that tells the output: by
// itself or by the iterations.
func (t *totals) read(usage gjson.Result) (output bool) {
	usage.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "input_tokens":
			t.input.read(v)
		case "output_tokens":
			output = t.output.read(v) || output
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
				t.iterations, t.cut = readIterations(v)
				output = output || len(t.iterations) > 0
			}
		}
		return true
	})
	return output
}

// readAgain takes in the usage of a second beginning of the same answer, which no
// sound stream has. Upstream may bill either of the two: each count is the larger.
func (t *totals) readAgain(usage gjson.Result) {
	var again totals
	again.read(usage)
	t.input.raise(again.input)
	t.output.raise(again.output)
	t.cacheRead.raise(again.cacheRead)
	t.webSearches.raise(again.webSearches)
	t.cacheWrite.raise(again.cacheWrite)
	t.split5m.raise(again.split5m)
	t.split1h.raise(again.split1h)
}

func replace(s *string, v gjson.Result) {
	if v.Type == gjson.String && len(v.Str) <= maxWord {
		*s = strings.Clone(v.Str)
	}
}

// readIterations reads the iterations that used anything. cut reports that there
// were more than are believed.
func readIterations(list gjson.Result) (out []upstream.Iteration, cut bool) {
	list.ForEach(func(_, v gjson.Result) bool {
		if len(out) == maxIterations {
			cut = true
			return false
		}
		var t totals
		t.read(v)
		w5m, w1h := t.cacheWrites()
		iteration := upstream.Iteration{
			Input:        t.input.n,
			Output:       t.output.n,
			CacheWrite5m: w5m,
			CacheWrite1h: w1h,
			CacheRead:    t.cacheRead.n,
		}
		if iteration != (upstream.Iteration{}) {
			iteration.Model = strings.Clone(v.Get("model").Str)
			out = append(out, iteration)
		}
		return true
	})
	return out, cut
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

// anyInput reports whether upstream told of any input. No prompt has zero tokens:
// zeros are those of an upstream that reports at the end, or not at all.
func (t *totals) anyInput() bool {
	w5m, w1h := t.cacheWrites()
	return t.input.n > 0 || t.cacheRead.n > 0 || w5m > 0 || w1h > 0 || len(t.iterations) > 0
}

// whole reports whether upstream told what the whole answer used: the output, and
// not zeros alone.
func (t *totals) whole() bool {
	return len(t.iterations) > 0 || t.output.said && (t.output.n > 0 || t.webSearches.n > 0 || t.anyInput())
}

// told is what upstream told, its counts cut to what is believed.
func (t *totals) told(b Bounds) Reading {
	r := Reading{Cut: t.cut}
	most := b.believed()
	believe := func(n, most int64) int64 {
		r.Cut = r.Cut || n > most
		return min(n, most)
	}
	w5m, w1h := t.cacheWrites()
	r.Usage = upstream.Usage{
		Input:        believe(t.input.n, most),
		Output:       believe(t.output.n, most),
		CacheWrite5m: believe(w5m, most),
		CacheWrite1h: believe(w1h, most),
		CacheRead:    believe(t.cacheRead.n, most),
		WebSearches:  believe(t.webSearches.n, maxSearches),
		Speed:        t.speed,
		Tier:         t.tier,
		Geo:          t.geo,
	}
	// They are the answer's counts in parts: what is believed of a count is what is
	// believed of their sum.
	left := upstream.Iteration{Input: most, Output: most, CacheWrite5m: most, CacheWrite1h: most, CacheRead: most}
	take := func(n int64, left *int64) int64 {
		n = believe(n, *left)
		*left -= n
		return n
	}
	for _, i := range t.iterations {
		r.Usage.Iterations = append(r.Usage.Iterations, upstream.Iteration{
			Model:        i.Model,
			Input:        take(i.Input, &left.Input),
			Output:       take(i.Output, &left.Output),
			CacheWrite5m: take(i.CacheWrite5m, &left.CacheWrite5m),
			CacheWrite1h: take(i.CacheWrite1h, &left.CacheWrite1h),
			CacheRead:    take(i.CacheRead, &left.CacheRead),
		})
	}
	return r
}

// estimated is what upstream told, and an estimate of the rest: its output is the
// larger of what was told and of that many tokens.
func (t *totals) estimated(output int64, b Bounds) Reading {
	r := t.told(b)
	r.Estimated = true
	if !t.anyInput() {
		r.Usage.Input = b.input()
	}
	told := r.Usage.Output
	if iterations := r.Usage.Iterations; len(iterations) > 0 { // they count, not the totals
		told = 0
		for _, i := range iterations {
			told += i.Output
		}
		if rest := b.output(output) - told; rest > 0 {
			r.Usage.Iterations = append(iterations, upstream.Iteration{Output: rest})
		}
	}
	r.Usage.Output = max(told, b.output(output))
	return r
}

// ReadUsage reads the usage of a whole answer that was not streamed. Where
// upstream told none, or zeros alone, an answer with content is estimated; one
// without has used nothing.
func ReadUsage(body []byte, b Bounds) Reading {
	root := gjson.Parse(textOf(body))
	r := readUsage(root, b)
	if b.Alias {
		r.Model = strings.Clone(root.Get("model").String())
	}
	return r
}

func readUsage(root gjson.Result, b Bounds) Reading {
	var t totals
	t.read(root.Get("usage"))
	if t.whole() {
		return t.told(b)
	}
	content := root.Get("content")
	s, hasContent := size{}, content.Type == gjson.String && content.Str != ""
	if hasContent {
		s.text = int64(len(content.Str))
	}
	if content.IsArray() {
		content.ForEach(func(_, block gjson.Result) bool {
			hasContent = true
			s.add(sizeOfBlock(block))
			return true
		})
	}
	if !hasContent {
		return t.told(b)
	}
	return t.estimated(s.tokens(), b)
}

// ReadTailUsage reads the usage of a large answer that was not streamed from its
// last bytes; ok is false where they tell none.
func ReadTailUsage(tail []byte, b Bounds) (r Reading, ok bool) {
	t := readTail(tail)
	return t.told(b), t.whole()
}

// ReadHeadUsage does the same with the first bytes, for upstreams whose usage
// comes first.
func ReadHeadUsage(head []byte, b Bounds) (r Reading, ok bool) {
	var t totals
	t.read(gjson.Get(textOf(head), "usage"))
	return t.told(b), t.whole()
}

// EstimateBySize reads the usage of a large answer that was not streamed, as
// ReadTailUsage does, where it broke off or tells none: of the answer only the size
// in bytes and the last of them are known.
func EstimateBySize(tail []byte, size int64, b Bounds) Reading {
	t := readTail(tail)
	return t.estimated(size/textPerToken, b)
}

func readTail(tail []byte) (t totals) {
	if usage := tailUsage(tail); usage.IsObject() {
		t.read(usage)
	}
	return t
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
