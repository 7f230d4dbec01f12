package caddymodule

import (
	"strings"
	"testing"
)

func TestTheDemoSaysWhatToType(t *testing.T) {
	const usual = "127.0.0.1:2019"
	for _, test := range []struct{ program, admin, want string }{
		{"caddy", usual, "caddy sub2api users\n"},
		{"caddy", "127.0.0.1:4321", "caddy sub2api users --address 127.0.0.1:4321\n"},
		{"./caddy", usual, "./caddy sub2api users\n"},
		{"/opt/my caddy/caddy", usual, "'/opt/my caddy/caddy' sub2api users\n"},
		{"/opt/bob's/caddy", usual, `'/opt/bob'\''s/caddy' sub2api users` + "\n"},
		{"/tmp/go-build315/b001/exe/caddy", "127.0.0.1:4321", "go run ./cmd/caddy sub2api users --address 127.0.0.1:4321\n"},
		{"/home/ann/.cache/go-build/21/2199-d/caddy", usual, "go run ./cmd/caddy sub2api users\n"},
	} {
		text := demoText(test.program, ":80", test.admin, test.admin == usual)
		if want := "at " + test.admin + ". Users, keys and usage: " + test.want; !strings.Contains(text, want) {
			t.Errorf("%s: %s", test.program, text)
		}
	}
}
