package upstream

import "testing"

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
