package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/sub2api/caddy-sub2api/billing"
)

// opener is word.open.
type opener = func(path string, args []string) error

// namedBlock is a repeatable block with a name.
func namedBlock(open opener) word {
	return word{usage: "<name> { … }", min: 1, max: 1, repeat: true, open: open}
}

// sectionBlock is a block without a name, which makes its option.
func sectionBlock[T any](p *parser, to **T, options func(*T) []option) word {
	return word{usage: "{ … }", open: func(path string, _ []string) error {
		*to = new(T)
		return p.block(path, path[strings.LastIndexByte(path, '.')+1:], wordsOf(options(*to), nil))
	}}
}

// flagWord is a word without arguments.
func flagWord(option *bool) word {
	return word{read: func([]string) error {
		*option = true
		return nil
	}}
}

// oneText is a word with one argument, taken as it is.
func oneText[T ~string](option *T, usage string) word {
	return oneValue(option, usage, func(arg string) (T, error) { return T(arg), nil })
}

// manyTexts is a word with one or more arguments, taken as they are.
func manyTexts(option *[]string, usage string) word {
	return word{usage: usage, min: 1, max: -1, read: func(args []string) error {
		*option = append(*option, args...)
		return nil
	}}
}

// oneValue is a word with one argument, which parse reads.
func oneValue[T any](option *T, usage string, parse func(string) (T, error)) word {
	return word{usage: usage, min: 1, max: 1, read: func(args []string) (err error) {
		*option, err = parse(args[0])
		return err
	}}
}

// optional makes parse fit an option whose zero means something.
func optional[T any](parse func(string) (T, error)) func(string) (*T, error) {
	return func(arg string) (*T, error) {
		v, err := parse(arg)
		return &v, err
	}
}

func parseNumber(arg string) (int, error) {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", arg)
	}
	return n, nil
}

func parseRate(arg string) (billing.Rate, error) {
	r, err := billing.ParseRate(arg)
	if err != nil {
		return 0, fmt.Errorf("%q is not a multiplier, such as 0.5 or 1.25", arg)
	}
	return r, nil
}

func parseOnOff(arg string) (bool, error) {
	if arg != "on" && arg != "off" {
		return false, fmt.Errorf("%q is neither on nor off", arg)
	}
	return arg == "on", nil
}

func parseDuration(arg string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(arg)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration, such as 30s, 5m or 1h", arg)
	}
	return caddy.Duration(d), nil
}

// parseLogSize reads how much of an upstream error is logged.
func parseLogSize(arg string) (int64, error) {
	switch arg {
	case "off":
		return 0, nil
	case "on":
		return 2 << 10, nil
	}
	n, err := parseSize(arg)
	if err != nil {
		err = fmt.Errorf("%q is neither on, nor off, nor a size, such as 2KiB", arg)
	}
	return n, err
}

// parseSize reads a number of bytes, such as 32MiB.
func parseSize(arg string) (int64, error) {
	n, err := humanize.ParseBytes(arg)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("%q is not a size, such as 32MiB", arg)
	}
	return int64(n), nil
}
