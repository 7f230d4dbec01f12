package anthropic

import (
	"iter"
	"strings"
)

// The functions here walk JSON that is known to be valid, and hand out its raw
// text: nothing is unescaped or copied, which for a long conversation is most
// of what reading it costs.

// items are the elements of a list, with their offsets in it; none if it is no
// list.
func items(list string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		if !strings.HasPrefix(list, "[") {
			return
		}
		for i := space(list, 1); i < len(list) && list[i] != ']'; {
			end := skip(list, i)
			if !yield(i, list[i:end]) {
				return
			}
			i = space(list, end)
			if i < len(list) && list[i] == ',' {
				i = space(list, i+1)
			}
		}
	}
}

// memberOf is the value of an object's first member of that name, "" if there
// is none or it is no object.
func memberOf(object, name string) string {
	if !strings.HasPrefix(object, "{") {
		return ""
	}
	for i := space(object, 1); i < len(object) && object[i] == '"'; {
		end := skip(object, i)
		found := object[i+1:end-1] == name
		i = space(object, space(object, end)+1) // past the colon
		end = skip(object, i)
		if found {
			return object[i:end]
		}
		i = space(object, end)
		if i < len(object) && object[i] == ',' {
			i = space(object, i+1)
		}
	}
	return ""
}

// skip returns the offset after the value that begins at i.
func skip(s string, i int) int {
	switch s[i] {
	case '"':
		return min(stringEnd(bytesOf(s), i)+1, len(s))
	case '{', '[':
		depth := 0
		for ; i < len(s); i++ {
			switch s[i] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			case '"':
				i = stringEnd(bytesOf(s), i)
			}
		}
		return len(s)
	}
	for i < len(s) && !strings.ContainsRune(",]} \t\r\n", rune(s[i])) {
		i++
	}
	return i
}

// space returns the offset of the next byte that is no white space.
func space(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n') {
		i++
	}
	return i
}
