package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxNameLength is in bytes.
const maxNameLength = 64

// namePunctuation is what names hold beside letters, digits and marks: enough for
// e-mail addresses.
const namePunctuation = "._@+-"

// VetName returns why something new can't have this name, or nil. Names of
// users, accounts and groups stand in URLs, tables and money matters, so two that
// differ must look different. They are letters and digits of any script, with the
// marks that its words need, and the punctuation above, in the normal form NFC.
// Spaces, emoji, invisible characters and those that only stand in for others are
// not in names.
//
// What stands in a store under another name can still be shown and removed.
func VetName(name string) error {
	switch {
	case name == "":
		return errors.New("is empty; write one that starts with a letter or digit")
	case len(name) > maxNameLength:
		return fmt.Errorf("has %d bytes; end within %d bytes", len(name), maxNameLength)
	case !utf8.ValidString(name):
		return errors.New("is not UTF-8; write it in UTF-8")
	}
	var before rune // 0 at the start
	for i, r := range name {
		if unicode.IsMark(r) {
			if err := checkMark(r, before, name[:i]); err != nil {
				return err
			}
		} else if err := checkCharacter(r, before == 0); err != nil {
			return err
		}
		before = r
	}
	return checkNormal(name)
}

// checkCharacter looks at what is no mark.
func checkCharacter(r rune, first bool) error {
	plain := norm.NFKC.String(string(r))
	switch known := unicode.IsLetter(r) || unicode.IsNumber(r); {
	case strings.ContainsRune(namePunctuation, r) && first:
		return fmt.Errorf("begins with %s; start with a letter or digit", show(r))
	case strings.ContainsRune(namePunctuation, r):
		return nil
	case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r), unicode.Is(unicode.Cf, r):
		return fmt.Errorf("holds %s, which can't be seen, or turns the text around it; leave it out", show(r))
	case unicode.IsSpace(r), unicode.Is(unicode.Z, r):
		return fmt.Errorf("holds %s, which is a space; write . _ or - instead", show(r))
	case unicode.Is(unicode.Cc, r):
		return fmt.Errorf("holds %s, a control character; leave it out", show(r))
	case unicode.Is(unicode.Co, r):
		return fmt.Errorf("holds %s, of private use, which looks different everywhere; leave it out", show(r))
	case known && plain != norm.NFC.String(string(r)) && !slices.Contains(ownLetters, r):
		return fmt.Errorf("holds %s, which only stands in for %q; write that, or leave it out", show(r), plain)
	case known:
		return nil
	case !unicode.In(r, unicode.P, unicode.S):
		return fmt.Errorf("holds %s, which is not a character; leave it out", show(r))
	}
	return fmt.Errorf("holds %s, which is not a letter or digit; after a letter or digit come letters, digits and . _ @ + -", show(r))
}

// ownLetters are those that Unicode takes apart for old encodings' sake alone:
// Armenian, Thai and Lao are written with them.
var ownLetters = []rune{'և', 'ำ', 'ຳ', 'ໜ', 'ໝ'}

// checkMark lets a mark stand after letters of its own script. Accents and other
// marks that all scripts share must be part of a letter: over one that has no such
// form they can hardly be told from each other.
func checkMark(r, before rune, head string) error {
	letters := strings.TrimRightFunc(head, unicode.IsMark)
	base, _ := utf8.DecodeLastRuneInString(letters)
	script := scriptOf(r)
	switch {
	case before == 0:
		return fmt.Errorf("begins with %s, a mark; start with a letter or digit", show(r))
	case unicode.Is(unicode.Variation_Selector, r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
		return fmt.Errorf("holds %s, which can't be seen; leave it out", show(r))
	case r == before:
		return fmt.Errorf("holds %s twice in a row, where one hides the other; leave one out", show(r))
	case script == nil:
		if composed := norm.NFC.String(string(base) + string(r)); utf8.RuneCountInString(composed) == 1 {
			return fmt.Errorf("holds %s and %s, which are one letter in Unicode's normal form NFC; write %s", show(base), show(r), show([]rune(composed)[0]))
		}
		return fmt.Errorf("holds %s, a mark that makes no letter of its own with %s before it; leave it out", show(r), show(base))
	case !unicode.Is(script, base):
		return fmt.Errorf("holds %s, a mark, after %s, which is of another script; leave it out", show(r), show(base))
	}
	return nil
}

// arabicMarks are vowels and doubled letters of Arabic, which Unicode counts among
// those that scripts share.
var arabicMarks = &unicode.RangeTable{R16: []unicode.Range16{{Lo: 0x064b, Hi: 0x0652, Stride: 1}, {Lo: 0x0670, Hi: 0x0670, Stride: 1}}}

// scriptOf is the script of a mark, nil for those that scripts share.
func scriptOf(mark rune) *unicode.RangeTable {
	if unicode.Is(arabicMarks, mark) {
		return unicode.Arabic
	}
	for name, script := range unicode.Scripts {
		if name != "Inherited" && name != "Common" && unicode.Is(script, mark) {
			return script
		}
	}
	return nil
}

// checkNormal finds what is left that the normal form NFC writes in another way.
func checkNormal(name string) error {
	var parts norm.Iter
	parts.InitString(norm.NFC, name)
	for !parts.Done() {
		start := parts.Pos()
		want := string(parts.Next())
		if got := name[start:parts.Pos()]; got != want {
			return fmt.Errorf("holds %s, which Unicode's normal form NFC writes otherwise; write %s", showAll(got), showAll(want))
		}
	}
	return nil
}

// show names a character by its number, and shows it where it can be seen.
func show(r rune) string {
	if unicode.IsGraphic(r) && !unicode.IsMark(r) && !unicode.IsSpace(r) && !unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) {
		return fmt.Sprintf("%c (%U)", r, r)
	}
	return fmt.Sprintf("%U", r)
}

func showAll(text string) string {
	var shown []string
	for _, r := range text {
		shown = append(shown, show(r))
	}
	return strings.Join(shown, " ")
}
