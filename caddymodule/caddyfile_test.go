package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the good Caddyfiles of testdata adapt to")

const goldenSeparator = "\n----------\n"

// Each file holds a Caddyfile, a line of dashes, and what it adapts to: JSON,
// or texts that the error must hold, one on each line.
func TestCaddyfileAdaptsAsInTestdata(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding golden files: %d, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(data), goldenSeparator)
			if !ok {
				t.Fatal("no line of dashes between the Caddyfile and what it adapts to")
			}
			want = strings.TrimSpace(want)
			adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input+"\n"), map[string]any{"filename": "Caddyfile"})
			if !strings.HasPrefix(want, "{") {
				checkAdaptError(t, err, want)
				return
			}
			if err != nil {
				t.Fatalf("adapting: %v", err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, adapted, "", "\t"); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(input+goldenSeparator+got.String()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got.String(), "\n")); diff != "" {
				t.Errorf("adapted JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func checkAdaptError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		t.Fatal("the file says neither JSON nor an error")
	}
	if err == nil {
		t.Fatalf("no error; want one with:\n%s", want)
	}
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); !strings.Contains(err.Error(), line) {
			t.Errorf("error:\n%v\nlacks:\n%s", err, line)
		}
	}
	if strings.Contains(err.Error(), "DO-NOT-SHOW") {
		t.Errorf("the error shows a secret: %v", err)
	}
}
