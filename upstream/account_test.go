package upstream

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResolve(t *testing.T) {
	rules := ModelMap{
		{Match: "claude-*"}, {Match: "claude-haiku-*", Upstream: "small"}, {Match: "claude-haiku-4-5", Upstream: "exact"},
		{Match: "claude-opus-5"}, {Match: "gpt-*", Upstream: "glm-4.6"},
	}
	for _, test := range []struct {
		rules ModelMap
		model string
		want  string // "" = not served
	}{
		{nil, "anything", "anything"},
		{rules, "claude-haiku-4-5", "exact"},
		{rules, "claude-haiku-4-5-20251001", "small"},
		{rules, "claude-sonnet-5", "claude-sonnet-5"},
		{rules, "claude-opus-5", "claude-opus-5"},
		{rules, "gpt-9", "glm-4.6"},
		{rules, "gemini-3", ""},
		{rules, "", ""},
		{ModelMap{{Match: "*", Upstream: "one"}}, "x", "one"},
		{ModelMap{{Match: "*"}}, "x", "x"},
	} {
		got, ok := test.rules.Resolve(test.model)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%q: got %q, %v, want %q", test.model, got, ok, test.want)
		}
	}
	if names := rules.Names(); len(names) != 2 || names[0] != "claude-haiku-4-5" || names[1] != "claude-opus-5" {
		t.Errorf("names without patterns: %q", names)
	}
}

func TestTheMarkOfALongContextIsNoPartOfAName(t *testing.T) {
	plain := ModelMap{{Match: "claude-opus-5-5"}, {Match: "claude-haiku-5-5", Upstream: "small"}, {Match: "claude-sonnet-*", Upstream: "mid"}}
	marked := ModelMap{{Match: "claude-opus-5-5[1m]"}, {Match: "claude-haiku-5-5[1M]", Upstream: "small"}}
	both := ModelMap{{Match: "claude-opus-*", Upstream: "any"}, {Match: "claude-opus-5-5", Upstream: "short"}, {Match: "claude-opus-5-5[1m]", Upstream: "long"}}
	turned := ModelMap{both[2], both[1], both[0]}
	patterns := ModelMap{{Match: "claude-opus-*", Upstream: "short"}, {Match: "claude-opus-5-5[1m]*", Upstream: "long"}}
	for _, test := range []struct {
		rules ModelMap
		model string
		want  string // "" = not served
	}{
		{nil, "claude-opus-5-5[1M]", "claude-opus-5-5[1M]"},
		// Not renamed: as the client wrote it.
		{plain, "claude-opus-5-5[1m]", "claude-opus-5-5[1m]"},
		{plain, "claude-opus-5-5[1M]", "claude-opus-5-5[1M]"},
		{plain, "claude-opus-5-5 [1m]", "claude-opus-5-5 [1m]"},
		{plain, "claude-opus-5-5[1m] ", "claude-opus-5-5[1m] "},
		{plain, "claude-haiku-5-5[1M]", "small"},
		{plain, "claude-sonnet-5-5[1M]", "mid"},
		{plain, "claude-opus-5[1m]", ""},
		{plain, "claude-opus-5-5[1m][1m]", ""},
		{plain, "claude-opus-5-5[2m]", ""},
		{plain, "claude-opus-5-5-20260101[1m]", ""},
		{plain, "[1m]", ""},
		{marked, "claude-opus-5-5", "claude-opus-5-5"},
		{marked, "claude-opus-5-5[1M]", "claude-opus-5-5[1M]"},
		{marked, "claude-haiku-5-5[1m]", "small"},
		{marked, "claude-haiku-5-5", "small"},
		// A rule for the name with the mark wins over the one without.
		{both, "claude-opus-5-5", "short"},
		{both, "claude-opus-5-5[1m]", "long"},
		{both, "claude-opus-5-5[1M]", "long"},
		{both, "claude-opus-5[1M]", "any"},
		{turned, "claude-opus-5-5", "short"},
		{turned, "claude-opus-5-5[1M]", "long"},
		{turned, "claude-opus-5-5-20260101[1m]", "any"},
		{patterns, "claude-opus-5-5", "short"},
		{patterns, "claude-opus-5-5[1m]", "long"},
	} {
		got, ok := test.rules.Resolve(test.model)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%v, %q: got %q, %v, want %q", test.rules, test.model, got, ok, test.want)
		}
	}
	if diff := cmp.Diff([]string{"claude-opus-5-5"}, turned.Names()); diff != "" {
		t.Error(diff)
	}
	if n := testing.AllocsPerRun(100, func() { both.Resolve("claude-opus-5-5[1M]") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestServes(t *testing.T) {
	for _, test := range []struct {
		account Account
		model   string
		want    bool
	}{
		{Account{Platform: Anthropic}, "anything", true},
		{Account{Platform: Antigravity}, "claude-opus-5", true},
		{Account{Platform: Antigravity}, "gemini-3", true},
		{Account{Platform: Antigravity}, "gpt-9", false},
		{Account{Platform: Antigravity, Models: ModelMap{{Match: "claude-opus-5"}}}, "gemini-3", false},
		{Account{Platform: Antigravity, Models: ModelMap{{Match: "claude-opus-5"}}}, "claude-opus-5[1M]", true},
	} {
		if got := test.account.Serves(test.model); got != test.want {
			t.Errorf("%s with %v serves %s: %v", test.account.Platform, test.account.Models, test.model, got)
		}
	}
}

func TestTransportsAreKeptPerAccount(t *testing.T) {
	var pools Transports
	a, again, b := &Account{Name: "a", Concurrency: 2}, &Account{Name: "a", Concurrency: 2}, &Account{Name: "b", Concurrency: 2}
	if pools.For(a) != pools.For(again) {
		t.Error("a new config's account of the same name has another pool")
	}
	if pools.For(a) == pools.For(b) {
		t.Error("two accounts share a pool")
	}
	pools.Close()
}

func TestSecretsAreConcealed(t *testing.T) {
	refresh := &Refresh{Token: "sk-refresh", ClientSecret: "sk-client"}
	for i, test := range []struct {
		account    Account
		text, want string
	}{
		{Account{Secret: "sk-1"}, "the key sk-1 is void: sk-1", "the key [secret] is void: [secret]"},
		{Account{Secret: "sk-1", Refresh: refresh}, "sk-1 sk-refresh sk-client", "[secret] [secret] [secret]"},
		{Account{Secret: "sk-1", Refresh: &Refresh{Token: "sk-refresh"}}, "nothing to hide", "nothing to hide"},
		{Account{}, "text", "text"},
	} {
		if got := test.account.Conceal(test.text); got != test.want {
			t.Errorf("%d: %q, want %q", i, got, test.want)
		}
	}
	f := &Failure{Status: 401, Type: "sk-1", Message: "not sk-1", Body: []byte(`{"message":"not sk-1"}`)}
	f.Conceal("")
	f.Conceal("sk-1")
	if want := "upstream answered 401 [secret]: not [secret]"; f.Error() != want || string(f.Body) != `{"message":"not [secret]"}` {
		t.Errorf("%s, %s", f, f.Body)
	}
}
