package anthropic

import (
	"bytes"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/sse"
)

// Renamer gives the client its own model name back: in an answer of an account
// whose `models` renames, it replaces upstream's name wherever it is the value
// of a `model` key of the message or its usage. What the model itself wrote is
// never touched.
type Renamer struct {
	// Sent is the name that went upstream, Asked the client's.
	Sent, Asked string

	scanner sse.Scanner
	holding bool
	held    []byte
}

// maxRenamed bounds the event that is held back to be edited; a longer one
// passes as it is.
const maxRenamed = 1 << 20

// Body edits a whole JSON answer.
func (r *Renamer) Body(body []byte) []byte {
	root := gjson.Parse(textOf(body))
	return apply(body, r.message(root, nil))
}

// Tail edits the end of a JSON answer, where its usage is.
func (r *Renamer) Tail(tail []byte) []byte {
	var edits []edit
	tailUsage(tail).Get("iterations").ForEach(func(_, iteration gjson.Result) bool {
		edits = r.model(iteration, edits)
		return true
	})
	return apply(tail, edits)
}

// Stream appends to out what the client gets of the next bytes of a stream:
// all of them at once, but for the events that carry a model name, which are
// held back until they are complete.
func (r *Renamer) Stream(out, p []byte) []byte {
	for {
		n, step := r.scanner.Next(p)
		read := p[:n]
		p = p[n:]
		if r.holding {
			r.held = append(r.held, read...)
			if len(r.held) > maxRenamed {
				out = r.letGo(out)
			}
		} else {
			out = append(out, read...)
		}
		switch step {
		case sse.Begin:
			switch kindOf(r.scanner.Name()) {
			case messageStart, messageDelta, nameless:
				r.holding = true
				r.scanner.Keep(maxRenamed)
			}
		case sse.End:
			if r.holding {
				out = r.event(out)
			}
		default:
			return out
		}
	}
}

// Rest appends what is still held back, at the end of the stream.
func (r *Renamer) Rest(out []byte) []byte { return r.letGo(out) }

func (r *Renamer) letGo(out []byte) []byte {
	out = append(out, r.held...)
	r.held, r.holding = r.held[:0], false
	return out
}

// event appends the event that was held back, edited where it holds the name.
func (r *Renamer) event(out []byte) []byte {
	data := r.scanner.Data()
	root := gjson.Parse(textOf(data))
	var edits []edit
	switch root.Get("type").Str {
	case "message_start":
		edits = r.message(root.Get("message"), nil)
	case "message_delta":
		edits = r.iterations(root, nil)
	}
	if len(edits) == 0 {
		return r.letGo(out)
	}
	for i, e := range edits {
		edits[i].span = sameToken(data, e.span, r.held)
	}
	out = append(out, apply(r.held, edits)...)
	r.held, r.holding = r.held[:0], false
	return out
}

// sameToken finds a token of an event's data in the event's raw bytes, where
// the data may be spread over several lines: tokens never are, so its
// occurrences have the same order in both.
func sameToken(data []byte, at span, raw []byte) span {
	token := data[at.start:at.end]
	start := 0
	for range bytes.Count(data[:at.start], token) {
		start += bytes.Index(raw[start:], token) + len(token)
	}
	start += bytes.Index(raw[start:], token)
	return span{start, start + len(token)}
}

// message makes the edits of a message object.
func (r *Renamer) message(message gjson.Result, edits []edit) []edit {
	return r.iterations(message, r.model(message, edits))
}

func (r *Renamer) iterations(parent gjson.Result, edits []edit) []edit {
	parent.Get("usage.iterations").ForEach(func(_, iteration gjson.Result) bool {
		edits = r.model(iteration, edits)
		return true
	})
	return edits
}

func (r *Renamer) model(object gjson.Result, edits []edit) []edit {
	if !object.IsObject() {
		return edits
	}
	if model := object.Get("model"); model.Type == gjson.String && model.Str == r.Sent {
		edits = append(edits, edit{spanOf(model), quote(r.Asked)})
	}
	return edits
}
