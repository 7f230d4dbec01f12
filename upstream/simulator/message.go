package simulator

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// message is what the model says to one request.
type message struct {
	id, model  string
	blocks     []block
	stopReason string
	start, end upstream.Usage
	thinking   int64 // tokens of the output that were thinking
}

// block is one content block; deltas are what it is streamed as.
type block struct {
	kind      string // thinking, text, tool_use
	text      string // of a tool: its input as JSON
	signature string
	id, name  string
	deltas    []string
}

// Tokens is what an answer reports as input when the script doesn't say: a
// quarter of the bytes of system, messages and tools, and at least 1. Output
// is, in the same way, a quarter of what the answer says.
func Tokens(body []byte) int64 {
	var n int
	for _, part := range gjson.GetManyBytes(body, "system", "messages", "tools") {
		n += len(part.Raw)
	}
	return max(1, tokensOf(n))
}

func tokensOf(bytes int) int64 { return int64(bytes+3) / 4 }

// messageOf decides what is said.
func (x *exchange) messageOf(reply *Reply) message {
	body := x.request.Body
	m := message{
		id:         strings.Replace(x.request.ID, "req_011", "msg_01", 1),
		model:      x.request.Model,
		stopReason: "end_turn",
	}
	if reply.Model != "" {
		m.model = reply.Model
	}
	if thought, ok := x.thought(reply); ok {
		m.blocks = append(m.blocks, thought)
	}
	m.say(body, reply)
	if tool, ok := toolCall(body, reply, x.request.ID); ok {
		m.blocks = append(m.blocks, tool)
		m.stopReason = "tool_use"
	}
	if reply.StopReason != "" {
		m.stopReason = reply.StopReason
	}
	m.count(body, reply)
	return m
}

// say adds the text block, kept to max_tokens where the script doesn't say the
// text.
func (m *message) say(body []byte, reply *Reply) {
	text := reply.Text
	switch {
	case text != "":
	case reply.Deltas > 0:
		text = strings.Repeat("word ", reply.Deltas)
	default:
		text = remark(body)
		limit := gjson.GetBytes(body, "max_tokens").Int()
		if limit > 0 && tokensOf(len(text)) > limit {
			text = text[:runeStart(text, int(limit)*4)]
			m.stopReason = "max_tokens"
		}
	}
	n := reply.Deltas
	if n == 0 {
		n = 1 + len(text)/16
	}
	m.blocks = append(m.blocks, block{kind: "text", text: text, deltas: split(text, n)})
}

// count fills the usage.
func (m *message) count(body []byte, reply *Reply) {
	var output int64
	for _, b := range m.blocks {
		n := tokensOf(len(b.text))
		if b.kind == "thinking" {
			n = max(1, n) // thinking that isn't shown costs as well
			m.thinking += n
		}
		output += n
	}
	if reply.Usage != nil {
		m.end = *reply.Usage
		m.thinking = min(m.thinking, m.end.Output)
	} else {
		geo := gjson.GetBytes(body, "inference_geo").String()
		if geo == "" {
			geo = "not_available"
		}
		m.end = upstream.Usage{
			Input:  Tokens(body),
			Output: output,
			Speed:  gjson.GetBytes(body, "speed").String(),
			Tier:   "standard",
			Geo:    geo,
		}
	}
	m.start = m.end
	m.start.Output = min(1, m.end.Output)
	m.start.Iterations = nil
	m.start.WebSearches = 0
	if reply.StartUsage != nil {
		m.start = *reply.StartUsage
	}
}

// remark is the default text: it shows what was understood.
func remark(body []byte) string {
	if lastBlock(body).Get("type").String() == "tool_result" {
		return "The tool's answer has arrived. This is a simulated reply to it, and all there is to say."
	}
	if asked := lastText(body); asked != "" {
		return "This is a simulated reply to: " + asked[:runeStart(asked, 120)]
	}
	return "This is a simulated reply."
}

// lastUser is the last message of role user.
func lastUser(body []byte) gjson.Result {
	var last gjson.Result
	gjson.GetBytes(body, "messages").ForEach(func(_, message gjson.Result) bool {
		if message.Get("role").String() == "user" {
			last = message
		}
		return true
	})
	return last
}

func lastBlock(body []byte) (last gjson.Result) {
	content := lastUser(body).Get("content")
	if content.IsArray() {
		content.ForEach(func(_, b gjson.Result) bool { last = b; return true })
	}
	return last
}

// lastText is the last text of the last user message.
func lastText(body []byte) string {
	content := lastUser(body).Get("content")
	if content.Type == gjson.String {
		return content.String()
	}
	var text string
	content.ForEach(func(_, b gjson.Result) bool {
		if b.Get("type").String() == "text" {
			text = b.Get("text").String()
		}
		return true
	})
	return text
}

// toolCall is the call that the script or the request asks for. Tools are
// otherwise left alone: a real client would run them.
func toolCall(body []byte, reply *Reply, serial string) (block, bool) {
	name := reply.Tool
	tools := gjson.GetBytes(body, "tools")
	if name == "" {
		choice := gjson.GetBytes(body, "tool_choice")
		switch kind := choice.Get("type").String(); {
		case kind == "tool":
			name = choice.Get("name").String()
		case kind == "any", kind != "none" && strings.Contains(lastText(body), "USE_TOOL"):
			name = tools.Get(`#(input_schema).name`).String()
		}
	}
	if name == "" {
		return block{}, false
	}
	input := reply.ToolInput
	if input == "" {
		input = "{}"
		tools.ForEach(func(_, tool gjson.Result) bool {
			if tool.Get("name").String() == name {
				input = exampleInput(tool.Get("input_schema"))
				return false
			}
			return true
		})
	}
	return block{
		kind: "tool_use", text: input, name: name,
		id: strings.Replace(serial, "req_011", "toolu_01", 1),
		// The API's first input delta is empty.
		deltas: append([]string{""}, split(input, 1+len(input)/16)...),
	}, true
}

// exampleInput is a value for a tool's schema: each required property, with
// the first of its enum or something of its type.
func exampleInput(schema gjson.Result) string {
	var out []string
	schema.Get("required").ForEach(func(_, name gjson.Result) bool {
		value := `"example"`
		// Not Get: a property's name may hold characters of gjson's paths.
		property := schema.Get("properties").Map()[name.String()]
		switch property.Get("type").String() {
		case "integer", "number":
			value = "1"
		case "boolean":
			value = "true"
		case "array":
			value = "[]"
		case "object":
			value = "{}"
		}
		if first := property.Get("enum.0"); first.Exists() {
			value = first.Raw
		}
		out = append(out, quote(name.String())+":"+value)
		return true
	})
	return "{" + strings.Join(out, ",") + "}"
}

// split cuts text into n parts of about one size, whole runes each; fewer
// where there aren't as many runes.
func split(text string, n int) []string {
	out := make([]string, 0, n)
	start := 0
	for i := 1; i <= n; i++ {
		end := runeStart(text, len(text)*i/n)
		if end > start {
			out = append(out, text[start:end])
			start = end
		}
	}
	return out
}

// runeStart is the last place up to i where a rune begins (or text ends).
func runeStart(text string, i int) int {
	if i >= len(text) {
		return len(text)
	}
	for i > 0 && !utf8.RuneStart(text[i]) {
		i--
	}
	return i
}

func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(fmt.Sprintf("simulator: a string that isn't one: %v", err)) // json.Marshal never fails on strings
	}
	return string(b)
}

func countDocument(n int64) []byte {
	return []byte(`{"input_tokens":` + strconv.FormatInt(n, 10) + "}")
}
