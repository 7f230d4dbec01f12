package billing

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// nano is the number of nano-dollars in a dollar, and of billionths in a Rate of 1.
const nano = 1_000_000_000

// USD is an amount of money in nano-dollars: 1 US dollar is 1,000,000,000.
// It reaches to about ±9.2 billion dollars; its arithmetic here stops at the
// ends of that range instead of wrapping around.
type USD int64

// ParseUSD reads decimal text such as "20", "0.05" or "-1.5": an optional
// minus sign, digits, and at most 9 decimals. Anything else, an exponent
// included, is an error, as is an amount outside the range of USD.
func ParseUSD(text string) (USD, error) {
	n, err := parseBillionths(text)
	if err != nil {
		return 0, fmt.Errorf("amount of US dollars %q: %w", text, err)
	}
	return USD(n), nil
}

// String is the amount in dollars with exactly 9 decimals: "19.996550000".
func (u USD) String() string { return string(u.append(make([]byte, 0, 21))) }

func (u USD) append(b []byte) []byte {
	m := magnitude(int64(u))
	if u < 0 {
		b = append(b, '-')
	}
	b = strconv.AppendUint(b, m/nano, 10)
	return appendDecimals(append(b, '.'), m%nano)
}

// MarshalText is String as bytes.
func (u USD) MarshalText() ([]byte, error) { return u.append(make([]byte, 0, 21)), nil }

// UnmarshalText is ParseUSD.
func (u *USD) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUSD(string(text))
	return err
}

// MarshalJSON gives a JSON string, because many readers take JSON numbers for
// floats.
func (u USD) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 23), '"')
	return append(u.append(b), '"'), nil
}

// UnmarshalJSON takes decimal text as a JSON string or a JSON number.
func (u *USD) UnmarshalJSON(data []byte) error {
	text, isNull := jsonText(data)
	if isNull {
		return nil
	}
	return u.UnmarshalText([]byte(text))
}

// Times is u multiplied by r, rounded to the nearest nano-dollar, halves away
// from zero.
func (u USD) Times(r Rate) USD {
	hi, lo := bits.Mul64(magnitude(int64(u)), uint64(r))
	m := roundedQuotient(hi, lo, nano)
	switch {
	case u < 0 && m > math.MaxInt64:
		return math.MinInt64
	case u < 0:
		return -USD(m)
	}
	return USD(min(m, math.MaxInt64))
}

// Plus is u + v.
func (u USD) Plus(v USD) USD {
	sum := u + v
	switch {
	case u > 0 && v > 0 && sum < 0:
		return math.MaxInt64
	case u < 0 && v < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

// Rate multiplies money. It is kept exactly, in billionths, and is never
// negative; 0 makes things free.
type Rate int64

// RateOne passes a price on as it is.
const RateOne Rate = nano

// ParseRate reads decimal text such as "1", "0.5" or "1.25" with at most 9
// decimals. A negative rate is an error.
func ParseRate(text string) (Rate, error) {
	n, err := parseBillionths(text)
	if err == nil && n < 0 {
		err = errors.New("must not be negative")
	}
	if err != nil {
		return 0, fmt.Errorf("rate multiplier %q: %w", text, err)
	}
	return Rate(n), nil
}

// String is the shortest decimal text of the rate: "1", "0.5", "1.25".
func (r Rate) String() string {
	text := USD(r).String()
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// MarshalText is String as bytes.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRate.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// MarshalJSON gives a JSON number.
func (r Rate) MarshalJSON() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalJSON takes a JSON number without an exponent, or the same as a
// JSON string.
func (r *Rate) UnmarshalJSON(data []byte) error {
	text, isNull := jsonText(data)
	if isNull {
		return nil
	}
	return r.UnmarshalText([]byte(text))
}

// jsonText is the text of a JSON string that needs no escapes, or of any
// other JSON value as it stands.
func jsonText(data []byte) (text string, isNull bool) {
	text = string(data)
	if len(text) >= 2 && text[0] == '"' {
		return text[1 : len(text)-1], false
	}
	return text, text == "null"
}

// parseBillionths reads decimal text into billionths.
func parseBillionths(text string) (int64, error) {
	digits, negative := strings.CutPrefix(text, "-")
	whole, decimals, hasPoint := strings.Cut(digits, ".")
	switch {
	case !allDigits(whole) || hasPoint && !allDigits(decimals):
		return 0, errors.New("want plain decimal digits, such as 20 or 0.05")
	case len(decimals) > 9:
		return 0, fmt.Errorf("has %d decimals, at most 9 can be kept", len(decimals))
	}
	decimals += "000000000"[len(decimals):]
	m, err := strconv.ParseUint(whole+decimals, 10, 64)
	limit := uint64(math.MaxInt64)
	if negative {
		limit++
	}
	if err != nil || m > limit {
		return 0, fmt.Errorf("too large, the limit is %s", USD(math.MaxInt64))
	}
	if negative {
		return -int64(m), nil
	}
	return int64(m), nil
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// appendDecimals appends m as 9 digits.
func appendDecimals(b []byte, m uint64) []byte {
	for unit := uint64(nano / 10); unit > 0; unit /= 10 {
		b = append(b, byte('0'+m/unit%10))
	}
	return b
}

// magnitude is |n|, right for the smallest int64 too.
func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// roundedQuotient is hi:lo divided by d, halves rounded up, at most MaxUint64.
func roundedQuotient(hi, lo, d uint64) uint64 {
	if hi >= d {
		return math.MaxUint64
	}
	quotient, rest := bits.Div64(hi, lo, d)
	if rest >= d-rest && quotient < math.MaxUint64 {
		quotient++
	}
	return quotient
}

// Short is String for people: cents, and more where there is more.
func (u USD) Short() string {
	text := u.String()
	point := strings.IndexByte(text, '.')
	return text[:point+3] + strings.TrimRight(text[point+3:], "0")
}

// ShortUSD is Short of an amount as String writes it. Other texts stay as they are.
func ShortUSD(text string) string {
	amount, err := ParseUSD(text)
	if err != nil {
		return text
	}
	return amount.Short()
}
