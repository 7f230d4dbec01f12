package anthropic

import (
	"strings"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// HasThinking reports whether the messages hold thinking blocks.
func (r *Request) HasThinking() bool { return len(r.stripThinking()) > 0 }

// stripThinking makes the edits that take every thinking block out of every
// message: all or none, since a block is void once one before it is missing. A
// message that held nothing else goes too: the API refuses empty ones. Where
// the API would then demand a thinking block (thinking enabled in the middle of
// a tool's turn), `thinking` goes as well.
func (r *Request) stripThinking() []edit {
	var edits []edit
	var messages []span
	var emptied []bool
	inToolTurn := false
	r.messages.ForEach(func(_, message gjson.Result) bool {
		blocks, thinking := thinkingBlocks(message.Get("content"))
		taken := removeItems(blocks, func(i int) bool { return thinking[i] })
		messages = append(messages, spanOf(message))
		emptied = append(emptied, len(taken) > 0 && len(taken) == len(blocks))
		if !emptied[len(emptied)-1] {
			edits = append(edits, taken...)
		}
		inToolTurn = message.Get("role").Str == "user" && message.Get(`content.#(type=="tool_result")`).Exists()
		return true
	})
	edits = append(edits, removeItems(messages, func(i int) bool { return emptied[i] })...)
	if len(edits) > 0 && inToolTurn && r.thinking.Get("type").Str == "enabled" {
		fields := make([]span, len(r.fields))
		for i, field := range r.fields {
			fields[i] = field.span
		}
		edits = append(edits, removeItems(fields, func(i int) bool { return r.fields[i].name == "thinking" })...)
	}
	return edits
}

// thinkingBlocks returns the places of a message's content blocks, and which of
// them are thinking.
func thinkingBlocks(content gjson.Result) (blocks []span, thinking []bool) {
	if !content.IsArray() {
		return nil, nil
	}
	content.ForEach(func(_, block gjson.Result) bool {
		blocks = append(blocks, spanOf(block))
		thinking = append(thinking, isThinking(block))
		return true
	})
	return blocks, thinking
}

func isThinking(block gjson.Result) bool {
	if !block.IsObject() {
		return false
	}
	switch kind := block.Get("type"); {
	case kind.Str == "thinking", kind.Str == "redacted_thinking":
		return true
	case !kind.Exists():
		return block.Get("thinking").Exists()
	}
	return false
}

func spanOf(r gjson.Result) span { return span{r.Index, r.Index + len(r.Raw)} }

// AboutFeature reports whether upstream refused a request with 400 for a feature
// that another account may have: a beta, thinking, a signature, tool use.
func AboutFeature(f *upstream.Failure) bool {
	if f.Status != 400 || f.Kind != upstream.Refused {
		return false
	}
	text := strings.ToLower(f.Message)
	for _, word := range []string{"anthropic-beta", "beta feature", "thinking", "signature", "tool use", "tool_use"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// AboutThinking reports whether upstream refused a request for a thinking block
// or its signature, which sending it without them may mend.
func AboutThinking(f *upstream.Failure) bool {
	if f.Status != 400 {
		return false
	}
	text := strings.ToLower(f.Message)
	return strings.Contains(text, "signature") ||
		strings.Contains(text, "redacted_thinking") ||
		strings.Contains(text, "thinking") && strings.Contains(text, "block")
}
