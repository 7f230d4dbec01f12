package billing

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// Decimals of the units that the file's numbers are read into.
const (
	femtoDecimals = 15 // of a dollar, for tokens
	nanoDecimals  = 9  // of a dollar, for searches; and those of a Rate
)

// parseEntry reads what an object of the file says of a model.
func parseEntry(object gjson.Result) (*entry, error) {
	e := &entry{steps: make(map[int64]*stepPrices), us: absent, fast: absent, search: absent}
	fields := members(object)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value := fields[name]
		if value.Type == gjson.Null {
			continue
		}
		if err := e.set(name, value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return e, nil
}

func (e *entry) set(name string, value gjson.Result) (err error) {
	switch name {
	case "max_input_tokens":
		e.limits.input = parseLimit(value)
		return nil
	case "max_output_tokens":
		e.limits.output = parseLimit(value)
		return nil
	case "search_context_cost_per_query":
		if value.IsObject() {
			const medium = "search_context_size_medium"
			return setMember(value, medium, func(n int64) { e.search = USD(n) })
		}
		var n int64
		n, err = parseNumber(value, nanoDecimals)
		e.search = USD(n)
		return err
	case "provider_specific_entry":
		if !value.IsObject() {
			return fmt.Errorf("want an object of multipliers, have %.40s", value.Raw)
		}
		if err := setMember(value, "us", func(n int64) { e.us = Rate(n) }); err != nil {
			return err
		}
		return setMember(value, "fast", func(n int64) { e.fast = Rate(n) })
	}
	above, tier, kind := parsePriceName(name)
	if kind == nil {
		return nil
	}
	n, err := parseNumber(value, femtoDecimals)
	*kind(&e.at(above)[tier]) = USD(n)
	return err
}

// parseLimit reads a number of tokens; 0 for anything else: it is no price, so
// that what it says of the model is not known.
func parseLimit(value gjson.Result) int64 {
	if value.Type == gjson.Number && value.Num >= 1 && value.Num <= maxLimit {
		return int64(value.Num)
	}
	return 0
}

// maxLimit is more tokens than any model takes, and a number that a float64 holds
// exactly.
const maxLimit = 1 << 40

// setMember reads a member in billionths, if it is there.
func setMember(object gjson.Result, name string, set func(int64)) error {
	value, ok := members(object)[name]
	if !ok || value.Type == gjson.Null {
		return nil
	}
	n, err := parseNumber(value, nanoDecimals)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	set(n)
	return nil
}

// parsePriceName takes the name of a price apart: the kind of token, nil if it is
// none that is known, the number of prompt tokens that it is for more than, and the
// tier.
func parsePriceName(name string) (above int64, tier int, kind func(*rates) *USD) {
	if base, ok := strings.CutSuffix(name, "_priority"); ok {
		name, tier = base, tierPriority
	} else if base, ok := strings.CutSuffix(name, "_batches"); ok {
		name, tier = base, tierBatch
	}
	if base, ok := strings.CutSuffix(name, "k_tokens"); ok {
		at := strings.LastIndexByte(base, '_') + 1
		thousands := base[at:]
		n, err := strconv.ParseInt(thousands, 10, 32)
		if err != nil || n <= 0 || strconv.FormatInt(n, 10) != thousands {
			return 0, 0, nil
		}
		name, above = strings.TrimSuffix(base[:at], "_above_"), n*1000
	}
	switch name {
	case "input_cost_per_token":
		kind = func(r *rates) *USD { return &r.input }
	case "output_cost_per_token":
		kind = func(r *rates) *USD { return &r.output }
	case "cache_creation_input_token_cost":
		kind = func(r *rates) *USD { return &r.write5m }
	case "cache_creation_input_token_cost_above_1hr":
		kind = func(r *rates) *USD { return &r.write1h }
	case "cache_read_input_token_cost":
		kind = func(r *rates) *USD { return &r.read }
	}
	return above, tier, kind
}

// parseNumber reads a JSON number with so many decimals, halves rounded up.
func parseNumber(value gjson.Result, decimals int) (int64, error) {
	if value.Type != gjson.Number {
		return 0, fmt.Errorf("want a number, have %.40s", value.Raw)
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(value.Raw), "e")
	shift := 0
	if exponent != "" {
		// Out of range it is the largest or the smallest int.
		shift, _ = strconv.Atoi(exponent)
		shift = min(max(shift, -maxExponent), maxExponent)
	}
	digits, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	shift += decimals - len(fraction)
	switch {
	case digits == "":
		return 0, nil
	case negative:
		return 0, fmt.Errorf("%.40s is negative", value.Raw)
	case len(digits)+shift > 19:
		return 0, fmt.Errorf("%.40s is too large", value.Raw)
	}
	rest := ""
	if shift >= 0 {
		digits += strings.Repeat("0", shift)
	} else {
		keep := max(len(digits)+shift, 0)
		if len(digits)+shift >= 0 {
			rest = digits[keep:]
		}
		digits = digits[:keep]
	}
	n, err := strconv.ParseInt("0"+digits, 10, 64)
	if err == nil && rest >= "5" {
		n++
	}
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%.40s is too large", value.Raw)
	}
	return n, nil
}

// maxExponent bounds the exponent of a number: past it all numbers of a reasonable
// length are 0 or too large.
const maxExponent = 1 << 30
