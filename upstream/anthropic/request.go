// Package anthropic is the Messages dialect: what a client asks, how it is
// sent to an account, and how usage and failures are read from the answer.
package anthropic

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"
)

// maxDepth is how deep a body's JSON may be nested: encoding/json's own limit.
// Real requests stay under 20.
const maxDepth = 10_000

// Request is a Messages or count_tokens request body and what the gateway
// reads of it. The bytes are never re-encoded; see Prepare.
type Request struct {
	// Body is the client's body, byte for byte. It must not be changed.
	Body []byte
	// Model is the model that the client asks for.
	Model string
	// Stream reports whether the answer is to be streamed.
	Stream bool
	// Fast reports whether fast mode is asked for (`speed`).
	Fast bool
	// Geo and Tier are inference_geo and service_tier, "" where absent.
	Geo, Tier string
	// MaxTokens is max_tokens, 0 where absent.
	MaxTokens int64

	userID   string // metadata.user_id
	userIDAt span   // where it stands; empty without one
	messages gjson.Result
	system   gjson.Result
	tools    gjson.Result
	thinking gjson.Result
	open     int    // offset of the byte after the opening brace
	models   []span // the values of `model`: more than one where keys repeat
	fields   []member
}

// span is a range of a body's bytes.
type span struct{ start, end int }

// member is a top-level key with its value.
type member struct {
	name string
	span // from the key's first byte to the value's last
}

// ParseRequest reads a body. Its errors are for the client: they say what is
// wrong with the request. Where a key stands twice the last one counts, as it
// does upstream.
func ParseRequest(body []byte) (*Request, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, errors.New("the request body is empty; send a JSON object")
	}
	if tooDeep(body) {
		return nil, fmt.Errorf("the request body is nested more than %d levels deep", maxDepth)
	}
	if !gjson.ValidBytes(body) {
		return nil, errors.New("the request body is not valid JSON")
	}
	root := gjson.Parse(textOf(body))
	if !root.IsObject() {
		return nil, errors.New("the request body is not a JSON object")
	}
	r := &Request{Body: body, open: bytes.IndexByte(body, '{') + 1}
	var model, stream gjson.Result
	root.ForEach(func(key, value gjson.Result) bool {
		r.fields = append(r.fields, member{key.Str, span{key.Index, value.Index + len(value.Raw)}})
		switch key.Str {
		case "model":
			model = value
			r.models = append(r.models, span{value.Index, value.Index + len(value.Raw)})
		case "stream":
			stream = value
		case "speed":
			r.Fast = value.Str == "fast"
		case "inference_geo":
			r.Geo = string([]byte(value.Str)) // a copy, as of the model
		case "service_tier":
			r.Tier = string([]byte(value.Str))
		case "max_tokens":
			r.MaxTokens = max(0, value.Int())
		case "metadata":
			id := value.Get("user_id")
			r.userID = id.String()
			if id.Type == gjson.String {
				r.userIDAt = spanOf(id)
			}
		case "messages":
			r.messages = value
		case "system":
			r.system = value
		case "tools":
			r.tools = value
		case "thinking":
			r.thinking = value
		}
		return true
	})
	switch {
	case !model.Exists():
		return nil, errors.New("model: field required")
	case model.Type != gjson.String:
		return nil, errors.New("model: must be a string")
	case model.Str == "":
		return nil, errors.New("model: must not be empty")
	case stream.Exists() && !stream.IsBool():
		return nil, errors.New("stream: must be true or false")
	}
	r.Model = string([]byte(model.Str)) // a copy, so that it does not hold the body
	r.Stream = stream.Bool()
	return r, nil
}

// drop lets go of the body.
func (r *Request) drop() {
	*r = Request{Model: r.Model, Stream: r.Stream, Fast: r.Fast, Geo: r.Geo, Tier: r.Tier, MaxTokens: r.MaxTokens}
}

// tooDeep reports whether the JSON in b is nested deeper than maxDepth. It guards
// the recursive parsers against a body made to exhaust the stack.
func tooDeep(b []byte) bool {
	if bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) <= maxDepth {
		return false // nearly always, and found out fast
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			i = stringEnd(b, i)
		}
	}
	return false
}

// stringEnd returns the offset of the quote that closes the string opened at
// start, or len(b).
func stringEnd(b []byte, start int) int {
	for i := start + 1; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		i += n
		backslashes := 0
		for j := i - 1; j > start && b[j] == '\\'; j-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			return i
		}
		i++
	}
	return len(b)
}
