// Package sse finds events in a byte stream of Server-Sent Events without
// holding the stream: it looks at bytes that pass by, in pieces of any size,
// and keeps only the data that it is told to keep.
package sse

import "bytes"

// Step is why Next stopped.
type Step uint8

const (
	// More: all bytes were read and nothing was completed.
	More Step = iota
	// Begin: an event's name is known, or its data begins without one (the name
	// may still follow). Call Keep now to have its data.
	Begin
	// Part: a part of the event's data was read; see Part. Only for events whose
	// parts were asked for.
	Part
	// End: the event is complete: Name, Data and DataLen are valid until the
	// next call of Next.
	End
)

// maxName bounds the names that are kept; longer ones are cut. The longest name
// in use has 19 bytes (content_block_delta).
const maxName = 64

// maxReused bounds the buffer that is kept from one event to the next, so that
// one large event does not cost memory for the rest of a stream.
const maxReused = 16 << 10

type place uint8

const (
	atLineStart place = iota
	inField           // in a field's name
	beforeValue       // after the colon: one space may follow
	inValue
)

type field uint8

const (
	ignored field = iota
	name
	data
)

// Scanner follows one stream. The zero value is at its beginning.
//
// Lines end with LF, CR LF or CR, as the specification says. A line may be of
// any length: what is not kept costs no memory.
type Scanner struct {
	place place
	field field
	// afterCR: the last byte was a CR that ended a line; an LF right after it
	// belongs to it.
	afterCR bool
	began   bool // Begin was returned for the event at hand
	hasData bool
	ended   bool // the last step was End: the event's state is to be dropped

	prefix    [8]byte // of a field's name
	prefixLen int
	name      [maxName]byte
	nameLen   int
	keep      int
	data      []byte
	dataLen   int
	parts     bool   // the event's parts were asked for
	part      []byte // the last one
}

// Keep asks for the first n bytes of the data of the event at hand. It is
// forgotten when the event ends.
func (s *Scanner) Keep(n int) { s.keep = n }

// Parts asks for the data of the event at hand as it is read: Next stops with
// Part after each part of a line. It is forgotten when the event ends.
func (s *Scanner) Parts() { s.parts = true }

// Part is what Next read last of the event's data, valid as long as the bytes
// that Next was given. The LF between two lines of data is in none.
func (s *Scanner) Part() []byte { return s.part }

// Name is the event's name, "" if it has none (yet).
func (s *Scanner) Name() []byte { return s.name[:s.nameLen] }

// Data is the event's data as far as it was kept, its lines joined by LF.
func (s *Scanner) Data() []byte { return s.data }

// DataLen is the length of the event's data in bytes, kept or not.
func (s *Scanner) DataLen() int { return s.dataLen }

// AtBoundary reports whether the bytes so far end between events: other events
// may be put in here.
func (s *Scanner) AtBoundary() bool {
	return s.place == atLineStart && (!s.open() || s.ended)
}

// Next reads p up to the next step and returns how many bytes it has read.
// Call it again with the rest until it returns More.
func (s *Scanner) Next(p []byte) (n int, step Step) {
	if s.ended {
		s.reset()
	}
	for n < len(p) {
		if s.afterCR {
			s.afterCR = false
			if p[n] == '\n' {
				n++
				continue
			}
		}
		if s.place == atLineStart && s.fastField(p[n:], &n) {
			continue
		}
		switch s.place {
		case atLineStart, inField:
			s.readField(p, &n)
		case beforeValue:
			if p[n] == ' ' {
				n++
			}
			s.place = inValue
			if s.field == data {
				if s.hasData {
					s.add([]byte{'\n'})
				}
				s.hasData = true
			}
		case inValue:
			if s.readValue(p, &n) {
				return n, Part
			}
		}
		if step := s.step(); step != More {
			return n, step
		}
	}
	return n, More
}

// Whole reads one whole event from the front of p, if it is framed as the API
// frames nearly all of them, and begins there: an event line of that name, one
// line of data, a blank line, all ended by LF. It returns the data and the
// bytes after the event. Where it does not match, nothing was read: call Next.
func (s *Scanner) Whole(p []byte, name string) (data, rest []byte, ok bool) {
	const event, field = "event: ", "\ndata: "
	start := len(event) + len(name) + len(field)
	if len(p) < start+2 || !s.AtBoundary() || s.afterCR ||
		string(p[:len(event)]) != event || string(p[len(event):len(event)+len(name)]) != name ||
		string(p[start-len(field):start]) != field {
		return nil, nil, false
	}
	n := bytes.IndexByte(p[start:], '\n')
	if n < 0 || start+n+1 >= len(p) || p[start+n+1] != '\n' {
		return nil, nil, false
	}
	data = p[start : start+n]
	if bytes.IndexByte(data, '\r') >= 0 {
		return nil, nil, false
	}
	return data, p[start+n+2:], true
}

