package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"
)

// Whatever the directive accepts survives its own JSON, and passes the checks
// of a JSON config.
func FuzzDirective(f *testing.F) {
	files, err := filepath.Glob("../testdata/*.caddyfiletest")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := strings.Cut(string(data), "\n----------\n")
		if start := strings.Index(input, "\tsub2api"); start >= 0 {
			f.Add(input[start:])
		}
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil {
			return
		}
		var parsed Config
		if err := parsed.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			return
		}
		loaded := throughJSON(t, &parsed)
		again := throughJSON(t, loaded)
		if diff := cmp.Diff(loaded, again); diff != "" {
			t.Fatalf("JSON changed on its way:\n%s", diff)
		}
		loaded.setDefaults()
		if err := loaded.Validate(); err != nil {
			t.Fatalf("the parser accepted what the checks refuse: %v", err)
		}
	})
}

// throughJSON takes a config the way that Caddy does, from adapter to module.
func throughJSON(t *testing.T, h *Config) *Config {
	t.Helper()
	var warnings []caddyconfig.Warning
	raw := caddyconfig.JSONModuleObject(h, "handler", "sub2api", &warnings)
	if len(warnings) > 0 {
		t.Fatalf("encoding: %v", warnings)
	}
	var out struct {
		Config
		Module string `json:"handler"`
	}
	if err := caddy.StrictUnmarshalJSON(raw, &out); err != nil {
		t.Fatalf("decoding %s: %v", raw, err)
	}
	return &out.Config
}
