package anthropic

import (
	"bytes"

	"github.com/tidwall/gjson"
)

// size is how much a model wrote, in bytes: of text, thinking and a tool's
// arguments, escapes undone; and of what only upstream can read, signatures and
// encrypted thinking. What server tools found is none of it: that is input.
type size struct{ text, sealed int64 }

// Bytes of what a model wrote in a token: the usual size of a token of English
// text or code, and about what signatures were seen to have for one of thinking.
const (
	textPerToken   = 4
	sealedPerToken = 6
)

func (s size) tokens() int64 { return s.text/textPerToken + s.sealed/sealedPerToken }

func (s *size) add(other size) {
	s.text += other.text
	s.sealed += other.sealed
}

// contentPart says which part of a size a member of a content block or delta
// belongs to.
type contentPart uint8

const (
	noPart contentPart = iota
	textPart
	sealedPart
	argumentsPart // JSON, counted as it is
)

// partOf returns the part of a member. Of `content`, what compaction wrote is
// text, and what a tool found is nothing.
func partOf(key []byte, compaction bool) contentPart {
	switch string(key) {
	case "text", "thinking", "partial_json":
		return textPart
	case "content":
		if compaction {
			return textPart
		}
	case "signature", "data":
		return sealedPart
	case "input":
		return argumentsPart
	}
	return noPart
}

// sizeOfBlock measures a whole content block.
func sizeOfBlock(block gjson.Result) (s size) {
	compaction := block.Get("type").Str == "compaction"
	block.ForEach(func(key, v gjson.Result) bool {
		switch part := partOf(bytesOf(key.Str), compaction); {
		case part == argumentsPart && v.IsObject():
			s.text += int64(len(v.Raw) - len("{}"))
		case v.Type != gjson.String:
		case part == textPart, part == argumentsPart:
			s.text += int64(len(v.Str))
		case part == sealedPart:
			s.sealed += int64(len(v.Str))
		}
		return true
	})
	return s
}

// beginsEmpty reports whether a content block carries nothing yet but what it
// is: its text and arguments, if it has such members, are empty.
func beginsEmpty(block gjson.Result) bool {
	empty := true
	block.ForEach(func(key, v gjson.Result) bool {
		switch {
		case key.Str == "type", key.Str == "id", key.Str == "name", key.Str == "caller",
			key.Str == "tool_use_id", key.Str == "server_name", key.Str == "cache_control":
		case v.Type == gjson.String:
			empty = v.Str == ""
		case v.Type == gjson.JSON:
			empty = len(bytes.TrimSpace(bytesOf(v.Raw[1:max(1, len(v.Raw)-1)]))) == 0
		}
		return empty
	})
	return empty
}

// outerMember is what a member of an event is, as far as sizer cares.
type outerMember uint8

const (
	anyMember outerMember = iota
	deltaMember
	blockMember
)

// sizer measures the content_block_start and content_block_delta events of a
// stream as their JSON passes by, in parts of any size, without keeping it. The
// zero value is at the beginning of an event.
type sizer struct {
	size  size // of the event so far
	begun bool
	depth int // of open brackets

	outer  outerMember // the event's member at hand
	inside bool        // in the object that is the block or the delta
	inner  contentPart // what the member at hand of that object belongs to

	keyNext   bool // the next string is a key
	inString  bool
	inKey     bool
	key       [16]byte
	keyLen    int
	unescaper unescaper
}

// feed measures the next part of an event's data.
func (z *sizer) feed(p []byte) {
	if !z.begun {
		z.begun = true
		for i := range frames {
			if whole, ok := frames[i].measure(p); ok {
				z.size = whole
				return
			}
		}
	}
	for i := 0; i < len(p); {
		if z.inString {
			n := z.string(p[i:])
			if z.inArguments() {
				z.size.text += int64(n)
			}
			i += n
			continue
		}
		z.structure(p[i])
		i++
	}
}

// inArguments reports whether the bytes at hand are those of a tool's arguments,
// inside of their braces.
func (z *sizer) inArguments() bool {
	return z.depth > 2 && z.inside && z.inner == argumentsPart
}

