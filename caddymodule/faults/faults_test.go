package faults_test

import (
	"net/http"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// standing is what becomes of an account.
type standing uint8

const (
	in          standing = iota // it serves the next request
	out                         // it serves none, for fault.outFor
	outModel                    // it serves another model
	outOpus                     // it serves models of other families
	outFast                     // it serves requests that are not in fast mode
	inError                     // it serves none, until someone acts
	inNextMonth                 // it serves none until the month ends, UTC
)

// fault is one thing that an upstream does, and what must come of it where the
// account is an api_key account without error_codes and the only one.
type fault struct {
	name  string
	reply simulator.Reply
	base  string // of the account's base_url; "" = the simulator's
	only  string // "stream", "whole", or both: ""
	fast  bool   // the request is in fast mode

	// sent is the status that upstream's error stands for, where the reply has
	// none; 0 = it has, or there is no error.
	sent int
	// status and kind are the client's; kind "" = upstream's body as it is, or no
	// error.
	status int
	kind   string
	final  bool
	after  time.Duration // retry-after, at least about; 0 = none
	stays  bool          // not tried on another account
	state  standing
	outFor time.Duration
	// broken: it breaks off after content has come, and the client gets an error
	// event; known: upstream had told the total by then.
	// loses: what was sent last may not have arrived.
	broken, known, loses bool
}

const (
	overloadCooldown  = 2 * time.Minute
	rateLimitCooldown = 7 * time.Minute
	both              = ""
	streams           = "stream"
	wholes            = "whole"
)

// oddError is an error body that would change if it were encoded anew.
const oddError = `{ "type":"error", "error":{"type":"invalid_request_error","message":"messages.0: caf\u00e9 \"x\" is  too long"},"request_id":"req_of_upstream"}` + "\n"

func body(status int, text string) simulator.Reply {
	return simulator.Reply{Status: status, Body: []byte(text)}
}

func failing(kind simulator.FaultKind, after, bytes int) simulator.Reply {
	r := spoken
	r.Fault = simulator.Fault{Kind: kind, After: after, Bytes: bytes}
	return r
}

func errorEvent(kind string, after int) simulator.Reply {
	r := failing(simulator.ErrorEvent, after, 0)
	r.Fault.ErrorType, r.Fault.Message = kind, "no more"
	return r
}

func limited(limits simulator.Limits) simulator.Reply {
	return simulator.Reply{Status: 429, Limits: &limits}
}

// spoken is what the accounts under test say. Its events: message_start,
// content_block_start, ping, ten deltas, content_block_stop, message_delta,
// message_stop.
var spoken = simulator.Reply{
	Text: strings.Repeat("word ", 80), Deltas: 10,
	Usage:      &upstream.Usage{Input: 1000, Output: 100},
	StartUsage: &upstream.Usage{Input: 1000, Output: 1},
}

// refusals are answers with an error status.
func refusals() []fault {
	hour := time.Now().Add(time.Hour).Truncate(time.Second)
	half := hour.Add(-30 * time.Minute)
	windows := func(names ...string) (ws []simulator.Window) {
		for i, name := range names {
			ws = append(ws, simulator.Window{Name: name, Status: "rejected", Reset: half.Add(time.Duration(i) * 30 * time.Minute)})
		}
		return ws
	}
	withRetry := body(400, oddError)
	withRetry.Header = http.Header{"Retry-After": {"7"}, "X-Should-Retry": {"true"}}
	longRetry := body(400, oddError)
	longRetry.Header = http.Header{"Retry-After": {"7200"}}
	const rate, api = "rate_limit_error", "api_error"
	return []fault{
		{name: "400", reply: body(400, oddError), status: 400, stays: true},
		{name: "400 with retry-after", reply: withRetry, status: 400, after: 7 * time.Second, stays: true},
		{name: "400 with a long retry-after", reply: longRetry, status: 400, after: 2 * time.Hour, final: true, stays: true},
		{name: "400 about a beta", reply: simulator.Reply{Status: 400, Message: "Unexpected value(s) `x-1` for the `anthropic-beta` header"}, status: 400, kind: "invalid_request_error", stays: true},
		{name: "404", reply: body(404, strings.Replace(oddError, "invalid_request_error", "not_found_error", 1)), status: 404, stays: true},
		{name: "413", reply: body(413, "<html>too large</html>"), status: 413, stays: true},
		{name: "422", reply: body(422, oddError), status: 422, stays: true},
		{name: "400 credit", reply: simulator.Reply{Status: 400, Message: simulator.CreditBalanceTooLow}, status: 502, kind: api, final: true, state: inError},
		{name: "400 hold", reply: simulator.Reply{Status: 400, ErrorCode: "organization_on_hold"}, status: 502, kind: api, final: true, state: inError},
		{name: "401", reply: simulator.Reply{Status: 401}, status: 502, kind: api, final: true, state: inError},
		{name: "402", reply: simulator.Reply{Status: 402}, status: 502, kind: api, final: true, state: inError},
		{name: "403", reply: simulator.Reply{Status: 403}, status: 502, kind: api, final: true, state: outModel, outFor: rateLimitCooldown},
		{name: "408", reply: simulator.Reply{Status: 408}, status: 502, kind: api},
		{name: "409", reply: simulator.Reply{Status: 409}, status: 502, kind: api},
		{name: "429 without a word", reply: simulator.Reply{Status: 429}, status: 429, kind: rate, state: out, outFor: rateLimitCooldown},
		{name: "429 burst", reply: simulator.Reply{Status: 429, RetryAfter: 3 * time.Second, Limits: &simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{{Name: "5h", Status: "allowed", Reset: hour}}}},
			status: 429, kind: rate, after: 3 * time.Second, state: out, outFor: 3 * time.Second},
		{name: "429 ramp", reply: simulator.Reply{Status: 429, ErrorCode: "ramp_limit_exceeded", RetryAfter: 20 * time.Second}, status: 429, kind: rate, after: 20 * time.Second, state: out, outFor: 20 * time.Second},
		{name: "429 long retry-after", reply: simulator.Reply{Status: 429, RetryAfter: 2 * time.Hour}, status: 429, kind: rate, after: 2 * time.Hour, final: true, state: out, outFor: 2 * time.Hour},
		{name: "429 five-hour window", reply: limited(simulator.Limits{Claim: "five_hour", Windows: windows("5h")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: out, outFor: 30 * time.Minute},
		{name: "429 two windows", reply: limited(simulator.Limits{Claim: "five_hour", Reset: half, Windows: windows("5h", "7d")}), status: 429, kind: rate, after: time.Hour, final: true, state: out, outFor: time.Hour},
		{name: "429 RFC 3339", reply: limited(simulator.Limits{Claim: "seven_day", RFC3339: true, Windows: windows("7d")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: out, outFor: 30 * time.Minute},
		{name: "429 opus", reply: limited(simulator.Limits{Claim: "seven_day_opus", Windows: windows("7d_opus")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: outOpus, outFor: 30 * time.Minute},
		{name: "429 fast", reply: limited(simulator.Limits{FastReset: hour}), fast: true, status: 429, kind: rate, after: time.Hour, final: true, state: outFast, outFor: time.Hour},
		{name: "429 spend", reply: simulator.Reply{Status: 429, ErrorCode: "enforced_spend_limit_reached"}, status: 429, kind: rate, state: inNextMonth},
		{name: "429 contract", reply: simulator.Reply{Status: 429, ErrorCode: "contract_spend_limit_reached"}, status: 429, kind: rate, state: inNextMonth},
		{name: "500", reply: simulator.Reply{Status: 500}, status: 502, kind: api},
		{name: "502 HTML", reply: simulator.Reply{Status: 502, Body: []byte(simulator.BadGatewayHTML)}, status: 502, kind: api},
		{name: "503", reply: simulator.Reply{Status: 503}, status: 502, kind: api},
		{name: "504", reply: simulator.Reply{Status: 504}, status: 504, kind: "timeout_error"},
		{name: "520", reply: simulator.Reply{Status: 520, Body: []byte("<html>unknown</html>")}, status: 502, kind: api},
		{name: "529", reply: simulator.Reply{Status: 529}, status: 529, kind: "overloaded_error", state: out, outFor: overloadCooldown},
		{name: "529 gzip", reply: simulator.Reply{Status: 529, Gzip: true}, status: 529, kind: "overloaded_error", state: out, outFor: overloadCooldown},
		{name: "418", reply: body(418, oddError), status: 502, kind: api, stays: true},
		{name: "302", reply: simulator.Reply{Status: 302, Header: http.Header{"Location": {"https://elsewhere.example/"}}}, status: 502, kind: api, stays: true},
		{name: "rejected, served", reply: simulator.Reply{Limits: &simulator.Limits{Windows: windows("5h")}}, status: 200, stays: true, state: out, outFor: 30 * time.Minute},
		{name: "rejected, overage", reply: simulator.Reply{Limits: &simulator.Limits{Overage: "allowed", Windows: windows("5h")}}, status: 200, stays: true},
	}
}

// breaks are connections that fail and answers that don't come whole. closed is
// an address where nobody listens.
func breaks(closed string) []fault {
	const api, late = "api_error", "timeout_error"
	faults := []fault{
		{name: "nobody listens", base: closed, status: 502, kind: api},
		{name: "no TLS there", base: "TLS-SIM", status: 502, kind: api},
		{name: "reset", reply: failing(simulator.Reset, simulator.BeforeHeader, 0), status: 502, kind: api},
		{name: "cut", reply: failing(simulator.Cut, simulator.BeforeHeader, 0), status: 502, kind: api},
		{name: "no header", reply: failing(simulator.Hang, simulator.BeforeHeader, 0), status: 504, kind: late},
		{name: "whole: cut", only: wholes, reply: failing(simulator.Cut, 0, 20), status: 502, kind: api},
		{name: "whole: reset", only: wholes, reply: failing(simulator.Reset, 0, 20), status: 502, kind: api},
		{name: "whole: short", only: wholes, reply: failing(simulator.Truncate, 0, 20), status: 502, kind: api},
		{name: "whole: silence", only: wholes, reply: failing(simulator.Hang, 0, 20), status: 504, kind: late},
		{name: "whole: overloaded in a 200", only: wholes, reply: body(200, `{"type":"error","error":{"type":"overloaded_error","message":"no"}}`), sent: 529, status: 529, kind: "overloaded_error", state: out, outFor: overloadCooldown},
		{name: "whole: HTML", only: wholes, reply: body(200, "<html>hello</html>"), status: 502, kind: api},
		{name: "strange encoding", reply: simulator.Reply{Header: http.Header{"Content-Encoding": {"deflate"}}}, status: 502, kind: api},
		{name: "stream: pings", only: streams, reply: simulator.Reply{Pause: 20 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Pings, After: 1}}, status: 504, kind: late},
	}
	for _, early := range []struct {
		name         string
		after, bytes int
	}{{"at once", 0, 0}, {"in message_start", 0, 40}, {"after message_start", 1, 0}, {"in the block's name", 1, 20}} {
		for kind, f := range map[simulator.FaultKind]fault{
			simulator.Cut:      {name: "cut", status: 502, kind: api},
			simulator.Reset:    {name: "reset", status: 502, kind: api},
			simulator.Truncate: {name: "end", status: 502, kind: api},
			simulator.Hang:     {name: "silence", status: 504, kind: late},
		} {
			f.name, f.only = "stream: "+f.name+" "+early.name, streams
			f.reply = failing(kind, early.after, early.bytes)
			faults = append(faults, f)
		}
	}
	return faults
}

// errorEvents are those of a stream, before its content and in it.
func errorEvents() (faults []fault) {
	for kind, early := range map[string]fault{
		"overloaded_error":      {sent: 529, status: 529, kind: "overloaded_error", state: out, outFor: overloadCooldown},
		"rate_limit_error":      {sent: 429, status: 429, kind: "rate_limit_error", state: out, outFor: rateLimitCooldown},
		"authentication_error":  {sent: 401, status: 502, kind: "api_error", final: true, state: inError},
		"permission_error":      {sent: 403, status: 502, kind: "api_error", final: true, state: outModel, outFor: rateLimitCooldown},
		"billing_error":         {sent: 402, status: 502, kind: "api_error", final: true, state: inError},
		"timeout_error":         {sent: 504, status: 504, kind: "timeout_error"},
		"api_error":             {sent: 500, status: 502, kind: "api_error"},
		"error_of_next_year":    {sent: 500, status: 502, kind: "api_error"},
		"invalid_request_error": {sent: 400, status: 400, kind: "invalid_request_error", stays: true},
	} {
		early.only = streams
		for _, after := range []int{0, 1} {
			early.name, early.reply = "event "+kind+[]string{" first", " after message_start"}[after], errorEvent(kind, after)
			faults = append(faults, early)
		}
		faults = append(faults, fault{name: "event " + kind + " in mid-stream", only: streams, reply: errorEvent(kind, 8), status: 200, kind: kind, broken: true, stays: true})
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
		{"in the first block", 1, 40, false}, {"after the first block's start", 2, 0, false}, {"after a ping", 3, 0, false},
		{"between deltas", 8, 0, false}, {"in an event's name", 8, 9, false}, {"in an event's data", 8, 60, false},
		{"after the last block", 14, 0, false}, {"in message_delta", 14, 60, false}, {"before message_stop", 15, 0, true}, {"in message_stop's name", 15, 15, true},
		{"in message_stop", 15, 30, true},
	} {
		for kind, f := range map[simulator.FaultKind]fault{
			simulator.Cut: {name: "cut", kind: api}, simulator.Truncate: {name: "end", kind: api},
			simulator.Reset: {name: "reset", kind: api}, simulator.Hang: {name: "silence", kind: late},
		} {
			f.name, f.reply = f.name+" "+place.name, failing(kind, place.after, place.bytes)
			f.only, f.status, f.stays, f.broken, f.known = streams, 200, true, true, place.known
			if kind == simulator.Reset { // which may overtake what was sent last
				f.loses, f.reply.Pause = true, 2*time.Millisecond
				if place.after < 3 {
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
