package anthropic

import (
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/sse"
)

// Meter reads a streamed answer as its bytes pass by: whether its content has
// begun, where and how it ended, and what it used. It parses the few events that
// carry usage and measures the others. The zero value is at the stream's
// beginning.
//
// Nothing that it reports depends on how the stream was cut into pieces.
type Meter struct {
	// KeepModel has Reading tell the model that the answer names.
	KeepModel bool

	model   string
	scanner sse.Scanner
	event   eventKind // by the name so far
	judged  bool      // the event at hand was too large to be empty
	sizer   sizer
	totals  totals
	size    size

	started  bool // a message_start has come
	reported bool
	content  bool // a block or a delta has come
	opened   bool
	begun    bool
	done     bool
	whole    bool
	cut      bool // the event at hand has no end
	final    bool // upstream has told the output's total, and nothing was written since
	ended    bool // what comes now is no part of the answer
	failure  *upstream.Failure

	inBlock bool          // a block has begun and not ended
	heard   time.Duration // when an event that is no ping came last
	silent  time.Duration // how long there was nothing but pings in blocks
}

type eventKind uint8

const (
	other eventKind = iota
	pingEvent
	messageStart
	blockStart
	blockDelta
	blockStop
	messageDelta
	messageStop
	streamError
	nameless // its type stands in its data
)

// How many bytes of an event's data are kept.
const (
	maxUsageEvent = 1 << 20 // message_start, message_delta; real ones stay under 2 kB
	maxErrorEvent = 64 << 10
	maxStopEvent  = 1 << 10 // real ones have 23 bytes
	// maxEmpty is how large an event may be without content: the start of an empty
	// block has some 150 bytes.
	maxEmpty = 1 << 10
)

// Hidden thinking is not sent, but billed: while it lasts, only pings come.
const (
	silentTokensPerSecond = 30
	// minSilence is the silence that is no mere gap between two deltas.
	minSilence = time.Second
)

// Feed reads the next bytes of the stream, which came at now, on any clock that
// never goes back. It returns how many of them belong to the answer: all of them up
// to the end of message_stop or of an error event, and none after it.
//
// Silence is measured by now. A clock that stands still while the caller is not
// reading keeps a slow client from looking like a silent upstream.
func (m *Meter) Feed(p []byte, now time.Duration) (n int) {
	rest := p
	for !m.ended {
		if data, after, ok := m.scanner.Whole(rest, "content_block_delta"); ok {
			m.wholeDelta(data, now)
			rest = after
			continue
		}
		n, step := m.scanner.Next(rest)
		rest = rest[n:]
		switch step {
		case sse.Begin:
			m.begin(now)
		case sse.Part:
			m.part(now)
		case sse.End:
			m.end(now)
		default:
			return len(p)
		}
	}
	rest = rest[m.scanner.RestOfEnd(rest):]
	return len(p) - len(rest)
}

// Finish says that the stream has ended: an event without its blank line counts
// as whole, as it does for clients, if its data is.
func (m *Meter) Finish() {
	if !m.ended && m.scanner.Finish() == sse.End {
		m.cut = true
		m.end(m.heard)
	}
}

// Reported reports whether upstream has sent anything that may be billed: any
// event but pings and errors.
func (m *Meter) Reported() bool { return m.reported }

// Opened reports whether a content block has begun, be it empty, or anything
// else that ends the wait for the first content.
func (m *Meter) Opened() bool { return m.opened }

// Begun reports whether content has begun: a block that carries any, the next
// event that is no ping after a block that began empty, a message_delta or
// message_stop. Until then nothing should reach a client, and an error is a
// Failure and no content. An event counts when it is whole, a large one when 1 KiB
// of its data has come.
func (m *Meter) Begun() bool { return m.begun }

// Done reports whether message_stop has begun: nothing more will be used, and
// the bytes that make the answer whole are about to go out.
func (m *Meter) Done() bool { return m.done }

// Whole reports whether message_stop has come to its end.
func (m *Meter) Whole() bool { return m.whole }

// Failure is what an error event said, nil if there was none.
func (m *Meter) Failure() *upstream.Failure { return m.failure }

// AtBoundary reports whether the bytes so far end between two events.
func (m *Meter) AtBoundary() bool { return m.scanner.AtBoundary() }

// Seal returns what must come before an event that is put in after the bytes so
// far, "" between two events. Whole lines are completed to an event. Half a line
// can't be taken back: it is ended, and its event renamed to a ping, whose data
// the SDKs don't read, so that none takes half an event for a whole one or trips
// over its JSON.
func (m *Meter) Seal() string {
	if m.scanner.AtBoundary() {
		return ""
	}
	return "\nevent: ping\n\n"
}

// Reading is what is to be billed if the answer ends now, be it whole or broken
// off: what upstream told, and an estimate of what it did not tell. It is zero
// while upstream has sent nothing.
//
// An answer is estimated unless upstream told the output's total after all
// content. A whole answer without any content is not.
func (m *Meter) Reading(now time.Duration, b Bounds) Reading {
	r := m.reading(now, b)
	r.Model = m.model
	return r
}

func (m *Meter) reading(now time.Duration, b Bounds) Reading {
	switch {
	case !m.reported:
		return Reading{}
	case m.final && m.totals.whole(), !m.content && (m.final || m.done):
		return m.totals.told(b)
	}
	written := m.size
	if m.event == blockStart || m.event == blockDelta {
		written.add(m.sizer.size) // of the event at hand
	}
	silent := m.silent
	if !m.ended {
		silent += m.silence(now)
	}
	return m.totals.estimated(written.tokens()+int64(silent*silentTokensPerSecond/time.Second), b)
}
