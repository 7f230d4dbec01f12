// Package modelname reads the names of models: their families, their dates, and
// what clients and platforms that resell a model write around its name.
package modelname

import (
	"strings"
	"time"
)

// Families are the words for Anthropic's model families, in the order in which
// they are looked for in a name.
var Families = [...]string{"fable", "mythos", "opus", "sonnet", "haiku"}

// longContext is what clients write after a model's name to say that they use its
// long context window. The API doesn't know it.
const longContext = "[1m]"

// Base is the name without one "[1m]" at its end: in any case, and whatever spaces
// stand before or after it. Another name, and one that is nothing else, is
// returned as it is. It does not allocate.
func Base(name string) string {
	base, _ := cutLongContext(name)
	return base
}

// IsLong reports whether a name ends with "[1m]". See Base.
func IsLong(name string) bool {
	_, long := cutLongContext(name)
	return long
}

func cutLongContext(name string) (base string, long bool) {
	end := strings.TrimRight(name, " ")
	at := len(end) - len(longContext)
	if at < 0 || !strings.EqualFold(end[at:], longContext) {
		return name, false
	}
	if base = strings.TrimRight(end[:at], " "); base == "" {
		return name, false
	}
	return base, true
}

// Family is the first of Families that stands in name as a whole word, "" if none
// does.
func Family(name string) string {
	for _, word := range Families {
		for rest := name; ; {
			at := strings.Index(rest, word)
			if at < 0 {
				break
			}
			end := at + len(word)
			if (at == 0 || !isLetter(rest[at-1])) && (end == len(rest) || !isLetter(rest[end])) {
				return word
			}
			rest = rest[end:]
		}
	}
	return ""
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// Bare drops what platforms put before a Claude model's name ("anthropic/",
// "us.anthropic."), and "[1m]".
func Bare(name string) string {
	if at := strings.LastIndex(name, "claude-"); at > 0 && (name[at-1] == '/' || name[at-1] == '.') {
		name = name[at:]
	}
	return Base(name)
}

// Dated drops a platform's version from the end ("-v1:0", "@latest"), and turns
// "@20250929" into "-20250929", as the API writes it.
func Dated(name string) string {
	name, version, _ := strings.Cut(name, "@")
	if IsDate(version) {
		return name + "-" + version
	}
	if at := strings.LastIndex(name, "-v"); at > 0 && isPlatformVersion(name[at+2:]) {
		name = name[:at]
	}
	return name
}

// Undated drops "-YYYYMMDD" from the end.
func Undated(name string) string {
	if at := len(name) - 9; at > 0 && name[at] == '-' && IsDate(name[at+1:]) {
		name = name[:at]
	}
	return name
}

// Spellings are the names under which a table may have a model, the best first: as
// it is, without "[1m]", without what platforms put before it, then with the date
// as the API writes it and without their version, then without the date. The first
// Exact of them are the model's name itself.
func Spellings(name string) [5]string {
	bare := Bare(name)
	dated := Dated(bare)
	return [...]string{name, Base(name), bare, dated, Undated(dated)}
}

// Exact is how many of the Spellings leave nothing of the model's own name out.
const Exact = 3

// Date is the date at the end of a model's name, in UTC; the zero time if there is
// none.
func Date(name string) time.Time {
	name = Dated(Bare(name))
	text := name[len(Undated(name)):]
	if text == "" {
		return time.Time{}
	}
	date, err := time.Parse("-20060102", text)
	if err != nil {
		return time.Time{}
	}
	return date
}

// IsDate reports whether s has the form of a date in a model's name: 8 digits.
func IsDate(s string) bool { return len(s) == 8 && allDigits(s) }

// isPlatformVersion recognises the "1:0" or "1" of Bedrock's names.
func isPlatformVersion(s string) bool {
	major, minor, hasMinor := strings.Cut(s, ":")
	return allDigits(major) && (!hasMinor || allDigits(minor))
}

func allDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
