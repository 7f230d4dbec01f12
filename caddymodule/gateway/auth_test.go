package gateway

import "testing"

func TestModelsOfAKey(t *testing.T) {
	for _, test := range []struct {
		models []string
		model  string
		want   bool
	}{
		{nil, "anything", true},
		{[]string{"claude-opus-5"}, "claude-opus-5", true},
		{[]string{"claude-opus-5"}, "claude-opus-5[1M]", true},
		{[]string{"claude-opus-5"}, "claude-opus-5 [1m]", true},
		{[]string{"claude-opus-5[1m]"}, "claude-opus-5", true},
		{[]string{"claude-opus-5[1m]"}, "claude-opus-5[1M]", true},
		{[]string{"claude-opus-5"}, "claude-opus-5-5[1m]", false},
		{[]string{"claude-opus-5"}, "claude-opus-5-20260101", false},
		{[]string{"glm", "claude-opus-*"}, "claude-opus-5-5[1M]", true},
		{[]string{"claude-opus-*"}, "claude-haiku-5-5[1m]", false},
		{[]string{"*"}, "[1m]", true},
		{[]string{"claude-opus-5"}, "[1m]", false},
	} {
		if got := (&Key{Models: test.models}).mayAsk(test.model); got != test.want {
			t.Errorf("a key for %q may ask for %q: %t", test.models, test.model, got)
		}
	}
}