// RestOfEnd returns how many bytes at the front of p still belong to the blank
// line of the event that was completed last: 1 for the LF of a CR LF whose CR
// completed it, else 0.
func (s *Scanner) RestOfEnd(p []byte) int {
	if !s.afterCR || len(p) == 0 {
		return 0
	}
	s.afterCR = false
	if p[0] == '\n' {
		return 1
	}
	return 0
}

// Finish returns what the end of the stream completes: End for an event whose
// blank line never came, else More.
func (s *Scanner) Finish() Step {
	if s.ended || !s.open() {
		return More
	}
	s.ended = true
	return End
}

// open reports whether there is an event at hand.
func (s *Scanner) open() bool { return s.hasData || s.nameLen > 0 }

// step returns what the bytes read last have completed.
func (s *Scanner) step() Step {
	switch {
	case s.ended:
		return End
	case s.began || !s.open():
		return More
	case s.hasData || s.nameLen > 0 && s.place == atLineStart:
		s.began = true
		return Begin
	}
	return More
}

// fastField recognises the two fields that nearly all lines begin with, where
// they lie whole in p.
func (s *Scanner) fastField(p []byte, n *int) bool {
	switch {
	case len(p) > 5 && string(p[:5]) == "data:":
		s.field, s.place = data, beforeValue
		*n += 5
		return true
	case len(p) > 6 && string(p[:6]) == "event:":
		s.field, s.place = name, beforeValue
		s.nameLen = 0
		*n += 6
		return true
	}
	return false
}

// readField reads a field's name up to its colon or the end of the line.
func (s *Scanner) readField(p []byte, n *int) {
	if s.place == atLineStart {
		if c := p[*n]; c == '\n' || c == '\r' { // a blank line ends the event
			s.afterCR = c == '\r'
			*n++
			s.ended = s.open()
			return
		}
		s.place, s.prefixLen = inField, 0
	}
	for *n < len(p) {
		c := p[*n]
		*n++
		switch c {
		case ':':
			s.field = s.fieldNamed()
			s.place = beforeValue
			if s.field == name {
				s.nameLen = 0
			}
			return
		case '\n', '\r': // a field without a value: "data" is an empty line of data
			s.afterCR = c == '\r'
			s.place = atLineStart
			if s.fieldNamed() == data {
				if s.hasData {
					s.add([]byte{'\n'})
				}
				s.hasData = true
			}
			return
		}
		if s.prefixLen < len(s.prefix) {
			s.prefix[s.prefixLen] = c
		}
		s.prefixLen++
	}
}

func (s *Scanner) fieldNamed() field {
	if s.prefixLen > len(s.prefix) {
		return ignored
	}
	switch string(s.prefix[:s.prefixLen]) {
	case "data":
		return data
	case "event":
		return name
	}
	return ignored
}

// readValue reads a value up to the end of its line or of p. It reports whether
// that was a part of the data that was asked for.
func (s *Scanner) readValue(p []byte, n *int) (part bool) {
	rest := p[*n:]
	end := bytes.IndexByte(rest, '\n')
	line := rest
	if end >= 0 {
		line = rest[:end]
	}
	if cr := bytes.IndexByte(line, '\r'); cr >= 0 {
		end, line = cr, rest[:cr]
	}
	switch s.field {
	case data:
		s.add(line)
		s.part = line
		part = s.parts && len(line) > 0
	case name:
		s.nameLen += copy(s.name[s.nameLen:], line)
	}
	*n += len(line)
	if end < 0 {
		return part
	}
	s.afterCR = rest[end] == '\r'
	*n++
	s.place = atLineStart
	return part
}

func (s *Scanner) add(b []byte) {
	s.dataLen += len(b)
	if room := s.keep - len(s.data); room > 0 {
		s.data = append(s.data, b[:min(room, len(b))]...)
	}
}

func (s *Scanner) reset() {
	s.began, s.hasData, s.ended, s.parts = false, false, false, false
	s.nameLen, s.keep, s.dataLen = 0, 0, 0
	if cap(s.data) > maxReused {
		s.data = nil
	}
	s.data = s.data[:0]
}
