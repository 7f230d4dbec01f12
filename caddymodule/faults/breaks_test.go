package faults_test

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// breaks are connections that fail and answers that don't come whole, or are no
// answers. closed is an address where nobody listens.
func breaks(closed string) []fault {
	const api, late = "api_error", "timeout_error"
	// An answer that is not streamed and comes too late may be paid for: nobody else
	// is asked.
	tooLate := fault{only: wholes, status: 504, kind: late, final: true, stays: true, state: last}
	named := func(name string, f fault, r simulator.Reply) fault {
		f.name, f.reply = name, r
		return f
	}
	lateHeader, lateBody := spoken, spoken
	lateHeader.HeaderDelay, lateBody.FirstDelay = tooLong, tooLong
	trickle := spoken
	trickle.Pieces, trickle.Pause = []int{40}, 200*time.Millisecond
	typed := func(kind, text string) simulator.Reply {
		r := body(200, text)
		r.Header = http.Header{"Content-Type": {kind}}
		return r
	}
	faults := []fault{
		{name: "nobody listens", base: closed, status: 502, kind: api, state: lastAll},
		{name: "no TLS there", base: "TLS-SIM", status: 502, kind: api, state: lastAll},
		{name: "reset", reply: failing(simulator.Reset, simulator.BeforeHeader, 0), status: 502, kind: api, state: last},
		{name: "cut", reply: failing(simulator.Cut, simulator.BeforeHeader, 0), status: 502, kind: api, state: last},
		{name: "stream: no header", only: streams, reply: failing(simulator.Hang, simulator.BeforeHeader, 0), status: 504, kind: late, state: last},
		{name: "stream: late header", only: streams, reply: lateHeader, status: 504, kind: late, state: last},
		{name: "whole: cut", only: wholes, reply: failing(simulator.Cut, 0, 20), status: 502, kind: api, state: last},
		{name: "whole: reset", only: wholes, reply: failing(simulator.Reset, 0, 20), status: 502, kind: api, state: last},
		{name: "whole: short", only: wholes, reply: failing(simulator.Truncate, 0, 20), status: 502, kind: api, state: last},
		named("whole: no header", tooLate, failing(simulator.Hang, simulator.BeforeHeader, 0)),
		named("whole: silence", tooLate, failing(simulator.Hang, 0, 20)),
		named("whole: late header", tooLate, lateHeader),
		named("whole: late body", tooLate, lateBody),
		named("whole: a bit at a time", tooLate, trickle),
		{name: "whole: overloaded in a 200", only: wholes, reply: body(200, `{"type":"error","error":{"type":"overloaded_error","message":"no"}}`), sent: 529, status: 529, kind: "overloaded_error", state: last},
		{name: "whole: denied in a 200", only: wholes, reply: body(200, `{"error":{"type":"permission_error","message":"no"}}`), sent: 403, status: 502, kind: api, final: true, state: denied},
		{name: "whole: HTML", only: wholes, reply: body(200, "<html>hello</html>"), status: 502, kind: api, state: last},
		{name: "whole: nothing", only: wholes, reply: body(200, ""), status: 502, kind: api, state: last},
		{name: "whole: no message", only: wholes, reply: body(200, `{"ok":true}`), status: 502, kind: api, state: last},
		{name: "whole: a stream", only: wholes, reply: typed("text/event-stream; charset=utf-8", streamOf(messageEvents("1", `{"input_tokens":1000,"output_tokens":1}`, `{"output_tokens":100}`))), status: 502, kind: api, state: last},
		{name: "stream: JSON", only: streams, reply: typed("application/json", wholeAnswer), status: 502, kind: api, state: last},
		{name: "stream: a page", only: streams, reply: body(200, "<html>hello</html>"), status: 502, kind: api, state: last},
		{name: "stream: nothing", only: streams, reply: body(200, ""), status: 502, kind: api, state: last},
		{name: "stream: no type", only: streams, reply: simulator.Reply{Header: http.Header{"Content-Type": {""}}}, status: 502, kind: api, state: last},
		{name: "strange encoding", reply: simulator.Reply{Header: http.Header{"Content-Encoding": {"deflate"}}}, status: 502, kind: api, state: last},
		{name: "stream: pings", only: streams, reply: simulator.Reply{Pause: 20 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Pings, After: 1}}, status: 504, kind: late, state: last},
	}
	for _, early := range []struct {
		name         string
		after, bytes int
	}{
		{"at once", 0, 0}, {"in message_start", 0, 40}, {"after message_start", 1, 0}, {"in the block's name", 1, 20}, {"in the empty block's start", 1, 40},
		{"after the empty block's start", 2, 0}, {"after a ping", 3, 0}, {"in the first delta", 3, 40},
	} {
		for kind, f := range map[simulator.FaultKind]fault{
			simulator.Cut:      {name: "cut", status: 502, kind: api},
			simulator.Reset:    {name: "reset", status: 502, kind: api},
			simulator.Truncate: {name: "end", status: 502, kind: api},
			simulator.Hang:     {name: "silence", status: 504, kind: late},
		} {
			f.name, f.only, f.state = "stream: "+f.name+" "+early.name, streams, last
			f.reply = failing(kind, early.after, early.bytes)
			faults = append(faults, f)
		}
	}
	return faults
}

