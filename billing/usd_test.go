package billing

import (
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseUSD(t *testing.T) {
	for _, c := range []struct {
		text, want string
	}{
		{"20", "20.000000000"},
		{"0.05", "0.050000000"},
		{"-1.5", "-1.500000000"},
		{"19.99655", "19.996550000"},
		{"0.000000001", "0.000000001"},
		{"-0.000000001", "-0.000000001"},
		{"-0", "0.000000000"},
		{"007", "7.000000000"},
		{"9223372036.854775807", "9223372036.854775807"},
		{"-9223372036.854775808", "-9223372036.854775808"},
	} {
		got, err := ParseUSD(c.text)
		if err != nil || got.String() != c.want {
			t.Errorf("ParseUSD(%q) = %s, %v; want %s", c.text, got, err, c.want)
		}
	}
}

func TestParseUSDErrors(t *testing.T) {
	for text, part := range map[string]string{
		"":                      "plain decimal",
		"-":                     "plain decimal",
		".5":                    "plain decimal",
		"5.":                    "plain decimal",
		"1e3":                   "plain decimal",
		"+1":                    "plain decimal",
		"--1":                   "plain decimal",
		" 1":                    "plain decimal",
		"1_000":                 "plain decimal",
		"1,5":                   "plain decimal",
		"1.2.3":                 "plain decimal",
		"١":                     "plain decimal",
		"NaN":                   "plain decimal",
		"0.0000000001":          "10 decimals",
		"9223372036.854775808":  "too large",
		"-9223372036.854775809": "too large",
		"99999999999999999999":  "too large",
	} {
		_, err := ParseUSD(text)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("ParseUSD(%q): %v, want an error with %q", text, err, part)
		}
	}
}

func TestUSDJSON(t *testing.T) {
	type wallet struct {
		Amount USD
		By     map[string]USD
	}
	data, err := json.Marshal(wallet{Amount: 19_996_550_000, By: map[string]USD{"x": -1}})
	if want := `{"Amount":"19.996550000","By":{"x":"-0.000000001"}}`; err != nil || string(data) != want {
		t.Errorf("Marshal = %s, %v; want %s", data, err, want)
	}
	for text, want := range map[string]USD{`"1.5"`: 1_500_000_000, `1.5`: 1_500_000_000, `-2`: -2_000_000_000, `null`: 7} {
		got := USD(7)
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("Unmarshal(%s) = %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{`1e3`, `""`, `true`, `{}`, `"0.0000000001"`} {
		if err := json.Unmarshal([]byte(text), new(USD)); err == nil {
			t.Errorf("Unmarshal(%s) was taken", text)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]string{
		"1": "1", "1.0": "1", "0": "0", "0.5": "0.5", "1.25": "1.25", "10": "10", "100.10": "100.1", "0.000000001": "0.000000001",
	} {
		r, err := ParseRate(text)
		if err != nil || r.String() != want {
			t.Errorf("ParseRate(%q) = %s, %v; want %s", text, r, err, want)
		}
		data, err := json.Marshal(r)
		if err != nil || string(data) != want {
			t.Errorf("Marshal(%s) = %s, %v", want, data, err)
		}
		var back Rate
		if err := json.Unmarshal(data, &back); err != nil || back != r {
			t.Errorf("Unmarshal(%s) = %s, %v", data, back, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "1e1", "0.0000000001", "9223372037"} {
		if _, err := ParseRate(text); err == nil || !strings.Contains(err.Error(), "rate multiplier") {
			t.Errorf("ParseRate(%q): %v, want an error", text, err)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		amount USD
		rate   string
		want   USD
	}{
		{100, "1", 100},
		{100, "0", 0},
		{100, "1.25", 125},
		{1, "0.5", 1}, // halves away from zero
		{-1, "0.5", -1},
		{1, "0.499999999", 0},
		{-3, "0.5", -2},
		{math.MaxInt64, "1", math.MaxInt64},
		{math.MaxInt64, "1.000000001", math.MaxInt64},
		{math.MinInt64, "1", math.MinInt64},
		{math.MinInt64, "9000000000", math.MinInt64},
		{math.MaxInt64, "0.000000001", 9223372037},
	} {
		rate, err := ParseRate(c.rate)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.amount.Times(rate); got != c.want {
			t.Errorf("%d × %s = %d, want %d", int64(c.amount), c.rate, int64(got), int64(c.want))
		}
	}
}

func TestMoneyArithmeticAgainstBigNumbers(t *testing.T) {
	clamp := func(n *big.Int) USD {
		switch {
		case n.IsInt64():
			return USD(n.Int64())
		case n.Sign() < 0:
			return math.MinInt64
		}
		return math.MaxInt64
	}
	rapid.Check(t, func(t *rapid.T) {
		u, v := USD(rapid.Int64().Draw(t, "u")), USD(rapid.Int64().Draw(t, "v"))
		r := Rate(rapid.Int64Min(0).Draw(t, "r"))
		if back, err := ParseUSD(u.String()); err != nil || back != u {
			t.Errorf("%d: %s reads as %d, %v", int64(u), u, int64(back), err)
		}
		if back, err := ParseRate(r.String()); err != nil || back != r {
			t.Errorf("%d: %s reads as %d, %v", int64(r), r, int64(back), err)
		}
		sum := new(big.Int).Add(big.NewInt(int64(u)), big.NewInt(int64(v)))
		if got := u.Plus(v); got != clamp(sum) {
			t.Errorf("%d + %d = %d, want %d", int64(u), int64(v), int64(got), int64(clamp(sum)))
		}
		product := new(big.Int).Mul(big.NewInt(int64(u)), big.NewInt(int64(r)))
		half := big.NewInt(nano / 2)
		if product.Sign() < 0 {
			half.Neg(half)
		}
		product.Quo(product.Add(product, half), big.NewInt(nano))
		if got := u.Times(r); got != clamp(product) {
			t.Errorf("%d × %s = %d, want %d", int64(u), r, int64(got), int64(clamp(product)))
		}
	})
}

func FuzzParseUSD(f *testing.F) {
	for _, text := range []string{"20", "-1.5", "0.000000001", "9223372036.854775808", "1e3", ".", "-"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseUSD(text)
		if err != nil {
			return
		}
		want, ok := new(big.Rat).SetString(text)
		if !ok || want.Mul(want, big.NewRat(nano, 1)).Cmp(new(big.Rat).SetInt64(int64(u))) != 0 {
			t.Errorf("ParseUSD(%q) = %d nano-dollars, want %v", text, int64(u), want)
		}
	})
}
