package faults_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// draw chooses one of n numbers, from 0.
type draw func(n int) int

func seeded(seed, stream uint64) draw { return rand.New(rand.NewPCG(seed, stream)).IntN }

func pick[T any](d draw, from ...T) T { return from[d(len(from))] }

// once in n reports whether.
func (d draw) once(n int) bool { return d(n) == n-1 }

// said is one answer of an upstream: what it meant to say, and what went out.
type said struct {
	account string
	reply   simulator.Reply
	// sent is what reached the gateway at most, as the client should see it: with
	// its own model's name.
	sent []byte
	// whole: sent is a whole answer. events are the data of those in sent.
	whole  bool
	events []string
	// refusal: sent is the body of an error status.
	refusal bool
	lost    bool // of what was sent, some may not have arrived
	silent  bool // it does not end, nor break off
	absent  bool // a refusal that is the account's alone: it has not got the model
	input   int64
	outputs []int64 // the totals in sent, oldest first
}

// frame is how one stream's events are written.
type frame struct {
	newline  string
	nameless bool
	odd      draw // nil = the API's way
}

func (f frame) event(name, data string) string {
	nameLine, dataLine := "event: "+name+f.newline, "data: "+data+f.newline
	if f.nameless {
		nameLine = ""
	}
	if f.odd != nil {
		switch f.odd(6) {
		case 0:
			nameLine, dataLine = strings.Replace(nameLine, ": ", ":", 1), strings.Replace(dataLine, ": ", ":", 1)
		case 1:
			nameLine = ": a remark" + f.newline + "id: 7" + f.newline + nameLine
		case 2:
			nameLine, dataLine = dataLine, nameLine
		case 3:
			dataLine += "retry: 3000" + f.newline
		}
	}
	return nameLine + dataLine + f.newline
}

const pingData = `{"type":"ping"}`

// answerOf makes an answer of its own for one attempt at an account: mark is in
// all that it says. The account knows the client's model as sentModel.
func answerOf(d draw, account, mark, model, sentModel string, stream bool, harm int) *said {
	s := &said{account: account, input: int64(1000 + d(9000))}
	var text string
	var ends []int // of the events in text
	if stream {
		text, ends = s.stream(d, mark, sentModel, harm)
	} else {
		s.outputs = []int64{int64(10 + d(5000))}
		text = fmt.Sprintf(`{"model":"%s","id":"msg_%s","type":"message","role":"assistant","content":[{"type":"text","text":"%s %s"}],`+
			`"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":%d}}`,
			sentModel, mark, mark, strings.Repeat("wörd ", d(200)), s.input, s.outputs[0])
		s.whole = true
	}
	s.reply = simulator.Reply{Body: []byte(text), Pieces: pick(d, nil, []int{1 + d(9), 40 + d(200)}, []int{200 + d(500)}, []int{1, 1, 1, 9000})}
	cut := len(text)
	if d.once(harm) {
		if cut = s.harm(d, len(text), ends); cut < 0 {
			s.sent, s.whole, s.outputs = nil, false, nil
			return s
		}
	}
	if s.refusal {
		s.sent = s.reply.Body
		return s
	}
	s.sent = []byte(strings.ReplaceAll(text[:cut], `"model":"`+sentModel+`"`, `"model":"`+model+`"`))
	if !stream {
		s.whole = gjson.ValidBytes(s.sent)
		return s
	}
	s.events = dataOf(s.sent)
	s.whole = endsWhole(s.sent)
	s.outputs = nil
	for _, data := range s.events {
		if n := gjson.Get(data, "usage.output_tokens"); gjson.Valid(data) && n.Exists() {
			s.outputs = append(s.outputs, n.Int())
		}
	}
	return s
}

