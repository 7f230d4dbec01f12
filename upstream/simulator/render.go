package simulator

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// event is an Event on its way, with the output tokens that it brings.
type event struct {
	name, data string
	tokens     int64
	pause      time.Duration
}

const pingData = `{"type":"ping"}`

// scripted turns a script's events into such.
func scripted(events []Event) []event {
	out := make([]event, len(events))
	said := 0
	for i, e := range events {
		delta := gjson.Get(e.Data, "delta")
		before := tokensOf(said)
		for _, key := range []string{"text", "thinking", "partial_json"} {
			said += len(delta.Get(key).String())
		}
		out[i] = event{name: e.Name, data: e.Data, pause: e.Pause, tokens: tokensOf(said) - before}
	}
	return out
}

// events is the message as the API streams it.
func (m *message) events() []event {
	out := []event{{name: "message_start", data: `{"type":"message_start","message":` +
		m.object("[]", "null", startUsage(&m.start)) + `}`}}
	for i, b := range m.blocks {
		index := strconv.Itoa(i)
		out = append(out, event{name: "content_block_start", data: `{"type":"content_block_start","index":` +
			index + `,"content_block":` + b.opening() + `}`})
		if i == 0 {
			out = append(out, event{name: "ping", data: pingData})
		}
		deltaType, key := "text_delta", "text"
		switch b.kind {
		case "thinking":
			deltaType, key = "thinking_delta", "thinking"
		case "tool_use":
			deltaType, key = "input_json_delta", "partial_json"
		}
		said := 0
		for _, d := range b.deltas {
			before := tokensOf(said)
			said += len(d)
			out = append(out, event{name: "content_block_delta", tokens: tokensOf(said) - before,
				data: `{"type":"content_block_delta","index":` + index + `,"delta":{"type":"` + deltaType + `","` + key + `":` + quote(d) + `}}`})
		}
		if b.signature != "" {
			out = append(out, event{name: "content_block_delta", data: `{"type":"content_block_delta","index":` + index +
				`,"delta":{"type":"signature_delta","signature":` + quote(b.signature) + `}}`})
		}
		out = append(out, event{name: "content_block_stop", data: `{"type":"content_block_stop","index":` + index + `}`})
	}
	return append(out,
		event{name: "message_delta", data: `{"type":"message_delta","delta":{"stop_reason":` + quote(m.stopReason) +
			`,"stop_sequence":null},"usage":` + deltaUsage(&m.end, m.thinking) + `}`},
		event{name: "message_stop", data: `{"type":"message_stop"}`})
}

// document is the message in one piece.
func (m *message) document() []byte {
	content := make([]string, len(m.blocks))
	for i, b := range m.blocks {
		content[i] = b.whole()
	}
	usage := strings.TrimSuffix(startUsage(&m.end), "}") + details(&m.end, m.thinking) + "}"
	return []byte(m.object("["+strings.Join(content, ",")+"]", quote(m.stopReason), usage))
}

func (m *message) object(content, stopReason, usage string) string {
	return `{"model":` + quote(m.model) + `,"id":` + quote(m.id) + `,"type":"message","role":"assistant","content":` +
		content + `,"stop_reason":` + stopReason + `,"stop_sequence":null,"usage":` + usage + `}`
}

// opening is the block as content_block_start has it.
func (b *block) opening() string {
	empty := *b
	empty.text, empty.signature = "", ""
	if b.kind == "tool_use" {
		empty.text = "{}"
	}
	return empty.whole()
}

func (b *block) whole() string {
	switch b.kind {
	case "thinking":
		return `{"type":"thinking","thinking":` + quote(b.text) + `,"signature":` + quote(b.signature) + `}`
	case "tool_use":
		return `{"type":"tool_use","id":` + quote(b.id) + `,"name":` + quote(b.name) + `,"input":` + b.text + `}`
	}
	return `{"type":"text","text":` + quote(b.text) + `}`
}

