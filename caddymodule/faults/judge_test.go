package faults_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// transcript is what a client got.
type transcript struct {
	id     string
	status int
	body   string
	err    error
}

const (
	keepaliveLine = ": keepalive\n\n"
	seal          = "\nevent: ping\n\n"
)

// verdict is what a transcript turned out to be.
type verdict struct {
	of *said // whose answer it is; nil = nobody's
	// whole: it is all of it. Otherwise, with of, it is a part and an error event.
	whole bool
}

// judge tells whose answer a transcript is. The error says why it is none that
// the gateway may give.
func judge(t *transcript, answers []*said, stream bool) (verdict, error) {
	body := strings.ReplaceAll(t.body, keepaliveLine, "")
	switch {
	case t.err != nil:
		return verdict{}, fmt.Errorf("the answer broke off: %w", t.err)
	case t.status >= 400:
		return judgeRefusal(body, answers)
	case t.status != 200:
		return verdict{}, fmt.Errorf("status %d", t.status)
	}
	for _, s := range answers {
		if len(s.sent) == 0 || s.refusal {
			continue
		}
		if body == string(s.sent) && s.whole {
			return verdict{s, true}, nil
		}
		// Nothing is read after an error event, be it half of its last CR LF.
		if strings.TrimRight(body, "\r\n") == strings.TrimRight(string(s.sent), "\r\n") && endsInError(s.sent) && hasContent(body) {
			return verdict{s, false}, nil
		}
	}
	if !stream {
		return verdict{}, fmt.Errorf("nobody said so")
	}
	head, tail, ok := cutLast(body, "event: error\ndata: ")
	data := strings.TrimSuffix(tail, "\n\n")
	if !ok || data == tail || strings.Contains(data, "\n") || !gjson.Valid(data) || gjson.Get(data, "request_id").Str != t.id {
		return verdict{}, fmt.Errorf("it is nobody's answer and does not end with one error event of ours")
	}
	if head == "" {
		if body == t.body {
			return verdict{}, fmt.Errorf("an error event is all there is, and no keepalive was sent before it")
		}
		return verdict{}, nil
	}
	var why error
	for _, s := range answers {
		if s.refusal || len(s.sent) == 0 {
			continue
		}
		v, err := judgePart(head, body, s)
		if err == nil {
			return v, nil
		}
		if strings.HasPrefix(string(s.sent), head[:min(len(head), 40)]) || why == nil {
			why = err
		}
	}
	return verdict{}, why
}

// judgePart reports whether a client got a part of an answer, and can read no more
// of it than was said.
func judgePart(head, body string, s *said) (verdict, error) {
	part := head
	if !strings.HasPrefix(string(s.sent), part) {
		part = strings.TrimSuffix(head, seal)
	}
	if !strings.HasPrefix(string(s.sent), part) {
		return verdict{}, fmt.Errorf("%q is not how %q begins", head, s.sent)
	}
	if !hasContent(part) {
		return verdict{}, fmt.Errorf("%q went out before any content", head)
	}
	if s.whole && !s.lost {
		return verdict{}, fmt.Errorf("%q was a whole answer", s.sent)
	}
	events := dataOf([]byte(body))
	events = events[:len(events)-1]
	for i, data := range events {
		if i >= len(s.events) || data != s.events[i] {
			return verdict{}, fmt.Errorf("a client reads %q, upstream did not say that", data)
		}
	}
	return verdict{s, false}, nil
}

func judgeRefusal(body string, answers []*said) (verdict, error) {
	for _, s := range answers {
		if s.refusal && body == string(s.sent) {
			return verdict{}, nil
		}
	}
	e := gjson.Parse(body)
	if !gjson.Valid(body) || e.Get("type").Str != "error" || e.Get("error.type").Str == "" || e.Get("error.message").Str == "" {
		return verdict{}, fmt.Errorf("it is not one error")
	}
	return verdict{}, nil
}

func endsInError(stream []byte) bool {
	events := dataOf(stream)
	if len(events) == 0 {
		return false
	}
	last := events[len(events)-1]
	return gjson.Valid(last) && gjson.Get(last, "type").Str == "error"
}

// hasContent reports whether content has begun in a stream: a block that carries
// any, an event after a block that began empty, or the end of the message. An error
// is no content.
func hasContent(stream string) bool {
	opened := false
	for _, data := range dataOf([]byte(stream)) {
		kind := gjson.Get(data, "type").Str
		switch {
		case !gjson.Valid(data), kind == "error", kind == "message_start":
		case opened, kind != "content_block_start":
			return true
		case gjson.Get(data, "content_block.data").Str != "": // redacted thinking comes whole
			return true
		default:
			opened = true
		}
	}
	return false
}

func TestHasContent(t *testing.T) {
	const (
		start    = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n"
		ping     = "event: ping\ndata: {\"type\":\"ping\"}\n\n"
		empty    = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
		redacted = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"abc\"}}\n\n"
		delta    = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n"
		end      = "event: message_delta\ndata: {\"type\":\"message_delta\"}\n\n"
		failed   = "event: error\ndata: {\"type\":\"error\"}\n\n"
	)
	for stream, want := range map[string]bool{
		"": false, start: false, start + ping: false, start + empty: false, start + empty + ping: false, start + empty + failed: false,
		start + empty + ping + failed: false, start + empty + delta[:60]: false, start + empty + delta: true, start + redacted: true,
		start + redacted[:80]: false, start + end: true, start + empty + ping + end: true, delta: true,
	} {
		if got := hasContent(stream); got != want {
			t.Errorf("%q: %t", stream, got)
		}
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
