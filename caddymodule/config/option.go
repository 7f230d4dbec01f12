package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/billing"
)

// option is all that is said of a word that takes a value. What a block's words are, their
// defaults and their bounds follow from its options, and so does the README's table.
type option struct {
	name string
	// standard is the default, as it would be written; "" = there is none, or one that no
	// word says.
	standard string
	kind     kind
	// about is what the README says of it.
	about string
}

// kind is what the value of an option can be: how it is read, filled in and checked.
type kind struct {
	word
	fill  func(standard string)                // nil: nothing to fill in
	check func(at position, name string) error // nil: everything is right
}

// wordsOf are the options as words of a block, beside those that are no options.
func wordsOf(options []option, others map[string]word) map[string]word {
	words := make(map[string]word, len(options)+len(others))
	for _, o := range options {
		words[o.name] = o.kind.word
	}
	maps.Copy(words, others)
	return words
}

// fillIn gives the options that the config left out their defaults.
func fillIn(options []option) {
	for _, o := range options {
		if o.standard != "" && o.kind.fill != nil {
			o.kind.fill(o.standard)
		}
	}
}

// checkOptions checks the options that the config has.
func checkOptions(at position, options []option) error {
	for _, o := range options {
		if o.kind.check == nil {
			continue
		}
		if err := o.kind.check(at, o.name); err != nil {
			return err
		}
	}
	return nil
}

// pointer is a kind whose zero means something, so that nil is what was left out.
func pointer[T any](to **T, usage string, parse func(string) (T, error), check func(at position, name string, value T) error) kind {
	return kind{
		word: oneValue(to, usage, optional(parse)),
		fill: func(standard string) {
			if *to == nil {
				value, _ := parse(standard) // a test parses all of them
				*to = &value
			}
		},
		check: func(at position, name string) error {
			if *to == nil {
				return nil
			}
			return check(at, name, **to)
		},
	}
}

// duration is one over zero, up to most.
func duration(to **caddy.Duration, most time.Duration) kind {
	return pointer(to, "<duration>", parseDuration, func(at position, name string, value caddy.Duration) error {
		return at.upTo(name, value, most)
	})
}

// durationOrZero is one up to most. 0 means something of its own.
func durationOrZero(to **caddy.Duration, most time.Duration) kind {
	return pointer(to, "0|<duration>", parseDuration, func(at position, name string, value caddy.Duration) error {
		return at.notOver(name, value, most)
	})
}

// durationFrom is one from least to most.
func durationFrom(to **caddy.Duration, least, most time.Duration) kind {
	return pointer(to, "<duration>", parseDuration, func(at position, name string, value caddy.Duration) error {
		if d := time.Duration(value); d < least || d > most {
			return at.errorf(name, "%s is out of range; write a duration from %s to %s", d, least, most)
		}
		return nil
	})
}

// number is one from 0 to most.
func number(to **int, most int) kind {
	return pointer(to, "<number>", parseNumber, func(at position, name string, value int) error {
		return at.between(name, value, 0, most)
	})
}

// multiplier is a price multiplier.
func multiplier(to **billing.Rate) kind {
	return pointer(to, "<number>", parseRate, position.rate)
}

// size is a number of bytes, from least to most.
func size(to **int64, least, most int64) kind {
	return pointer(to, "<size>", parseSize, func(at position, name string, value int64) error {
		return at.sized(name, value, least, most)
	})
}

// onOff is off unless it is set.
func onOff(to *bool) kind { return kind{word: oneValue(to, "on|off", parseOnOff)} }

// onOffOr has a default.
func onOffOr(to **bool) kind {
	return pointer(to, "on|off", parseOnOff, func(position, string, bool) error { return nil })
}

// choice is one of some words.
func choice(to *string, words ...string) kind {
	k := text(to, strings.Join(words, "|"), nil)
	k.check = func(at position, name string) error { return at.oneOf(name, *to, words...) }
	return k
}

