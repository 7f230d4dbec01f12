package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestCandidates(t *testing.T) {
	settings := defaults(
		account("ant"), account("off", disabled), account("gem", on(upstream.Gemini)), account("oai", on(upstream.OpenAI)),
		account("ag", on(upstream.Antigravity)), account("agmix", on(upstream.Antigravity), mixed),
		account("haiku", serving("claude-haiku-*")), account("exact", serving("claude-haiku-4-5")), account("notmix", mixed, on(upstream.OpenAI)),
		account("agoff", on(upstream.Antigravity), disabled),
	)
	settings.Groups = []scheduler.Group{
		{Name: "all", Platform: upstream.Anthropic},
		{Name: "gemini", Platform: upstream.Gemini},
		{Name: "openai", Platform: upstream.OpenAI},
		{Name: "antigravity", Platform: upstream.Antigravity},
		{Name: "one", Platform: upstream.Anthropic, Accounts: []string{"ant", "off", "gem", "ag"}},
		{Name: "mixed", Platform: upstream.Anthropic, Accounts: []string{"haiku", "agmix"}},
		{Name: "withag", Platform: upstream.Anthropic, Accounts: []string{"ant", "ag"}},
		{Name: "agoff", Platform: upstream.Anthropic, Accounts: []string{"ant", "agoff"}},
	}
	const sonnet, gemini, gpt = "claude-sonnet-4-5", "gemini-3-pro", "gpt-5"
	tests := []struct {
		group string
		force upstream.Platform
		model string
		want  string
	}{
		{"", "", sonnet, "agmix ant"},
		{"", "", gpt, "ant"},
		{"", "", "claude-haiku-4-5[1M]", "agmix ant haiku exact"},
		{"", "", "claude-haiku-4-5", "agmix ant haiku exact"},
		{"all", "", sonnet, "agmix ant"},
		{"gemini", "", gemini, "agmix gem"},
		{"openai", "", gpt, "notmix oai"},
		{"antigravity", "", gemini, "ag agmix"},
		{"antigravity", "", gpt, ""},
		{"one", "", sonnet, "ant"},
		{"mixed", "", sonnet, "agmix"},
		{"mixed", "", gpt, ""},
		{"withag", upstream.Antigravity, sonnet, "ag"},
		{"withag", upstream.Antigravity, gpt, ""},
		{"all", upstream.Antigravity, sonnet, "ag agmix"},
		{"agoff", upstream.Antigravity, sonnet, ""},
		{"openai", upstream.Antigravity, gemini, "ag agmix"},
		{"mixed", upstream.Gemini, gemini, "gem"},
		{"", upstream.Anthropic, sonnet, "ant"},
		{"unknown", "", sonnet, ""},
	}
	run := func(t *testing.T, settings scheduler.Settings) {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%s %s %s", test.group, test.force, test.model), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, settings)
					defer r.state.Close()
					d := r.demand()
					d.Group, d.Force, d.Model = test.group, test.force, test.model
					var got []string
					for {
						lease, err := r.Pick(context.Background(), d)
						if err != nil {
							var out *scheduler.OutError
							if noAccount := errors.Is(err, scheduler.ErrNoAccount); noAccount != (test.want == "") || !noAccount && !errors.As(err, &out) {
								t.Fatalf("error %v", err)
							}
							break
						}
						got = append(got, lease.Account.Name)
						d.Exclude = append(d.Exclude, lease.Account.Name)
					}
					if diff := cmp.Diff(strings.Fields(test.want), got, cmp.Transformer("sorted", sorted)); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					if serves := r.Serves(test.group, test.force, test.model); serves != (test.want != "") {
						t.Errorf("Serves = %v", serves)
					}
				})
			})
		}
	}
	t.Run("standard", func(t *testing.T) { run(t, settings) })
	t.Run("groups don't limit", func(t *testing.T) {
		settings.GroupsDontLimit = true
		tests = tests[:0]
		for _, group := range []string{"all", "one", "mixed", "withag"} {
			tests = append(tests, struct {
				group string
				force upstream.Platform
				model string
				want  string
			}{group, "", "claude-haiku-4-5", "agmix ant haiku exact"})
		}
		run(t, settings)
	})
}

func sorted(names []string) map[string]int {
	m := map[string]int{}
	for _, n := range names {
		m[n]++
	}
	return m
}

func TestGroupQueries(t *testing.T) {
	settings := defaults(
		account("plain"), account("named", serving("b", "a", "c-*")), account("token", oauth, serving("b")),
		account("off", disabled, serving("z")),
	)
	settings.Groups = []scheduler.Group{
		{Name: "all", Platform: upstream.Anthropic},
		{Name: "plain", Platform: upstream.Anthropic, Accounts: []string{"plain", "off"}},
	}
	r := newRig(t, settings)
	defer r.state.Close()
	if diff := cmp.Diff([]string{"a", "b"}, r.Models("all", "")); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	if models := r.Models("plain", ""); len(models) > 0 {
		t.Errorf("models %v", models)
	}
	for group, want := range map[string]bool{"all": true, "": true, "plain": false, "unknown": false} {
		if got := r.HoldsBearer(group, ""); got != want {
			t.Errorf("HoldsBearer(%q) = %v", group, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	group := func(name string, accounts ...string) scheduler.Group {
		return scheduler.Group{Name: name, Accounts: accounts}
	}
	for want, settings := range map[string]scheduler.Settings{
		`account "a" is defined twice`:                           defaults(account("a"), account("a")),
		`group "g" is defined twice or has no name`:              {Groups: []scheduler.Group{group("g"), group("g")}},
		`group "" is defined twice or has no name`:               {Groups: []scheduler.Group{group("")}},
		`group "g" names account "nobody", which does not exist`: {Groups: []scheduler.Group{group("g", "nobody")}},
	} {
		_, err := scheduler.New(settings, scheduler.NewLeases(memstate.New(), slog.Default()), slog.Default())
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestOddModelNamesCostNoMemory(t *testing.T) {
	r := newRig(t, defaults(account("a", slots(0)), account("b", serving("x*"))))
	defer r.state.Close()
	for i := range 5000 {
		d := r.demand()
		d.Model = fmt.Sprint("model-", i)
		if _, err := r.Pick(context.Background(), d); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.CachedSets(); n > 1024 {
		t.Errorf("%d sets are remembered", n)
	}
}