// startUsage is usage as message_start has it.
func startUsage(u *upstream.Usage) string {
	out := fmt.Sprintf(`{"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,`+
		`"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d},"output_tokens":%d`,
		u.Input, u.CacheWrite5m+u.CacheWrite1h, u.CacheRead, u.CacheWrite5m, u.CacheWrite1h, u.Output)
	for _, said := range []struct{ key, value string }{
		{"service_tier", u.Tier}, {"inference_geo", u.Geo}, {"speed", u.Speed},
	} {
		if said.value != "" {
			out += `,"` + said.key + `":` + quote(said.value)
		}
	}
	return out + "}"
}

// deltaUsage is usage as message_delta has it: running totals, without the
// 5m/1h split, tier, speed and geo.
func deltaUsage(u *upstream.Usage, thinking int64) string {
	return fmt.Sprintf(`{"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,"output_tokens":%d`,
		u.Input, u.CacheWrite5m+u.CacheWrite1h, u.CacheRead, u.Output) + details(u, thinking) + "}"
}

// details are the members of a final usage that message_start lacks.
func details(u *upstream.Usage, thinking int64) string {
	out := ""
	if thinking > 0 {
		out += fmt.Sprintf(`,"output_tokens_details":{"thinking_tokens":%d}`, thinking)
	}
	if u.WebSearches > 0 {
		out += fmt.Sprintf(`,"server_tool_use":{"web_search_requests":%d,"web_fetch_requests":0}`, u.WebSearches)
	}
	if len(u.Iterations) == 0 {
		return out
	}
	iterations := make([]string, len(u.Iterations))
	for i, it := range u.Iterations {
		kind, model := "compaction", "null"
		if i == len(u.Iterations)-1 {
			kind = "message"
		}
		if it.Model != "" {
			model = quote(it.Model)
		}
		iterations[i] = fmt.Sprintf(`{"type":"%s","model":%s,"input_tokens":%d,"output_tokens":%d,"cache_read_input_tokens":%d,`+
			`"cache_creation_input_tokens":%d,"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d}}`,
			kind, model, it.Input, it.Output, it.CacheRead, it.CacheWrite5m+it.CacheWrite1h, it.CacheWrite5m, it.CacheWrite1h)
	}
	return out + `,"iterations":[` + strings.Join(iterations, ",") + "]"
}

// render writes events as a stream, one piece each.
func (f Framing) render(events []event) []piece {
	var all []byte
	ends := make([]int, len(events))
	for i, e := range events {
		all = f.append(all, i, e.name, e.data)
		if f.Unterminated && i == len(events)-1 {
			all = all[:len(all)-len(f.newline())]
		}
		ends[i] = len(all)
	}
	out := make([]piece, len(events))
	start := 0
	for i, end := range ends {
		out[i] = piece{data: all[start:end:end], tokens: events[i].tokens, pause: events[i].pause}
		start = end
	}
	return out
}

func (f Framing) newline() string {
	if f.CRLF {
		return "\r\n"
	}
	return "\n"
}

// append writes the i-th event.
func (f Framing) append(all []byte, i int, name, data string) []byte {
	nl := f.newline()
	nameLine := "event: " + name + nl
	dataLine := "data: " + data + nl
	if f.Odd {
		switch i % 4 {
		case 0:
			nameLine, dataLine = "event:"+name+nl, "data:"+data+nl
		case 1:
			nameLine, dataLine = ": a comment"+nl+"id: 7"+nl+nameLine, "data:   "+data+"     "+nl
		case 2:
			nameLine, dataLine = "", dataLine+nameLine
		case 3:
			dataLine += "retry: 3000" + nl
		}
	}
	if f.DataOnly || name == "" {
		nameLine, dataLine = "", "data: "+data+nl
	}
	all = append(all, nameLine...)
	all = append(all, dataLine...)
	return append(all, nl...)
}
