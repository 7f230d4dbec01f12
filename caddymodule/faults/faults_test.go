package faults_test

import (
	"net/http"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// accountState is what becomes of an account.
type accountState uint8

const (
	in        accountState = iota // it is asked first again
	last                          // after a spare account, for its model and speed; other requests first
	lastModel                     // so at whatever speed
	lastAll                       // after a spare account, for everything
	denied                        // lastModel, until the gateway has asked it itself
	out                           // it serves none, for fault.outFor
	outOpus                       // it serves models of other families
	outFast                       // it serves requests that are not in fast mode
	outMonth                      // it serves none until the month ends, UTC
	inError                       // it serves none, until the gateway asks it again
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
	noMore bool          // not tried on the same account either, whatever its kind
	state  accountState
	// lasts is how long the account comes last; 0 = 5 s. outFor is how long it is out.
	lasts, outFor time.Duration
	// broken: it breaks off after content has come, and the client gets an error
	// event; known: upstream had told the total by then.
	// loses: what was sent last may not have arrived.
	broken, known, loses bool
	// use is what the record must say of an answer that is no broken one, where that
	// is not what spoken used.
	use *wantRecord
}

const (
	overloadCooldown  = 2 * time.Minute
	rateLimitCooldown = 7 * time.Minute
	firstDemotion     = 5 * time.Second
	absentLasts       = 10 * time.Minute
	errorRetry        = 11 * time.Minute
	both              = ""
	streams           = "stream"
	wholes            = "whole"
)

// oddError is an error body that would change if it were encoded again.
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

// refusals are answers with an error status.
func refusals() []fault {
	const api = "api_error"
	withHeader := func(status int, header http.Header) simulator.Reply {
		r := body(status, oddError)
		r.Header = header
		return r
	}
	pages := func(status int) simulator.Reply { return body(status, "<html><h1>upstream is away</h1></html>") }
	notFound := strings.Replace(oddError, "invalid_request_error", "not_found_error", 1)
	return append(limits(), []fault{
		{name: "400", reply: body(400, oddError), status: 400, stays: true},
		{name: "400 with retry-after", reply: withHeader(400, http.Header{"Retry-After": {"7"}, "X-Should-Retry": {"true"}}), status: 400, after: 7 * time.Second, stays: true},
		{name: "400 with a long retry-after", reply: withHeader(400, http.Header{"Retry-After": {"7200"}}), status: 400, after: 2 * time.Hour, final: true, stays: true},
		{name: "400 about a beta", reply: simulator.Reply{Status: 400, Message: "Unexpected value(s) `x-1` for the `anthropic-beta` header"}, status: 400, kind: "invalid_request_error", stays: true},
		{name: "404 not_found_error", reply: body(404, notFound), status: 404, state: lastModel, lasts: absentLasts},
		{name: "404 of another type", reply: body(404, oddError), status: 404, stays: true},
		{name: "404 without an error", reply: body(404, `{"detail":"Not Found"}`), status: 404, stays: true},
		{name: "404 page", reply: pages(404), status: 404, stays: true},
		{name: "413", reply: body(413, "<html>too large</html>"), status: 413, stays: true},
		{name: "422", reply: body(422, oddError), status: 422, stays: true},
		{name: "400 credit", reply: simulator.Reply{Status: 400, Message: simulator.CreditBalanceTooLow}, status: 502, kind: api, final: true, state: denied},
		{name: "400 hold", reply: simulator.Reply{Status: 400, ErrorCode: "organization_on_hold"}, status: 502, kind: api, final: true, state: denied},
		{name: "401", reply: simulator.Reply{Status: 401}, status: 502, kind: api, final: true, state: denied},
		{name: "402", reply: simulator.Reply{Status: 402}, status: 502, kind: api, final: true, state: denied},
		{name: "403", reply: simulator.Reply{Status: 403}, status: 502, kind: api, final: true, state: denied},
		{name: "403 page", reply: pages(403), status: 502, kind: api, final: true, state: denied},
		{name: "403 fast", reply: simulator.Reply{Status: 403}, fast: true, status: 502, kind: api, final: true, state: denied},
		{name: "403 not to be retried", reply: withHeader(403, http.Header{"X-Should-Retry": {"false"}}), status: 502, kind: api, final: true, noMore: true, state: denied},
		{name: "408", reply: simulator.Reply{Status: 408}, status: 502, kind: api, state: last},
		{name: "409", reply: simulator.Reply{Status: 409}, status: 502, kind: api, state: last},
		{name: "500", reply: simulator.Reply{Status: 500}, status: 502, kind: api, state: last},
		{name: "500 not to be retried", reply: withHeader(500, http.Header{"X-Should-Retry": {"false"}}), status: 502, kind: api, noMore: true, state: last},
		{name: "502 HTML", reply: simulator.Reply{Status: 502, Body: []byte(simulator.BadGatewayHTML)}, status: 502, kind: api, state: last},
		{name: "503", reply: simulator.Reply{Status: 503}, status: 502, kind: api, state: last},
		{name: "503 page", reply: pages(503), status: 502, kind: api, state: last},
		{name: "504", reply: simulator.Reply{Status: 504}, status: 504, kind: "timeout_error", state: last},
		{name: "504 page", reply: pages(504), status: 504, kind: "timeout_error", state: last},
		{name: "520 page", reply: pages(520), status: 502, kind: api, state: last},
		{name: "524 page", reply: pages(524), status: 502, kind: api, state: last},
		{name: "529", reply: simulator.Reply{Status: 529}, status: 529, kind: "overloaded_error", state: last},
		{name: "529 fast", reply: simulator.Reply{Status: 529}, fast: true, status: 529, kind: "overloaded_error", state: last},
		{name: "529 gzip", reply: simulator.Reply{Status: 529, Gzip: true}, status: 529, kind: "overloaded_error", state: last},
		{name: "529 with retry-after", reply: simulator.Reply{Status: 529, RetryAfter: 90 * time.Second}, status: 529, kind: "overloaded_error", after: 90 * time.Second, final: true, state: last, lasts: 90 * time.Second},
		{name: "529 with a long retry-after", reply: simulator.Reply{Status: 529, RetryAfter: time.Hour}, status: 529, kind: "overloaded_error", after: time.Hour, final: true, state: last, lasts: overloadCooldown},
		{name: "529 with retry-after 0", reply: simulator.Reply{Status: 529, Header: http.Header{"Retry-After": {"0"}}}, status: 529, kind: "overloaded_error"},
		{name: "418", reply: body(418, oddError), status: 502, kind: api, stays: true},
		{name: "302", reply: simulator.Reply{Status: 302, Header: http.Header{"Location": {"https://elsewhere.example/"}}}, status: 502, kind: api, stays: true},
	}...)
}

// limits are 429s, and a 200 that tells of a window that is spent.
func limits() []fault {
	hour := time.Now().Add(time.Hour).Truncate(time.Second)
	half := hour.Add(-30 * time.Minute)
	windows := func(names ...string) (ws []simulator.Window) {
		for i, name := range names {
			ws = append(ws, simulator.Window{Name: name, Status: "rejected", Reset: half.Add(time.Duration(i) * 30 * time.Minute)})
		}
		return ws
	}
	allowed := []simulator.Window{{Name: "5h", Status: "allowed", Reset: hour}}
	past := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	const rate = "rate_limit_error"
	return []fault{
		{name: "429 without a word", reply: simulator.Reply{Status: 429}, status: 429, kind: rate, state: last},
		{name: "429 burst", reply: simulator.Reply{Status: 429, RetryAfter: 8 * time.Second, Limits: &simulator.Limits{Claim: "five_hour", Windows: allowed}},
			status: 429, kind: rate, after: 8 * time.Second, state: last, lasts: 8 * time.Second},
		{name: "429 ramp", reply: simulator.Reply{Status: 429, ErrorCode: "ramp_limit_exceeded", RetryAfter: 20 * time.Second}, status: 429, kind: rate, after: 20 * time.Second, state: last, lasts: 20 * time.Second},
		{name: "429 long retry-after", reply: simulator.Reply{Status: 429, RetryAfter: 2 * time.Hour}, status: 429, kind: rate, after: 2 * time.Hour, final: true, state: last, lasts: rateLimitCooldown},
		{name: "429 retry-after 0", reply: simulator.Reply{Status: 429, Header: http.Header{"Retry-After": {"0"}}}, status: 429, kind: rate},
		{name: "429 retry-after past", reply: simulator.Reply{Status: 429, Header: http.Header{"Retry-After": {past}}}, status: 429, kind: rate},
		{name: "429 retry-after unreadable", reply: simulator.Reply{Status: 429, Header: http.Header{"Retry-After": {"soon"}}}, status: 429, kind: rate, state: last},
		{name: "429 overage", reply: limited(simulator.Limits{Status: "rejected", Claim: "overage", Reset: hour, Overage: "rejected"}), status: 429, kind: rate, state: last},
		{name: "429 overage, windows allowed", reply: limited(simulator.Limits{Status: "rejected", Claim: "overage", Reset: hour, Overage: "rejected", Windows: allowed}), status: 429, kind: rate, state: last},
		{name: "429 five-hour window", reply: limited(simulator.Limits{Claim: "five_hour", Windows: windows("5h")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: out, outFor: 30 * time.Minute},
		{name: "429 seven-day window", reply: limited(simulator.Limits{Claim: "seven_day", Windows: windows("7d")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: out, outFor: 30 * time.Minute},
		{name: "429 two windows", reply: limited(simulator.Limits{Claim: "five_hour", Reset: half, Windows: windows("5h", "7d")}), status: 429, kind: rate, after: time.Hour, final: true, state: out, outFor: time.Hour},
		{name: "429 window and family", reply: limited(simulator.Limits{Claim: "seven_day", Windows: windows("7d_opus", "7d")}), status: 429, kind: rate, after: time.Hour, final: true, state: out, outFor: time.Hour},
		{name: "429 window, retry-after shorter", reply: simulator.Reply{Status: 429, RetryAfter: 3 * time.Second, Limits: &simulator.Limits{Claim: "five_hour", Windows: windows("5h")}},
			status: 429, kind: rate, after: 30 * time.Minute, final: true, state: out, outFor: 30 * time.Minute},
		{name: "429 RFC 3339", reply: limited(simulator.Limits{Claim: "seven_day", RFC3339: true, Windows: windows("7d")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: out, outFor: 30 * time.Minute},
		{name: "429 opus", reply: limited(simulator.Limits{Claim: "seven_day_opus", Windows: windows("7d_opus")}), status: 429, kind: rate, after: 30 * time.Minute, final: true, state: outOpus, outFor: 30 * time.Minute},
		{name: "429 fast", reply: limited(simulator.Limits{FastReset: hour}), fast: true, status: 429, kind: rate, after: time.Hour, final: true, state: outFast, outFor: time.Hour},
		{name: "429 spend", reply: simulator.Reply{Status: 429, ErrorCode: "enforced_spend_limit_reached"}, status: 429, kind: rate, state: outMonth},
		{name: "429 contract", reply: simulator.Reply{Status: 429, ErrorCode: "contract_spend_limit_reached"}, status: 429, kind: rate, state: outMonth},
		{name: "rejected, served", reply: simulator.Reply{Limits: &simulator.Limits{Windows: windows("5h")}}, status: 200, stays: true, state: out, outFor: 30 * time.Minute},
		{name: "rejected, overage", reply: simulator.Reply{Limits: &simulator.Limits{Overage: "allowed", Windows: windows("5h")}}, status: 200, stays: true},
	}
}
