package caddymodule

import (
	"strings"
	"testing"
)

func TestTheDemoNamesItsAdminAddress(t *testing.T) {
	for usual, want := range map[bool]string{true: "at 127.0.0.1:2019. Users, keys and usage: caddy sub2api users\n", false: "at 127.0.0.1:2019. Users, keys and usage: caddy sub2api users --address 127.0.0.1:2019\n"} {
		if text := demoText(":80", "127.0.0.1:2019", usual); !strings.Contains(text, want) {
			t.Errorf("usual %t: %s", usual, text)
		}
	}
}