// text is one argument as it is. check is not asked about an empty one.
func text(to *string, usage string, check func(string) error) kind {
	return kind{
		word: oneText(to, usage),
		fill: func(standard string) { fill(to, standard) },
		check: func(at position, name string) error {
			if *to == "" || check == nil {
				return nil
			}
			if err := check(*to); err != nil {
				return at.errorf(name, "%w", err)
			}
			return nil
		},
	}
}

// placeholderText is a text that may hold placeholders.
func placeholderText(to *string, usage string) kind {
	return text(to, usage, func(text string) error {
		_, err := placeholders(text)
		return err
	})
}

// fill sets an option that has its zero value.
func fill[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

// sized checks a number of bytes.
func (at position) sized(word string, value, least, most int64) error {
	if value >= least && value <= most {
		return nil
	}
	return at.errorf(word, "is %d bytes; it must be between %s and %s", value, bytesText(least), bytesText(most))
}

// bytesText writes a bound of a size.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%dGiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	case n == 1:
		return "1 byte"
	}
	return fmt.Sprint(n)
}

// count is a number from 0 to most that is 0 unless it is set.
func count(to *int, most int) kind {
	return kind{word: oneValue(to, "<number>", parseNumber), check: func(at position, name string) error {
		return at.between(name, *to, 0, most)
	}}
}

// logSize is how much of something is logged: nothing, the usual, or so many bytes.
func logSize(to *int64) kind {
	return kind{word: oneValue(to, "off|on|<size>", parseLogSize), check: func(at position, name string) error {
		return at.sized(name, *to, 0, maxErrorLog)
	}}
}

// headerPatterns are names of headers, or prefixes of them.
func headerPatterns(to *[]string) kind {
	w := manyTexts(to, "<name|prefix*…>")
	w.each = true
	return kind{word: w, check: func(at position, name string) error {
		for i, pattern := range *to {
			item := fmt.Sprintf("%s[%d]", name, i)
			if err := allowedHeader(pattern); err != nil {
				return at.errorf(item, "%w", err)
			}
			if slices.ContainsFunc((*to)[:i], func(other string) bool { return strings.EqualFold(other, pattern) }) {
				return at.errorf(item, "names %s twice; keep one", pattern)
			}
		}
		return nil
	}}
}

// onDisconnect is what to do when a client leaves.
func onDisconnect(to **OnDisconnect) kind {
	return kind{
		word: word{usage: "cancel|drain <duration>", min: 1, max: 2, read: func(args []string) error { return readOnDisconnect(to, args) }},
		fill: func(string) { fill(to, &OnDisconnect{}) },
		check: func(at position, name string) error {
			if *to == nil {
				return nil
			}
			return at.notOver(name, (*to).Drain, maxWait)
		},
	}
}

// keepalive is when comments are sent. One that says how often may leave out after what.
func keepalive(to **Keepalive) kind {
	return kind{
		word: word{usage: "0|<duration> [after <duration>]", min: 1, max: 3, read: func(args []string) error { return readKeepalive(to, args) }},
		fill: func(standard string) {
			var usual *Keepalive
			_ = readKeepalive(&usual, strings.Fields(standard))
			fill(to, &Keepalive{})
			fill(&(*to).Interval, usual.Interval)
			if *(*to).Interval != 0 {
				fill(&(*to).After, usual.After)
			}
		},
		check: func(at position, name string) error { return (*to).check(at, name) },
	}
}

func (k *Keepalive) check(at position, name string) error {
	switch {
	case k == nil:
		return nil
	case k.Interval != nil && *k.Interval == 0 && k.After != nil:
		return at.errorf(name, "is 0, which is never, so it has no time to start after; leave that out")
	case k.Interval != nil && *k.Interval == 0:
		return nil
	}
	for _, d := range []*caddy.Duration{k.Interval, k.After} {
		if d != nil {
			if err := at.upTo(name, *d, maxKeepalive); err != nil {
				return err
			}
		}
	}
	return nil
}