// errorEvents are those of a stream, before its content and in it.
func errorEvents() (faults []fault) {
	for kind, early := range map[string]fault{
		"overloaded_error":      {sent: 529, status: 529, kind: "overloaded_error", state: last},
		"rate_limit_error":      {sent: 429, status: 429, kind: "rate_limit_error", state: last},
		"authentication_error":  {sent: 401, status: 502, kind: "api_error", final: true, state: denied},
		"permission_error":      {sent: 403, status: 502, kind: "api_error", final: true, state: denied},
		"billing_error":         {sent: 402, status: 502, kind: "api_error", final: true, state: denied},
		"timeout_error":         {sent: 504, status: 504, kind: "timeout_error", state: last},
		"api_error":             {sent: 500, status: 502, kind: "api_error", state: last},
		"error_of_next_year":    {sent: 500, status: 502, kind: "api_error", state: last},
		"not_found_error":       {sent: 404, status: 404, kind: "not_found_error", state: lastModel, lasts: absentLasts},
		"invalid_request_error": {sent: 400, status: 400, kind: "invalid_request_error", stays: true},
		"request_too_large":     {sent: 413, status: 413, kind: "request_too_large", stays: true},
	} {
		early.only = streams
		for after, where := range []string{"first", "after message_start", "after an empty block", "after a ping"} {
			early.name, early.reply = "event "+kind+" "+where, errorEvent(kind, after)
			faults = append(faults, early)
		}
		broken := fault{name: "event " + kind + " in mid-stream", only: streams, reply: errorEvent(kind, 8), sent: early.sent, status: 200, kind: kind, broken: true, stays: true, state: last}
		if early.stays {
			broken.state = in
		}
		faults = append(faults, broken)
	}
	return faults
}

// endings are streams that break off after their content has begun.
func endings() (faults []fault) {
	const api, late = "api_error", "timeout_error"
	for _, place := range []struct {
		name         string
		after, bytes int
		known        bool
	}{
		{"after the first delta", 4, 0, false},
		{"between deltas", 8, 0, false}, {"in an event's name", 8, 9, false}, {"in an event's data", 8, 60, false},
		{"after the last block", 14, 0, false}, {"in message_delta", 14, 60, false}, {"before message_stop", 15, 0, true}, {"in message_stop's name", 15, 15, true},
		{"in message_stop", 15, 30, true},
	} {
		for kind, f := range map[simulator.FaultKind]fault{
			simulator.Cut: {name: "cut", kind: api}, simulator.Truncate: {name: "end", kind: api},
			simulator.Reset: {name: "reset", kind: api}, simulator.Hang: {name: "silence", kind: late},
		} {
			f.name, f.reply = f.name+" "+place.name, failing(kind, place.after, place.bytes)
			f.only, f.status, f.stays, f.broken, f.known, f.state = streams, 200, true, true, place.known, last
			if kind == simulator.Reset { // which may overtake what was sent last
				f.loses, f.reply.Pause = true, 2*time.Millisecond
				if place.after < 8 {
					continue
				}
			}
			faults = append(faults, f)
		}
	}
	return append(faults,
		fault{name: "cut after the end", only: streams, reply: failing(simulator.Cut, 99, 0), status: 200, stays: true},
		fault{name: "silence after the end", only: streams, reply: failing(simulator.Hang, 99, 0), status: 200, stays: true},
		fault{name: "gzip", reply: func() simulator.Reply { r := spoken; r.Gzip = true; return r }(), status: 200, stays: true},
		fault{name: "a huge line", only: streams, reply: func() simulator.Reply {
			r := failing(simulator.HugeLine, 8, 0)
			r.Fault.Size = 1 << 20
			return r
		}(), status: 200, stays: true},
	)
}