// structure takes in a byte outside of strings.
func (z *sizer) structure(c byte) {
	inArguments := z.inArguments()
	switch c {
	case '"':
		z.inString, z.inKey = true, z.keyNext
		if z.inKey {
			z.keyLen = 0
		}
	case '{', '[':
		z.depth++
		switch {
		case z.depth == 2:
			z.inside, z.inner = c == '{' && z.outer != anyMember, noPart
		case z.depth == 3 && c == '[' && z.inner == argumentsPart:
			z.inner = noPart // arguments are an object
		}
		z.keyNext = c == '{' && z.keysMatter()
	case '}', ']':
		if z.depth <= 1 {
			*z = sizer{size: z.size, begun: true} // what follows is none of it
			return
		}
		z.depth--
		z.inside = z.inside && z.depth >= 2
		z.keyNext = false
	case ',':
		z.keyNext = z.keysMatter()
	case ':':
		switch {
		case z.depth == 1:
			z.outer = outerMemberOf(z.key[:z.keyLen])
		case z.depth == 2 && z.inside:
			z.inner = partOf(z.key[:z.keyLen], z.outer == deltaMember)
		}
		z.keyNext = false
	}
	if inArguments && z.inArguments() {
		z.size.text++
	}
}

func (z *sizer) keysMatter() bool { return z.depth == 1 || z.depth == 2 && z.inside }

func outerMemberOf(key []byte) outerMember {
	switch string(key) {
	case "delta":
		return deltaMember
	case "content_block":
		return blockMember
	}
	return anyMember
}

// string takes in the bytes of a string up to its closing quote, or all there
// are, and returns how many.
func (z *sizer) string(p []byte) int {
	n, size, closed := z.unescaper.next(p)
	z.inString = !closed
	switch {
	case z.inKey:
		key := p[:n]
		if closed {
			key = p[:n-1]
		}
		z.keyLen += copy(z.key[z.keyLen:], key)
	case z.depth != 2 || !z.inside:
	case z.inner == textPart, z.inner == argumentsPart:
		z.size.text += int64(size)
	case z.inner == sealedPart:
		z.size.sealed += int64(size)
	}
	return n
}

// unescaper counts the bytes of a JSON string without its escapes. The zero value
// is after the opening quote.
type unescaper struct {
	at  uint8 // in an escape: 1 after the backslash, 2 to 5 before a hex digit
	hex uint16
}

// next reads p up to and with the closing quote, or all of it. It returns how many
// bytes those are, and how many they stand for without escapes.
func (u *unescaper) next(p []byte) (n, size int, closed bool) {
	i := 0
	if u.at == 0 {
		// Mostly there is no escape at all.
		end := bytes.IndexByte(p, '"')
		closed = end >= 0
		if !closed {
			end = len(p)
		}
		i = bytes.IndexByte(p[:end], '\\')
		switch {
		case i < 0 && closed:
			return end + 1, end, true
		case i < 0:
			return end, end, false
		}
		size = i
	}
	for i < len(p) {
		c := p[i]
		i++
		switch u.at {
		case 0:
			switch {
			case c == '"':
				return i, size, true
			case c != '\\':
				size++
			case i < len(p) && p[i] != 'u': // nearly all escapes
				size++
				i++
			default:
				u.at = 1
			}
		case 1:
			if u.at = 2; c != 'u' {
				u.at = 0
				size++
			}
			u.hex = 0
		default:
			u.hex = u.hex<<4 | uint16(hexDigit(c))
			if u.at++; u.at > 5 {
				size += sizeInUTF8(u.hex)
				u.at = 0
			}
		}
	}
	return len(p), size, false
}

// sizeInUTF8 is how many bytes \uXXXX stands for; half a surrogate pair is half
// of four.
func sizeInUTF8(unit uint16) int {
	switch {
	case unit < 0x80:
		return 1
	case unit < 0x800, unit >= 0xd800 && unit < 0xe000:
		return 2
	}
	return 3
}

// hexDigit is the value of a hex digit, 0 for any other byte.
func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}
