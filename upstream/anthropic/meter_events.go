package anthropic

import (
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// begin takes in that an event's name is known, or its data begins without one.
func (m *Meter) begin(now time.Duration) {
	m.event, m.judged, m.sizer = kindOf(m.scanner.Name()), false, sizer{}
	switch m.event {
	case messageStart, messageDelta:
		m.scanner.Keep(maxUsageEvent)
	case blockStart, blockDelta:
		m.scanner.Parts()
		if !m.begun {
			m.scanner.Keep(maxEmpty)
		}
	case messageStop:
		m.done = true
		m.scanner.Keep(maxStopEvent)
	case streamError:
		m.scanner.Keep(maxErrorEvent)
	case nameless:
		m.scanner.Parts()
		m.scanner.Keep(maxUsageEvent)
	}
	m.hear(m.event, now)
}

// part takes in a part of the data of a block, a delta or a nameless event.
func (m *Meter) part(now time.Duration) {
	m.sizer.feed(m.scanner.Part())
	m.hear(m.event, now)
	if m.judged {
		return
	}
	kind := m.event
	if kind == nameless {
		data := m.scanner.Data()
		kind = typeOf(data[:min(len(data), maxEmpty)])
		m.done = m.done || kind == messageStop
	}
	if m.scanner.DataLen() > maxEmpty {
		m.judged = true
		m.counts(kind, false)
	}
}

// end takes in that an event is complete.
func (m *Meter) end(now time.Duration) {
	written := m.sizer.size
	m.event, m.sizer.size = other, size{}
	data := m.scanner.Data()
	if m.scanner.DataLen() == 0 {
		return
	}
	kind := kindOf(m.scanner.Name()) // the last name counts
	if kind == nameless {
		if kind = typeOf(data); kind == nameless {
			kind = other
		}
	}
	if kind == blockStart || kind == blockDelta {
		m.size.add(written)
		m.final = false
	}
	if m.cut && (len(data) < m.scanner.DataLen() || !gjson.Valid(textOf(data))) {
		return // half a total is not the total
	}
	m.hear(kind, now)
	m.ended = endsAnswer(kind)
	m.counts(kind, kind == blockStart && !m.begun && beginsEmpty(gjson.Get(textOf(data), "content_block")))
	switch kind {
	case messageStop:
		m.done, m.whole = true, true
	case messageStart:
		m.readStart(gjson.Get(textOf(data), "message.usage"))
		if m.KeepModel && m.model == "" {
			m.model = strings.Clone(gjson.Get(textOf(data), "message.model").String())
		}
	case messageDelta:
		usage := gjson.Get(textOf(data), "usage")
		m.final = m.totals.read(usage) || m.final
	case streamError:
		m.failure = ReadError(data)
	}
}

// wholeDelta takes in a content_block_delta that lies whole in the bytes at hand.
func (m *Meter) wholeDelta(data []byte, now time.Duration) {
	if len(data) == 0 {
		return
	}
	var z sizer
	z.feed(data)
	m.size.add(z.size)
	m.final = false
	m.hear(blockDelta, now)
	m.counts(blockDelta, false)
}

func (m *Meter) readStart(usage gjson.Result) {
	if m.started {
		m.totals.readAgain(usage)
		return
	}
	m.started = true
	m.totals.read(usage)
}

// counts decides what an event means for whether content has begun. empty is
// about the start of a block.
func (m *Meter) counts(kind eventKind, empty bool) {
	switch kind {
	case pingEvent, streamError, nameless:
		return
	case blockStart:
		m.begun = m.begun || m.opened || !empty
		m.opened, m.content = true, true
	case blockDelta:
		m.opened, m.begun, m.content = true, true, true
	case messageDelta, messageStop:
		m.opened, m.begun = true, true
	default:
		m.begun = m.begun || m.opened
	}
	m.reported = true
}

// hear takes in that an event has come, or is coming, which ends a silence if it
// is no ping.
func (m *Meter) hear(kind eventKind, now time.Duration) {
	switch kind {
	case pingEvent, nameless: // what has no name may still be a ping
		return
	}
	m.silent += m.silence(now)
	m.heard = now
	switch kind {
	case blockStart, blockDelta:
		m.inBlock = true
	case blockStop, messageDelta, messageStop:
		m.inBlock = false
	}
}

// silence is how long nothing but pings has come in the block at hand.
func (m *Meter) silence(now time.Duration) time.Duration {
	if silence := now - m.heard; m.inBlock && silence >= minSilence {
		return silence
	}
	return 0
}

// endsAnswer reports whether an event of that kind, if it has data, is the answer's
// last.
func endsAnswer(kind eventKind) bool { return kind == messageStop || kind == streamError }

// typeOf returns the kind of a nameless event by its data, which may be incomplete.
func typeOf(data []byte) eventKind {
	kind := gjson.Get(textOf(data), "type")
	if len(kind.Raw) < 2 || !strings.HasSuffix(kind.Raw, `"`) {
		return nameless // not there yet
	}
	return kindOf(bytesOf(kind.Str))
}

func kindOf(name []byte) eventKind {
	switch string(name) {
	case "content_block_delta":
		return blockDelta
	case "content_block_start":
		return blockStart
	case "content_block_stop":
		return blockStop
	case "message_start":
		return messageStart
	case "message_delta":
		return messageDelta
	case "message_stop":
		return messageStop
	case "ping":
		return pingEvent
	case "error":
		return streamError
	case "":
		return nameless
	}
	return other
}
