package anthropic

import (
	"bytes"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/sse"
)

// Meter reads a streamed answer as its bytes pass by: what it used, whether
// its content has begun, and how it ended. It parses the few events that carry
// usage and skips the rest by name. The zero value is at the stream's
// beginning.
type Meter struct {
	scanner sse.Scanner
	event   eventKind
	totals  totals

	begun   bool
	done    bool
	whole   bool
	cut     bool // the event at hand has no end
	final   bool
	failure *upstream.Failure

	deltaBytes int64 // bytes of JSON text in the content deltas
}

type eventKind uint8

const (
	other eventKind = iota
	messageStart
	blockStart
	blockDelta
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
	deltaPrefix   = 128     // enough for a delta's type
)

// Feed reads the next bytes of the stream.
func (m *Meter) Feed(p []byte) {
	for m.failure == nil { // nothing counts after an error event
		if data, rest, ok := m.scanner.Whole(p, "content_block_delta"); ok {
			m.countDelta(data, len(data))
			p = rest
			continue
		}
		n, step := m.scanner.Next(p)
		p = p[n:]
		switch step {
		case sse.Begin:
			m.begin()
		case sse.End:
			m.end()
		default:
			return
		}
	}
}

// Finish tells the meter that the stream has ended: an event without its blank
// line counts as whole, as it does for clients, if its data is.
func (m *Meter) Finish() {
	if m.scanner.Finish() == sse.End {
		m.cut = true
		m.end()
	}
}

// Begun tells whether content has begun: the first content block, or a
// message_delta where there is none. Until then nothing should reach a client.
func (m *Meter) Begun() bool { return m.begun }

// Done tells whether message_stop has begun: nothing more will be used, and the
// bytes that make the answer whole are about to go out.
func (m *Meter) Done() bool { return m.done }

// Whole tells whether message_stop has come to its end.
func (m *Meter) Whole() bool { return m.whole }

// Final tells whether upstream has told the output's total: the figures of a
// message_delta, where before there are only those of the beginning.
func (m *Meter) Final() bool { return m.final }

// Failure is what an error event said, nil if there was none.
func (m *Meter) Failure() *upstream.Failure { return m.failure }

// Usage is what was used, as far as upstream has told.
func (m *Meter) Usage() upstream.Usage { return m.totals.usage() }

// AtBoundary tells whether the bytes so far end between two events.
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

// EstimatedUsage is Usage for an answer that broke off: its output is the
// larger of what upstream told and an estimate from the text that went by.
func (m *Meter) EstimatedUsage() upstream.Usage {
	u := m.totals.usage()
	if !m.final {
		u.Output = max(u.Output, m.deltaBytes/bytesPerToken)
	}
	return u
}

// bytesPerToken is the usual size of a token of English text or code.
const bytesPerToken = 4

func (m *Meter) begin() {
	m.event = kindOf(m.scanner.Name())
	switch m.event {
	case messageStart:
		m.scanner.Keep(maxUsageEvent)
	case messageDelta:
		m.begun = true
		m.scanner.Keep(maxUsageEvent)
	case blockStart:
		m.begun = true
	case blockDelta:
		m.scanner.Keep(deltaPrefix)
	case messageStop:
		m.done = true
		m.scanner.Keep(maxStopEvent)
	case streamError:
		m.scanner.Keep(maxErrorEvent)
	case nameless:
		m.scanner.Keep(maxUsageEvent)
	}
}

func (m *Meter) end() {
	if m.scanner.DataLen() == 0 {
		return
	}
	named := m.event
	m.event = kindOf(m.scanner.Name()) // the last name counts
	if named == nameless {
		if m.event == nameless {
			kind := gjson.Get(textOf(m.scanner.Data()), "type")
			m.event = kindOf(bytesOf(kind.Str))
		}
		m.begun = m.begun || m.event == blockStart || m.event == messageDelta
		m.done = m.done || m.event == messageStop
	}
	if m.cut && m.event != blockDelta && !gjson.Valid(textOf(m.scanner.Data())) {
		return // half a total is not the total
	}
	switch m.event {
	case messageStop:
		m.whole = true
	case messageStart:
		m.totals.read(gjson.Get(textOf(m.scanner.Data()), "message.usage"))
	case messageDelta:
		usage := gjson.Get(textOf(m.scanner.Data()), "usage")
		m.totals.read(usage)
		m.final = m.final || usage.Get("output_tokens").Type == gjson.Number
	case blockDelta:
		m.countDelta(m.scanner.Data(), m.scanner.DataLen())
	case streamError:
		m.failure = ReadError(m.scanner.Data())
	}
}

// countDelta counts the output in a content delta by its size, without parsing
// it: data is its beginning, or all of it.
func (m *Meter) countDelta(data []byte, size int) {
	data = data[:min(len(data), deltaPrefix)]
	frame, output := deltaFrame(data)
	if !output || size <= frame {
		return
	}
	size -= frame
	// An escape has two bytes for one of text. What is true of the beginning is
	// taken to be true of the rest.
	seen := max(1, len(data)-frame)
	if escapes := bytes.Count(data, []byte{'\\'}); escapes > 0 {
		size -= size * min(escapes, seen) / seen
	}
	m.deltaBytes += int64(size)
}

// deltaFrame tells by the beginning of a content delta how many of its bytes are
// not text, and whether its text is output: signatures are none.
func deltaFrame(data []byte) (size int, output bool) {
	const (
		start  = `{"type":"content_block_delta","index":0,"delta":`
		member = `{"type":"`
		text   = len(start + member + `text_delta","text":""}}`)
	)
	i := 1 + bytes.IndexByte(data[min(1, len(data)):], '{')
	kind, ok := bytes.CutPrefix(data[i:], []byte(member))
	switch {
	case i == 0, !ok: // spelt in another way
		return text, !bytes.Contains(data, []byte(`gnature_delta"`))
	case bytes.HasPrefix(kind, []byte("thinking_")):
		return len(start + member + `thinking_delta","thinking":""}}`), true
	case bytes.HasPrefix(kind, []byte("input_json_")):
		return len(start + member + `input_json_delta","partial_json":""}}`), true
	}
	return text, !bytes.HasPrefix(kind, []byte("signature_"))
}

func kindOf(name []byte) eventKind {
	switch string(name) {
	case "content_block_delta":
		return blockDelta
	case "content_block_start":
		return blockStart
	case "message_start":
		return messageStart
	case "message_delta":
		return messageDelta
	case "message_stop":
		return messageStop
	case "error":
		return streamError
	case "":
		return nameless
	}
	return other
}
