package billing

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Match is how a model was found in a price table, the better the greater.
type Match int

const (
	// MatchNone: neither the model nor a family is known; it costs nothing.
	MatchNone Match = iota
	// MatchFamily: the model is unknown and costs what the dearest model of
	// its family costs that is still offered.
	MatchFamily
	// MatchVariant: a known model's name, and something after it that is no
	// version number: claude-opus-5-5-preview.
	MatchVariant
	// MatchUndated: a known model's name and a date, or a date or version as
	// platforms that resell it write them.
	MatchUndated
	// MatchExact: a name in the table, perhaps after the prefix of a platform
	// that resells it and before the client's own "[1m]".
	MatchExact
)

// String is "exact", "undated", "variant", "family" or "none".
func (m Match) String() string {
	return [...]string{"none", "family", "variant", "undated", "exact"}[m]
}

// familyWords are the families of models, in the order in which they are
// looked for in a name that isn't in the table.
var familyWords = [...]string{"fable", "mythos", "opus", "sonnet", "haiku"}

// Match tells how model is found in the table, and under which name: that of
// a model, or of a family for MatchFamily, or "" for MatchNone. Names are
// looked up as they are, then without the prefixes that other platforms put
// before them ("anthropic/", "us.anthropic."), then without a platform's version
// ("-v1:0") and with the date as the API writes it ("-20250929", not
// "@20250929"), and then without the date.
func (p *Prices) Match(model string) (name string, match Match) {
	m, family, match := p.find(model)
	switch match {
	case MatchNone:
		return "", match
	case MatchFamily:
		return familyWords[family], match
	}
	return m.name, match
}

// at is the prices of a model at that time, nil for MatchNone.
func (p *Prices) at(model string, at time.Time) *version {
	m, family, match := p.find(model)
	switch match {
	case MatchNone:
		return nil
	case MatchFamily:
		return p.dearest(family, at)
	}
	return m.on(at)
}

func (p *Prices) find(model string) (m *model, family int, match Match) {
	if m := p.models[model]; m != nil {
		return m, 0, MatchExact
	}
	name := bareName(model)
	if m := p.models[name]; m != nil {
		return m, 0, MatchExact
	}
	name = dated(name)
	if m := p.models[name]; m != nil {
		return m, 0, MatchUndated
	}
	name = undated(name)
	if m := p.models[name]; m != nil {
		return m, 0, MatchUndated
	}
	if m := p.variant(name); m != nil {
		return m, 0, MatchVariant
	}
	family = familyOf(name)
	if family < 0 || len(p.families[family]) == 0 {
		return nil, 0, MatchNone
	}
	return nil, family, MatchFamily
}

// variant is the model with the longest name that name begins with, unless a
// version number follows: claude-opus-4-9 is no variant of claude-opus-4.
func (p *Prices) variant(name string) *model {
	for end := strings.LastIndexByte(name, '-'); end > 0; end = strings.LastIndexByte(name[:end], '-') {
		m := p.models[name[:end]]
		if m == nil {
			continue
		}
		next, _, _ := strings.Cut(name[end+1:], "-")
		if next != "" && next[0] >= '0' && next[0] <= '9' && !isDate(next) {
			return nil
		}
		return m
	}
	return nil
}

// dearest is the dearest of a family's models that are still offered, by the
// prices of their last steps: the first of input, output and so on that
// differs decides.
func (p *Prices) dearest(family int, at time.Time) *version {
	var best *version
	for _, m := range p.families[family] {
		if v := m.on(at); best == nil || v.dearerThan(best) {
			best = v
		}
	}
	return best
}

func (v *version) dearerThan(other *version) bool {
	a, b := v.steps[len(v.steps)-1], other.steps[len(other.steps)-1]
	aFast, bFast := cmp.Or(a.fast, &a.standard), cmp.Or(b.fast, &b.standard)
	for _, pair := range [...][2]USD{
		{a.standard.input, b.standard.input},
		{a.standard.output, b.standard.output},
		{a.standard.write5m, b.standard.write5m},
		{a.standard.write1h, b.standard.write1h},
		{a.standard.read, b.standard.read},
		{aFast.input, bFast.input},
		{aFast.output, bFast.output},
		{USD(v.us), USD(other.us)},
	} {
		if pair[0] != pair[1] {
			return pair[0] > pair[1]
		}
	}
	return false
}

// setFamilies finds the models whose price an unknown one of their family may
// have: those that are still offered, under their own names.
func (p *Prices) setFamilies() {
	for _, name := range slices.Sorted(maps.Keys(p.models)) {
		m, family := p.models[name], familyOf(name)
		if family >= 0 && !m.retired && isBare(name) {
			p.families[family] = append(p.families[family], m)
		}
	}
}

// familyOf is the index in familyWords of the family that name holds as a
// whole word, or -1.
func familyOf(name string) int {
	for i, word := range familyWords {
		for rest := name; ; {
			at := strings.Index(rest, word)
			if at < 0 {
				break
			}
			end := at + len(word)
			if (at == 0 || !isLetter(rest[at-1])) && (end == len(rest) || !isLetter(rest[end])) {
				return i
			}
			rest = rest[end:]
		}
	}
	return -1
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// bareName drops what platforms put before a model's name, and the mark of a
// long context window that clients put after it.
func bareName(name string) string {
	if at := strings.LastIndex(name, "claude-"); at > 0 && (name[at-1] == '/' || name[at-1] == '.') {
		name = name[at:]
	}
	return strings.TrimSuffix(name, "[1m]")
}

// isBare tells whether a name is the API's own for a model, without what
// platforms put before it and clients after it.
func isBare(name string) bool { return bareName(name) == name && !strings.Contains(name, "/") }

// dated drops "-v1:0" from the end, and turns "@date" into "-date".
func dated(name string) string {
	name, version, _ := strings.Cut(name, "@")
	if isDate(version) {
		return name + "-" + version
	}
	if at := strings.LastIndex(name, "-v"); at > 0 && isPlatformVersion(name[at+2:]) {
		name = name[:at]
	}
	return name
}

// undated drops "-YYYYMMDD" from the end.
func undated(name string) string {
	if at := len(name) - 9; at > 0 && name[at] == '-' && isDate(name[at+1:]) {
		name = name[:at]
	}
	return name
}

// isPlatformVersion recognises the "1:0" or "1" of Bedrock's names.
func isPlatformVersion(s string) bool {
	major, minor, hasMinor := strings.Cut(s, ":")
	return allDigits(major) && (!hasMinor || allDigits(minor))
}

func isDate(s string) bool { return len(s) == 8 && allDigits(s) }
