package modelname_test

import (
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

func TestBase(t *testing.T) {
	for name, want := range map[string]string{
		"claude-opus-5-5":                "claude-opus-5-5",
		"claude-opus-5-5[1m]":            "claude-opus-5-5",
		"claude-opus-5-5[1M]":            "claude-opus-5-5",
		"claude-opus-5-5 [1m]":           "claude-opus-5-5",
		"claude-opus-5-5  [1M] ":         "claude-opus-5-5",
		"claude-sonnet-4-5-20250929[1M]": "claude-sonnet-4-5-20250929",
		"x[1m]":                          "x",
		"é[1M]":                          "é",
		"claude-opus-5-5[1m][1m]":        "claude-opus-5-5[1m]",
		"claude-opus-5-5[2m]":            "claude-opus-5-5[2m]",
		"claude-opus-5-5[1m]x":           "claude-opus-5-5[1m]x",
		"claude-opus-5-5[1m":             "claude-opus-5-5[1m",
		"claude-opus-5-5 ":               "claude-opus-5-5 ",
		"[1m]claude":                     "[1m]claude",
		"[1m]":                           "[1m]",
		" [1M] ":                         " [1M] ",
		"1m]":                            "1m]",
		"":                               "",
	} {
		if got := modelname.Base(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
		if long := modelname.IsLong(name); long != (want != name) {
			t.Errorf("%q: long %t", name, long)
		}
		if n := testing.AllocsPerRun(10, func() { modelname.Base(name) }); n != 0 {
			t.Errorf("%q: %v allocations", name, n)
		}
	}
}

func TestFamily(t *testing.T) {
	for name, want := range map[string]string{
		"claude-opus-5-5": "opus", "claude-3-5-haiku-latest": "haiku", "sonnet": "sonnet", "claude-fable-5[1M]": "fable", "mythos4": "mythos",
		"opusculum": "", "magnum-opusculum-opus": "opus", "glm-4.6": "", "": "",
	} {
		if got := modelname.Family(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestDate(t *testing.T) {
	for name, want := range map[string]string{
		"claude-sonnet-4-5-20250929":                   "2025-09-29",
		"claude-sonnet-4-5-20250929[1M]":               "2025-09-29",
		"claude-sonnet-4-5@20250929":                   "2025-09-29",
		"us.anthropic.claude-sonnet-4-5-20250929-v1:0": "2025-09-29",
		"claude-sonnet-4-5":                            "",
		"claude-sonnet-4-5-20251399":                   "", // no such month
		"claude-sonnet-4-5-20250230":                   "", // nor day
		"claude-sonnet-4-5-2025092":                    "",
		"claude-sonnet-4-5-202509291":                  "",
		"-20250929":                                    "",
		"20250929":                                     "",
		"":                                             "",
	} {
		got := ""
		if date := modelname.Date(name); !date.IsZero() {
			got = date.Format(time.DateOnly)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
