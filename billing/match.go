package billing

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
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

// Match reports how model is found in the table, and under which name: that of
// a model, or of a family for MatchFamily, or "" for MatchNone. Names are
// looked up as they are, then without "[1m]", in any case, then without the
// prefixes that other platforms put before them ("anthropic/", "us.anthropic."),
// then without a platform's version ("-v1:0") and with the date as the API writes it
// ("-20250929", not "@20250929"), and then without the date.
func (p *Prices) Match(model string) (name string, match Match) {
	m, family, match := p.find(model)
	switch match {
	case MatchNone:
		return "", match
	case MatchFamily:
		return family, match
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

func (p *Prices) find(model string) (m *model, family string, match Match) {
	spellings := modelname.Spellings(model)
	for i, name := range spellings {
		switch m := p.models[name]; {
		case m != nil && i < modelname.Exact:
			return m, "", MatchExact
		case m != nil:
			return m, "", MatchUndated
		}
	}
	name := spellings[len(spellings)-1]
	if m := p.variant(name); m != nil {
		return m, "", MatchVariant
	}
	family = modelname.Family(name)
	if len(p.families[family]) == 0 {
		return nil, "", MatchNone
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
		if next != "" && next[0] >= '0' && next[0] <= '9' && !modelname.IsDate(next) {
			return nil
		}
		return m
	}
	return nil
}

// dearest is the dearest of a family's models that are still offered, by the
// prices of their last steps: the first of input, output and so on that
// differs decides.
func (p *Prices) dearest(family string, at time.Time) *version {
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
	p.families = map[string][]*model{}
	for _, name := range slices.Sorted(maps.Keys(p.models)) {
		m, family := p.models[name], modelname.Family(name)
		if family != "" && !m.retired && isOwn(name) {
			p.families[family] = append(p.families[family], m)
		}
	}
}

// isOwn reports whether a name is the API's own for a model, without what
// platforms put before it and clients after it.
func isOwn(name string) bool { return modelname.Bare(name) == name && !strings.Contains(name, "/") }