// stream writes the events of a streamed answer, sometimes with an error event
// among them.
func (s *said) stream(d draw, mark, sentModel string, harm int) (text string, ends []int) {
	f := frame{newline: pick(d, "\n", "\n", "\n", "\r\n", "\r"), nameless: d.once(8)}
	if d.once(4) {
		f.odd = d
	}
	var out strings.Builder
	ended := false
	add := func(name, data string) {
		if ended {
			return
		}
		for d.once(6) {
			out.WriteString(f.event("ping", pingData))
			ends = append(ends, out.Len())
		}
		out.WriteString(f.event(name, data))
		ends = append(ends, out.Len())
	}
	blocks := 1 + d(3)
	breaks := -1 // an error event instead of the n-th of the rest, and nothing after it
	if d.once(2 * harm) {
		breaks = d(12)
	}
	step := func(name, data string) {
		switch {
		case breaks > 0:
			breaks--
		case breaks == 0:
			kind := pick(d, "overloaded_error", "api_error", "rate_limit_error", "timeout_error", "error_of_next_year")
			add("error", fmt.Sprintf(`{"type":"error","error":{"type":"%s","message":"%s"}}`, kind, mark))
			ended = true
		}
		add(name, data)
	}
	step("message_start", fmt.Sprintf(`{"type":"message_start","message":{"model":"%s","id":"msg_%s","type":"message","role":"assistant","content":[],"usage":{"input_tokens":%d,"output_tokens":1}}}`, sentModel, mark, s.input))
	for i := range blocks {
		kind := pick(d, "text", "thinking")
		if d.once(6) { // a block that comes whole
			step("content_block_start", fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":{"type":"redacted_thinking","data":"%s%s"}}`, i, mark, strings.Repeat("x", d(20))))
			step("content_block_stop", fmt.Sprintf(`{"type":"content_block_stop","index":%d}`, i))
			continue
		}
		step("content_block_start", fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":{"type":"%s","%s":""}}`, i, kind, kind))
		for n := range 1 + d(6) {
			step("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":%d,"delta":{"type":"%s_delta","%s":"%s.%d %s"}}`, i, kind, kind, mark, n, strings.Repeat("wörd\\n", d(12))))
		}
		step("content_block_stop", fmt.Sprintf(`{"type":"content_block_stop","index":%d}`, i))
	}
	total := int64(10 + d(5000))
	for range 1 + d(2) {
		step("message_delta", fmt.Sprintf(`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}}`, total))
		total += int64(d(50))
	}
	step("message_stop", `{"type":"message_stop"}`)
	return out.String(), ends
}

// harm makes something go wrong, and returns how much of the text goes out: −1,
// if nothing does that a client might see.
func (s *said) harm(d draw, size int, ends []int) int {
	switch d(4) {
	case 0: // an error status
		status := pick(d, 400, 400, 404, 422, 401, 402, 403, 408, 409, 429, 500, 502, 503, 504, 529, 529)
		r := simulator.Reply{Status: status, Pieces: s.reply.Pieces}
		if s.refusal = status == 400 || status == 404 || status == 422; s.refusal {
			kind := "invalid_request_error"
			if s.absent = status == 404 && d.once(2); s.absent {
				kind = "not_found_error"
			}
			r.Body = fmt.Appendf(nil, `{ "type":"error","error":{"type":"%s","message":"%s %d"}}`, kind, s.account, d(1<<20))
			r.Body = []byte(strings.ReplaceAll(string(r.Body), accountName, "judged by "))
		}
		s.reply = r
		if s.refusal {
			return 0
		}
		return -1
	case 1: // no answer at all
		kind := pick(d, simulator.Reset, simulator.Cut, simulator.Reset, simulator.Cut, simulator.Cut, simulator.Hang)
		s.reply.Fault = simulator.Fault{Kind: kind, After: simulator.BeforeHeader}
		s.silent = kind == simulator.Hang
		return -1
	}
	// It breaks off after any byte, or where events end.
	cut := d(size + 1)
	if len(ends) > 0 && d(2) == 0 {
		cut = pick(d, ends...)
	}
	kind := pick(d, simulator.Reset, simulator.Cut, simulator.Cut, simulator.Truncate, simulator.Truncate, simulator.Truncate, simulator.Cut, simulator.Hang)
	if kind == simulator.Hang && cut == size && len(ends) == 0 {
		// The client has it all by its length, and the connection for its next
		// request, behind which the server does not see it leave.
		kind = simulator.Truncate
	}
	s.lost, s.silent = kind == simulator.Reset, kind == simulator.Hang
	// As pieces: those that go out whole, and a part of the next.
	s.reply.Fault = simulator.Fault{Kind: kind}
	for at, i := 0, 0; at < cut; i++ {
		n := size
		if len(s.reply.Pieces) > 0 {
			n = s.reply.Pieces[min(i, len(s.reply.Pieces)-1)]
		}
		if n = min(n, size-at); at+n > cut {
			s.reply.Fault.Bytes = cut - at
			break
		}
		at += n
		s.reply.Fault.After++
	}
	return cut
}

// endsWhole reports whether a stream has come to its end: message_stop is its last
// event, and where that is named, which may come after its data, not by half.
func endsWhole(stream []byte) bool {
	events := dataOf(stream)
	if len(events) == 0 {
		return false
	}
	last := events[len(events)-1]
	text := strings.ReplaceAll(string(stream), "\r", "\n")
	line := text[strings.LastIndexByte(text, '\n')+1:]
	name, named := strings.CutPrefix(line, "event:")
	return gjson.Valid(last) && gjson.Get(last, "type").Str == "message_stop" &&
		(!named || strings.TrimPrefix(name, " ") == "message_stop")
}

func TestEndsWhole(t *testing.T) {
	for stream, want := range map[string]bool{
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n": true,
		"event: message_stop\ndata: {\"type\":\"message_stop\"}":     true,
		"event: message_stop\ndata: {\"type\":\"message_stop\"":      false,
		"data: {\"type\":\"message_stop\"}\r":                        true,
		"data: {\"type\":\"message_stop\"}\revent: message_stop":     true,
		"data: {\"type\":\"message_stop\"}\revent:message_s":         false,
		"data: {\"type\":\"message_stop\"}\neve":                     true,
		"data: {\"type\":\"message_delta\"}\n\n":                     false,
		"":                                                           false,
	} {
		if got := endsWhole([]byte(stream)); got != want {
			t.Errorf("%q: %t", stream, got)
		}
	}
}

// dataOf reads a stream's events as the specification says, an end without a
// blank line included, and returns the data of those that have any and are no
// pings.
func dataOf(stream []byte) (out []string) {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(stream))
	for event := range strings.SplitSeq(text, "\n\n") {
		name, data := "", ""
		for line := range strings.SplitSeq(event, "\n") {
			field, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch field {
			case "event":
				name = value
			case "data":
				data += value
			}
		}
		if data != "" && name != "ping" && data != pingData {
			out = append(out, data)
		}
	}
	return out
}
