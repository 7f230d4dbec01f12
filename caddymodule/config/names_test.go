package config

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		// Names that people have.
		{"alice", ""},
		{"Alice2", ""},
		{"2nd", ""},
		{"alice.b_c-d", ""},
		{"alice+tools@example.com", ""},
		{"zo\u00e9@example.com", ""},
		{"Nguy\u1ec5n.V\u0103n.\u0110\u1ee9c", ""},
		{"\u00d8rsted", ""},
		{"Stra\u00dfe", ""},
		{"\u0418\u0432\u0430\u043d", ""},
		{"\u0399\u03c9\u03ac\u03bd\u03bd\u03b7\u03c2", ""},
		{"\u5f20\u4f1f", ""},
		{"\u3055\u304f\u3089\u30fc", ""},
		{"\u30ac\u30f3\u30c0\u30e0", ""},
		{"\uae40\ucca0\uc218", ""},
		{"\u0939\u093f\u0928\u094d\u0926\u0940", ""},             // Hindi
		{"\u0e01\u0e34\u0e48\u0e07\u0e41\u0e01\u0e49\u0e27", ""}, // Thai, two marks on one letter
		{"\u0e19\u0e49\u0e33", ""},                               // Thai SARA AM
		{"\u0ba4\u0bae\u0bbf\u0bb4\u0bcd", ""},                   // Tamil
		{"\u1019\u103c\u1014\u103a\u1019\u102c", ""},             // Burmese
		{"\u0645\u062d\u0645\u0651\u062f", ""},                   // Arabic with a shadda
		{"\u05d3\u05b8\u05bc\u05d5\u05b4\u05d3", ""},             // Hebrew with points
		{"\u0565\u0582\u0587", ""},                               // Armenian with its ligature
		{"\u0661\u0662", ""},
		{strings.Repeat("x", 64), ""},

		// Names that look like others.
		{"zoe\u0301", "holds e (U+0065) and U+0301, which are one letter in Unicode's normal form NFC; write é (U+00E9)"},
		{"u\u0323\u031b", "write ụ (U+1EE5)"},
		{"x\u0301", "holds U+0301, a mark that makes no letter of its own with x (U+0078) before it"},
		{"a\u0336lice", "U+0336, a mark"},
		{"a\u20dd", "U+20DD, a mark"},
		{"\u00e9\u0301\u0301", "U+0301, a mark"},
		{"\u0e01\u0e34\u0e34", "holds U+0E34 twice in a row"},
		{"a\u0e34", "U+0E34, a mark, after a (U+0061), which is of another script"},
		{"a.\u0e34", "U+0E34, a mark, after . (U+002E), which is of another script"},
		{"\u0301a", "begins with U+0301, a mark"},
		{"\u0e34a", "begins with U+0E34, a mark"},
		{"\u304b\u3099", "write が (U+304C)"},
		{"\u1112\u1161\u11ab", "write 한 (U+D55C)"},
		{"\u0958", "(U+0958), which Unicode's normal form NFC writes otherwise; write \u0915 (U+0915) U+093C"},
		{"\u212bngstrom", "(U+212B), which Unicode's normal form NFC writes otherwise; write \u00c5 (U+00C5)"},
		{"\uf900", "holds \uf900 (U+F900), which Unicode's normal form NFC writes otherwise"},
		{"\uff41lice", "holds ａ (U+FF41), which only stands in for \"a\""},
		{"\U0001d41alice", "(U+1D41A), which only stands in for \"a\""},
		{"\ufb01nn", "(U+FB01), which only stands in for \"fi\""},
		{"x\u00b2", "(U+00B2), which only stands in for \"2\""},
		{"\u2167", "(U+2167), which only stands in for \"VIII\""},

		// What can't be seen, or moves the text around it.
		{"al\u200bice", "holds U+200B, which can't be seen"},
		{"al\u200dice", "holds U+200D, which can't be seen"},
		{"alice\ufeff", "holds U+FEFF, which can't be seen"},
		{"al\u00adice", "holds U+00AD, which can't be seen"},
		{"a\u034fb", "holds U+034F, which can't be seen"},
		{"a\ufe0f", "holds U+FE0F, which can't be seen"},
		{"\u3164", "holds U+3164, which can't be seen"},
		{"a\u115f", "holds U+115F, which can't be seen"},
		{"a\U000e0041", "holds U+E0041, which can't be seen"},
		{"alice\u202e", "holds U+202E, which can't be seen"},
		{"a\u2066b", "holds U+2066, which can't be seen"},
		{"a\u200eb", "holds U+200E, which can't be seen"},
		{"a\x00b", "holds U+0000, a control character"},
		{"a\nb", "holds U+000A, which is a space"},
		{"a\x7f", "holds U+007F, a control character"},
		{"a\u0085", "holds U+0085, which is a space"},
		{"a\u2028b", "holds U+2028, which is a space"},
		{" alice", "holds U+0020, which is a space"},
		{"alice ", "holds U+0020, which is a space"},
		{"alice  b", "holds U+0020, which is a space; write . _ or - instead"},
		{"a\u00a0b", "holds U+00A0, which is a space"},
		{"a\u3000b", "holds U+3000, which is a space"},
		{"a\ue000", "holds U+E000, of private use"},
		{"a\U0010fffd", "holds U+10FFFD, of private use"},
		{"a\u0378", "holds U+0378, which is not a character"},
		{"a\uffff", "holds U+FFFF, which is not a character"},
		{"a\U000e0fff", "holds U+E0FFF"},

		// What is no letter.
		{"", "is empty"},
		{".", "begins with . (U+002E); start with a letter or digit"},
		{"-x", "begins with - (U+002D)"},
		{"@x", "begins with @ (U+0040)"},
		{"a/b", "holds / (U+002F), which is not a letter or digit"},
		{"a\\b", `holds \ (U+005C)`},
		{"a:b", "holds : (U+003A)"},
		{"<b>", "holds < (U+003C)"},
		{"a,b", "holds , (U+002C)"},
		{"smile\U0001f600", "holds \U0001f600 (U+1F600), which is not a letter or digit"},
		{"a\u2800", "(U+2800), which is not a letter or digit"},
		{"o\u2019neil", "(U+2019), which is not a letter or digit"},
		{"a\ufffd", "(U+FFFD), which is not a letter or digit"},
		{"a\xff", "is not UTF-8"},
		{strings.Repeat("x", 65), "has 65 bytes; end within 64 bytes"},
		{strings.Repeat("\u00e9", 33), "has 66 bytes"},
	} {
		err := VetName(test.name)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%q (%+q): it %v", test.name, test.name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%+q: it %v; want: it %s", test.name, err, test.want)
		}
	}
}

func TestOddNamesInAConfigAreRefused(t *testing.T) {
	for _, h := range []*Config{
		{Accounts: []Account{{Name: "e\u0301", APIKey: "a"}}, Users: []User{{Name: "alice"}}},
		{Accounts: []Account{{Name: "main", APIKey: "a"}}, Users: []User{{Name: "e\u0301"}}},
		{Accounts: []Account{{Name: "main", APIKey: "a"}}, Users: []User{{Name: "alice"}}, Groups: []Group{{Name: "e\u0301"}}},
	} {
		if _, err := h.Build(); err == nil || !strings.Contains(err.Error(), "U+0301") || !strings.Contains(err.Error(), "[0]") {
			t.Errorf("error %v", err)
		}
	}
}