// oddUse are answers that come whole and report their usage in odd ways, or say
// more than an answer does.
func oddUse() (faults []fault) {
	usage := func(name string, use wantRecord, start, end string) {
		f := fault{status: 200, stays: true, use: &use}
		f.name, f.only, f.reply = "stream: "+name, streams, body(200, streamOf(messageEvents("1", start, end)))
		faults = append(faults, f)
	}
	// 400 bytes of text are 100 tokens; what was asked for is 150 bytes or so.
	usage("no usage", wantRecord{input: -1, output: 100, estimated: true}, "", "")
	usage("usage null", wantRecord{input: -1, output: 100, estimated: true}, "null", "null")
	usage("usage of zeros", wantRecord{input: -1, output: 100, estimated: true}, `{"input_tokens":0,"output_tokens":0}`, `{"output_tokens":0}`)
	usage("usage at the end", wantRecord{input: 1000, output: 77}, "", `{"input_tokens":1000,"output_tokens":77}`)
	usage("usage that grows", wantRecord{input: 1000, output: 77}, `{"input_tokens":5,"output_tokens":1}`, `{"input_tokens":1000,"output_tokens":77}`)
	usage("no total", wantRecord{input: 1000, output: 100, estimated: true}, `{"input_tokens":1000,"output_tokens":1}`, "")
	usage("absurd usage", wantRecord{input: 1000, output: 77, cacheRead: believed, estimated: true}, `{"input_tokens":1000,"cache_read_input_tokens":1e15,"output_tokens":1}`, `{"output_tokens":77}`)
	usage("negative usage", wantRecord{input: 1000, output: 77}, `{"input_tokens":1000,"cache_read_input_tokens":-5,"output_tokens":1}`, `{"input_tokens":-1,"output_tokens":77}`)
	for name, test := range map[string]struct {
		usage string
		use   wantRecord
	}{
		"no usage":       {"null", wantRecord{input: -1, output: 100, estimated: true}},
		"usage of zeros": {`{"input_tokens":0,"output_tokens":0}`, wantRecord{input: -1, output: 100, estimated: true}},
		"absurd usage":   {`{"input_tokens":1000,"output_tokens":77,"cache_read_input_tokens":99999999999999999999}`, wantRecord{input: 1000, output: 77, cacheRead: believed, estimated: true}},
	} {
		text := strings.Replace(strings.Replace(wholeAnswer, `"text":"late"`, `"text":"`+spoken.Text+`"`, 1), `{"input_tokens":9,"output_tokens":2}`, test.usage, 1)
		faults = append(faults, fault{name: "whole: " + name, only: wholes, reply: body(200, text), status: 200, stays: true, use: &test.use})
	}
	first, second := messageEvents("1", `{"input_tokens":1000,"output_tokens":1}`, `{"output_tokens":77}`), messageEvents("2", `{"input_tokens":5000,"output_tokens":1}`, `{"output_tokens":500}`)
	faults = append(faults, fault{name: "stream: two messages", only: streams, reply: body(200, streamOf(append(first, second...))), status: 200, stays: true,
		use: &wantRecord{input: 1000, output: 77}})
	return faults
}

// believed is the most that is believed of a count, of a model that is not known.
const believed = 10_000_000

// tooLong is longer than any limit of the tests.
const tooLong = 1500 * time.Millisecond

// messageEvents are those of an answer that says what spoken says. start and end
// are the usage of its first and its last event; "" = none.
func messageEvents(id, start, end string) (events []simulator.Event) {
	add := func(name, data string) { events = append(events, simulator.Event{Name: name, Data: data}) }
	usage := func(text string) string {
		if text == "" {
			return ""
		}
		return `,"usage":` + text
	}
	add("message_start", `{"type":"message_start","message":{"id":"msg_`+id+`","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[]`+usage(start)+`}}`)
	add("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
	add("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%q}}`, spoken.Text))
	add("content_block_stop", `{"type":"content_block_stop","index":0}`)
	add("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null}`+usage(end)+`}`)
	add("message_stop", `{"type":"message_stop"}`)
	return events
}

func streamOf(events []simulator.Event) string {
	var out strings.Builder
	for _, e := range events {
		fmt.Fprintf(&out, "event: %s\ndata: %s\n\n", e.Name, e.Data)
	}
	return out.String()
}

// spoken is what the accounts under test say. Its events: message_start,
// content_block_start, ping, ten deltas, content_block_stop, message_delta,
// message_stop.
var spoken = simulator.Reply{
	Text: strings.Repeat("word ", 80), Deltas: 10,
	Usage:      &upstream.Usage{Input: 1000, Output: 100},
	StartUsage: &upstream.Usage{Input: 1000, Output: 1},
}
