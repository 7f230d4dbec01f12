package simulator

import (
	"net/http"
	"net/url"
	"time"
)

// answer is what will be sent: a status and the body in pieces.
type answer struct {
	status      int
	contentType string
	pieces      []piece
	stream      bool
}

// piece is written and flushed at once.
type piece struct {
	data   []byte
	tokens int64 // output tokens whose delta ends here
	pause  time.Duration
}

const (
	jsonType = "application/json"
	sseType  = "text/event-stream; charset=utf-8"
)

// Fixed is r with its answer to one request rendered in advance: whatever the
// request then is, the same bytes go out, without work for each. For
// benchmarks. body is the request's; an invalid one gets the API's error.
func Fixed(r Reply, body []byte) Reply {
	x := New(Config{Keep: -1}).newExchange(&http.Request{
		URL: &url.URL{Path: "/v1/messages"},
		// What is required of every request.
		Header: http.Header{"X-Api-Key": {"fixed"}, "Anthropic-Version": {"2023-06-01"}},
	}, body)
	r.fixed = new(x.answer(messages, "", &r))
	return r
}

// answer makes the answer that reply asks for; where the request itself is at
// fault and the script says nothing about it, the refusal, which it also puts
// into reply.
func (x *exchange) answer(what kind, method string, reply *Reply) answer {
	if reply.fixed != nil {
		return *reply.fixed
	}
	if reply.Status == 0 && reply.Body == nil && reply.Events == nil {
		x.refuse(what, method, reply)
	}
	a := answer{status: reply.Status, contentType: jsonType}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.stream = a.status < 400 && what == messages && (x.request.Stream || reply.Events != nil)
	if a.stream {
		a.contentType = sseType
	}
	switch {
	case reply.Body != nil:
		if looksLikeHTML(reply.Body) {
			a.contentType = "text/html; charset=UTF-8"
		}
		a.pieces = []piece{{data: reply.Body}}
	case a.status >= 400 && what == token:
		a.pieces = []piece{{data: tokenError(reply)}}
	case a.status >= 400:
		a.pieces = []piece{{data: envelope(reply, x.request.ID)}}
	case a.stream:
		events := scripted(reply.Events)
		if reply.Events == nil {
			m := x.messageOf(reply)
			events = m.events()
		}
		a.pieces = reply.Framing.render(events)
	default:
		a.pieces = []piece{{data: x.document(what, reply)}}
	}
	if len(reply.Pieces) > 0 {
		a.pieces = recut(a.pieces, reply.Pieces)
	}
	return a
}

// document is the JSON of an answer that is not streamed.
func (x *exchange) document(what kind, reply *Reply) []byte {
	switch what {
	case countTokens:
		n := Tokens(x.request.Body)
		if reply.Usage != nil {
			n = reply.Usage.Input
		}
		return countDocument(n)
	case models:
		return x.modelsDocument()
	case token:
		return x.tokenDocument()
	}
	m := x.messageOf(reply)
	return append(m.document(), '\n')
}

// recut joins pieces and cuts them again. Tokens and pauses go with the piece
// that holds their event's end.
func recut(old []piece, sizes []int) []piece {
	var all []byte
	for _, p := range old {
		all = append(all, p.data...)
	}
	var out []piece
	start, event, eventEnd := 0, 0, 0
	for i := 0; start < len(all); i++ {
		end := min(len(all), start+max(1, sizes[min(i, len(sizes)-1)]))
		p := piece{data: all[start:end]}
		for event < len(old) && eventEnd+len(old[event].data) <= end {
			eventEnd += len(old[event].data)
			p.tokens += old[event].tokens
			p.pause += old[event].pause
			event++
		}
		out = append(out, p)
		start = end
	}
	return out
}
