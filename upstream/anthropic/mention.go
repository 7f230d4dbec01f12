package anthropic

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Error edits the body of an error, JSON or not: upstream's name for the model
// becomes the client's wherever it stands, in any letter case, with any escapes,
// and within a longer name (glm-4.6-air, models/glm-4.6). A name of letters alone,
// or of fewer than four characters, is taken for a word, and not looked for within
// others. A body that does not hold it is returned as it is.
func (r *Renamer) Error(body []byte) []byte {
	return apply(body, r.mentions(body, isJSON(body)))
}

func isJSON(b []byte) bool { return !tooDeep(b) && gjson.Valid(textOf(b)) }

// ownWords are those of an error's own frame: a model that is named like one can't
// be told from it.
var ownWords = []string{"data", "details", "error", "event", "message", "request_id", "type"}

// mentions makes the edits of an error's text.
func (r *Renamer) mentions(body []byte, json bool) (edits []edit) {
	if r.Sent == "" || slices.Contains(ownWords, strings.ToLower(r.Sent)) {
		return nil
	}
	sent, asked := foldedRunes(r.Sent), []rune(nil)
	if strings.Contains(string(foldedRunes(r.Asked)), string(sent)) {
		asked = foldedRunes(r.Asked) // which must not be renamed to itself and more
	}
	with := r.Asked
	if json {
		quoted := quote(r.Asked)
		with = quoted[1 : len(quoted)-1]
	}
	word := len(sent) < 4 || !slices.ContainsFunc(sent, func(c rune) bool { return !unicode.IsLetter(c) })
	before := ' '
	for i := 0; i < len(body); {
		if end := mentioned(body, i, asked, json); end > i {
			before, i = asked[len(asked)-1], end
			continue
		}
		end := mentioned(body, i, sent, json)
		if end > i && word && (inWord(before) || startsInWord(body[end:], json)) {
			end = i
		}
		if end > i {
			edits = append(edits, edit{span{i, end}, with})
			before, i = sent[len(sent)-1], end
			continue
		}
		c, n := character(body[i:], json)
		before, i = c, i+n
	}
	return edits
}

func inWord(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }

func startsInWord(b []byte, json bool) bool {
	if len(b) == 0 {
		return false
	}
	c, _ := character(b, json)
	return inWord(c)
}

func foldedRunes(s string) []rune {
	runes := []rune(s)
	for i, c := range runes {
		runes[i] = unicode.ToLower(c)
	}
	return runes
}

// mentioned returns where the name ends that begins at i, i if there is none.
func mentioned(body []byte, i int, name []rune, json bool) (end int) {
	if len(name) == 0 {
		return i
	}
	c, n := character(body[i:], json)
	if unicode.ToLower(c) != name[0] {
		return i
	}
	end = i + n
	for _, want := range name[1:] {
		// JSON may stand in a string of JSON, its escapes escaped once more.
		last := end
		for last+1 < len(body) && body[last] == '\\' && body[last+1] == '\\' {
			last++
		}
		if last == len(body) {
			return i
		}
		if c, n = character(body[last:], true); unicode.ToLower(c) != want {
			return i
		}
		end = last + n
	}
	return end
}

// character reads one character and returns how many bytes it has. In JSON its
// escapes are undone; elsewhere only \uXXXX is, for JSON that was cut.
func character(b []byte, json bool) (c rune, n int) {
	switch {
	case json && b[0] == '"':
		return utf8.RuneError, 1 // the end of a string, and of any name in it
	case b[0] != '\\' || len(b) < 2:
		return utf8.DecodeRune(b)
	case b[1] == 'u':
		if c, ok := unit(b); ok {
			if low, ok := unit(b[6:]); ok && utf16.IsSurrogate(c) {
				if pair := utf16.DecodeRune(c, low); pair != utf8.RuneError {
					return pair, 12
				}
			}
			return c, 6
		}
	case !json:
	case b[1] == '/', b[1] == '"', b[1] == '\\':
		return rune(b[1]), 2
	default:
		return ' ', 2 // a line break or the like: in no name
	}
	return '\\', 1
}

// unit reads \uXXXX.
func unit(b []byte) (c rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, digit := range b[2:6] {
		if !strings.ContainsRune("0123456789abcdefABCDEF", rune(digit)) {
			return 0, false
		}
		c = c<<4 | rune(hexDigit(digit))
	}
	return c, true
}
