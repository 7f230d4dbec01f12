package simulator

import (
	"net/http"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// Reply is one answer. The zero value is what the API would say; every field
// changes one thing about it.
type Reply struct {
	// Status of the answer. Default: 200, or what the request's faults earn.
	// From 400 on, the API's error envelope is the body.
	Status int
	// Header is laid over the headers that the API sends: its values replace
	// those of the same name, and a name with no values removes one.
	Header http.Header
	// RetryAfter sets retry-after, in seconds, rounded up. Default: none.
	RetryAfter time.Duration
	// Limits sets the rate limit headers of a subscription.
	Limits *Limits

	// ErrorType, Message and ErrorCode (details.error_code) fill the envelope
	// of an error status. Default: the API's type and a fitting message for
	// the status or code, and no code.
	ErrorType, Message, ErrorCode string

	// Body replaces what would be said, byte for byte: a recorded stream, a
	// page of HTML (BadGatewayHTML). Its content type is that of the request's
	// kind of answer, or text/html where it begins with "<".
	Body []byte
	// Events replace the events of a stream.
	Events []Event
	// Pieces cut the answer again, whatever its events: sizes in bytes of what
	// is written and flushed at once, the last one repeating. A size under 1
	// counts as 1. Default: one piece per event; a Body is one piece.
	Pieces []int
	// Framing changes how a stream's events are written.
	Framing Framing
	// Gzip compresses the answer, asked for or not.
	Gzip bool

	// Text, Thinking, Tool and ToolInput (JSON) are what the model says. A tool
	// call ends the answer with stop_reason tool_use. Default: a sentence about
	// the request; a thought where the request enables thinking; a call of the
	// request's first tool where tool_choice demands one or the last user
	// message says USE_TOOL.
	Text, Thinking, Tool, ToolInput string
	// Deltas is how many text deltas make up the text. Default: by its length.
	// Without a Text, that many words.
	Deltas int
	// Model is named in the answer. Default: the one that was asked for.
	Model string
	// StopReason overrides end_turn, max_tokens or tool_use.
	StopReason string

	// Usage is what the answer reports in the end: all of it, a zero count is
	// reported as zero. The last of the Iterations is reported as type
	// message, those before it as compaction. Default: see Tokens.
	Usage *upstream.Usage
	// StartUsage is what message_start reports, where it differs. Default:
	// Usage with one output token.
	StartUsage *upstream.Usage

	// HeaderDelay passes before the header goes out, FirstDelay between header
	// and body, Pause between two pieces. Waits end with the request or Close.
	HeaderDelay, FirstDelay, Pause time.Duration
	// Fault is how the answer goes wrong. Default: it doesn't.
	Fault Fault

	fixed *answer
}

// Event is one event of a stream.
type Event struct {
	// Name is the event's type; "" leaves the event: line out.
	Name string
	// Data is the payload, written in one data: line.
	Data string
	// Pause passes before the event, on top of the Reply's.
	Pause time.Duration
}

// Framing is how events are written; the zero value is the API's way.
type Framing struct {
	// DataOnly leaves the event: lines out.
	DataOnly bool
	// CRLF ends lines with \r\n.
	CRLF bool
	// Odd varies what the standard leaves open: no blank or several after the
	// colon, blanks at the line's end, comments, id: lines.
	Odd bool
	// Unterminated leaves the blank line after the last event out.
	Unterminated bool
}

// Fault is how, and when, an answer goes wrong.
type Fault struct {
	Kind FaultKind
	// After is how many pieces (events, where the Reply has no Pieces) go out
	// before the fault; BeforeHeader: not even the header. More than there are:
	// after the last. So 1 is between message_start and the first block.
	After int
	// Bytes of the next piece go out as well, to fail in the midst of it.
	Bytes int
	// ErrorType and Message of an ErrorEvent. Default: overloaded_error.
	ErrorType, Message string
	// Size of a HugeLine's payload in bytes, about. Default: 1 MiB. It is made
	// as it is sent and never held.
	Size int64
}

// BeforeHeader is a Fault's After for faults that come before the header.
// Those that need a stream to happen in come right after the header instead.
const BeforeHeader = -1

// FaultKind is what goes wrong.
type FaultKind uint8

// The faults.
const (
	NoFault    FaultKind = iota
	Reset                // the connection is reset (HTTP/2: the stream)
	Cut                  // the connection is closed, the answer plainly unfinished
	Truncate             // the answer ends early, but as if it were complete
	ErrorEvent           // an error event, then the end
	Hang                 // silence until the client leaves or Close
	Pings                // pings and nothing else, Pause (default 1 s) apart
	Endless              // text deltas, Pause apart, that never end
	HugeLine             // one text delta of Size bytes, then on as usual
)

// Limits are the anthropic-ratelimit-unified-* headers of a subscription's
// answer, with any status.
type Limits struct {
	// Status is allowed, allowed_warning or rejected. Default: rejected where
	// a window is, else allowed.
	Status string
	// Claim is the representative claim (five_hour, seven_day_opus, …); ""
	// leaves it out.
	Claim string
	// Reset of the whole. Default: the latest of the rejected windows, else
	// the soonest.
	Reset time.Time
	// Windows, in the order of the headers.
	Windows []Window
	// RFC3339 writes resets as such and not as unix seconds.
	RFC3339 bool
	// Overage is overage-status; OverageReason is overage-disabled-reason.
	Overage, OverageReason string
	// FastReset, where set, is fast mode's own limit: used up until then.
	FastReset time.Time
}

// Window is one window of Limits.
type Window struct {
	// Name in the headers: 5h, 7d, 7d_opus, …
	Name string
	// Status is allowed, allowed_warning or rejected.
	Status string
	Reset  time.Time
	// Utilization is the fraction that is spent; it may pass 1.
	Utilization float64
}
