package billing

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed builtin_prices.txt
var builtinTable string

// BuiltIn is the table of Anthropic's list prices as of November 2026, read
// from builtin_prices.txt, with prices that have a date of their own before
// and after it.
func BuiltIn() *Prices { return builtin() }

var builtin = sync.OnceValue(func() *Prices {
	p, err := parseTable(builtinTable)
	if err != nil {
		panic("billing: builtin_prices.txt: " + err.Error())
	}
	return p
})

// parseTable reads the format that builtin_prices.txt describes.
func parseTable(text string) (*Prices, error) {
	p := &Prices{models: make(map[string]*model)}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 6 {
			return nil, fmt.Errorf("line %d: want a model and 5 prices, have %q", i+1, line)
		}
		m := p.models[fields[0]]
		if m == nil {
			m = &model{name: fields[0]}
			p.models[m.name] = m
		}
		if err := m.addRow(fields[1:6], fields[6:]); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", i+1, m.name, err)
		}
	}
	p.setFamilies()
	return p, nil
}

// addRow adds a line's prices to its model, as a new version or as a further
// step of the last one.
func (m *model) addRow(prices, options []string) error {
	standard, err := parseRates(prices)
	if err != nil {
		return err
	}
	s := step{standard: standard}
	v := version{us: nano, search: webSearchPrice}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "fast":
			var fast rates
			fast, err = parseRates(strings.Split(value, "/"))
			s.fast = &fast
		case "us":
			v.us, err = ParseRate(value)
		case "from":
			v.from, err = time.Parse(time.DateOnly, value)
		case "above":
			s.above, err = strconv.ParseInt(value, 10, 64)
		case "retired":
			m.retired = true
		default:
			err = fmt.Errorf("unknown option")
		}
		if err != nil {
			return fmt.Errorf("option %q: %w", option, err)
		}
	}
	return m.insert(v, s)
}

func (m *model) insert(v version, s step) error {
	if len(m.versions) > 0 {
		last := &m.versions[len(m.versions)-1]
		switch {
		case v.from.Before(last.from), v.from.Equal(last.from) && s.above <= last.steps[len(last.steps)-1].above:
			return fmt.Errorf("row is out of order")
		case v.from.Equal(last.from):
			last.steps = append(last.steps, s)
			return nil
		}
	}
	if s.above != 0 {
		return fmt.Errorf("the first row must be the one for small prompts")
	}
	v.steps = []step{s}
	m.versions = append(m.versions, v)
	return nil
}

// parseRates reads 5 prices in US dollars per million tokens: input, output,
// write 5m, write 1h, read. The number of nano-dollars per million tokens is
// that of femto-dollars per token.
func parseRates(texts []string) (rates, error) {
	if len(texts) != 5 {
		return rates{}, fmt.Errorf("want 5 prices, have %d", len(texts))
	}
	var n [5]USD
	for i, text := range texts {
		price, err := ParseUSD(text)
		if err == nil && price < 0 {
			err = fmt.Errorf("price %q is negative", text)
		}
		if err != nil {
			return rates{}, err
		}
		n[i] = price
	}
	return rates{input: n[0], output: n[1], write5m: n[2], write1h: n[3], read: n[4]}, nil
}
