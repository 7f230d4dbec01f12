package anthropic

import (
	"bytes"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/sse"
)

// Renamer gives the client its own model name back: in an answer of an account
// whose `models` renames, it replaces upstream's name wherever it is the value
// of a `model` key of the message or its usage, and wherever it stands in an error.
// What the model itself wrote is never touched.
type Renamer struct {
	// Sent is the name that went upstream, Asked the client's.
	Sent, Asked string

	scanner sse.Scanner
	holding bool
	held    []byte
	ended   bool // what comes now is no part of the answer
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
	return apply(tail, r.iterations(tailUsage(tail), nil))
}

// Stream appends to out what the client gets of the next bytes of a stream:
// all of them at once, but for the events that carry a model name, which are
// held back until they are complete. What comes after the answer's end, as Meter
// has it, is left out.
func (r *Renamer) Stream(out, p []byte) []byte {
	for !r.ended {
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
			case messageStart, messageDelta, streamError, nameless:
				r.holding = true
				r.scanner.Keep(maxRenamed)
			}
		case sse.End:
			out = r.event(out)
		default:
			return out
		}
	}
	return append(out, p[:r.scanner.RestOfEnd(p)]...)
}

// Rest appends what is still held back, at the end of the stream.
func (r *Renamer) Rest(out []byte) []byte {
	if r.holding && r.scanner.Finish() == sse.End {
		return r.event(out)
	}
	return r.letGo(out)
}

func (r *Renamer) letGo(out []byte) []byte {
	out = append(out, r.held...)
	r.held, r.holding = r.held[:0], false
	return out
}

// event appends the event that was held back, if it was, edited where it holds the
// name.
func (r *Renamer) event(out []byte) []byte {
	data := r.scanner.Data()
	kind := kindOf(r.scanner.Name())
	if kind == nameless {
		kind = typeOf(data)
	}
	r.ended = endsAnswer(kind) && r.scanner.DataLen() > 0
	if !r.holding {
		return out
	}
	var edits []edit
	switch kind {
	case messageStart:
		edits = r.message(gjson.Get(textOf(data), "message"), nil)
	case messageDelta:
		edits = r.iterations(gjson.Get(textOf(data), "usage"), nil)
	case streamError:
		out = append(out, apply(r.held, r.mentions(r.held, isJSON(data)))...)
		r.held, r.holding = r.held[:0], false
		return out
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

// message makes the edits of a message object. Of a key that stands twice, every
// value is edited: clients read the last one.
func (r *Renamer) message(message gjson.Result, edits []edit) []edit {
	if !message.IsObject() {
		return edits
	}
	message.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "model":
			edits = r.model(v, edits)
		case "usage":
			edits = r.iterations(v, edits)
		}
		return true
	})
	return edits
}

// iterations makes the edits of a usage object.
func (r *Renamer) iterations(usage gjson.Result, edits []edit) []edit {
	usage.ForEach(func(key, list gjson.Result) bool {
		if key.Str != "iterations" || !list.IsArray() {
			return true
		}
		list.ForEach(func(_, iteration gjson.Result) bool {
			iteration.ForEach(func(key, v gjson.Result) bool {
				if key.Str == "model" {
					edits = r.model(v, edits)
				}
				return true
			})
			return true
		})
		return true
	})
	return edits
}

// model makes the edit of a `model` member's value.
func (r *Renamer) model(v gjson.Result, edits []edit) []edit {
	if v.Type == gjson.String && strings.EqualFold(v.Str, r.Sent) {
		edits = append(edits, edit{spanOf(v), quote(r.Asked)})
	}
	return edits
}
