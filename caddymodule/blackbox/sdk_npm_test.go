package blackbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// npmPackage is the official TypeScript client.
const npmPackage = "@anthropic-ai/sdk@1.12.0"

// TestTypeScriptSDK runs testdata/sdk.mjs against the gateway. It needs node
// and npm, which must be able to install the client; without, it is skipped,
// unless SUB2API_TEST_NPM=1 demands it.
func TestTypeScriptSDK(t *testing.T) {
	dir := t.TempDir()
	if err := installSDK(t, dir); err != nil {
		if os.Getenv("SUB2API_TEST_NPM") == "1" {
			t.Fatalf("SUB2API_TEST_NPM=1, but %v", err)
		}
		t.Skip(err)
	}
	for _, where := range []string{"bearer", "x-api-key"} {
		t.Run(where, func(t *testing.T) {
			g := serve(t, simulator.Config{CheckThinking: true}, mainAccount+alice)
			g.sim.Set("sk-upstream-main", onWords)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			node := exec.CommandContext(ctx, "node", "sdk.mjs", g.url, aliceKey, where)
			node.Dir = dir
			out, err := node.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := strings.Count(string(out), "ok "); got != 7 {
				t.Errorf("%d of 7 tests ran:\n%s", got, out)
			}
			for _, r := range g.sim.Requests() {
				body := string(r.Body)
				switch {
				case strings.Contains(body, "ENDLESS"):
					g.waitUpstream("upstream is let go", func() bool { return g.sim.Account("sk-upstream-main").InFlight == 0 })
				case strings.Contains(body, `"go on"`) && (r.Status != 200 || !strings.Contains(body, `"signature"`)):
					t.Errorf("thinking came back altered: %d %s", r.Status, body)
				}
			}
		})
	}
}

func installSDK(t *testing.T, dir string) error {
	if testing.Short() {
		return errors.New("installing the TypeScript SDK is not short")
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the TypeScript SDK can't be tested: %w", err)
		}
	}
	script, err := os.ReadFile(filepath.Join("testdata", "sdk.mjs"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "sdk.mjs"), script, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", dir, npmPackage)
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm install %s: %w\n%s", npmPackage, err, out)
	}
	return nil
}

// onWords has the upstream behave as the prompt says.
func onWords(r *simulator.Request) simulator.Reply {
	body := string(r.Body)
	var status int
	if _, after, ok := strings.Cut(body, "STATUS_"); ok {
		fmt.Sscan(after[:3], &status)
	}
	switch {
	case status != 0:
		return simulator.Reply{Status: status}
	case strings.Contains(body, "ENDLESS"):
		return simulator.Reply{Pause: 2 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Endless, After: 3}}
	case strings.Contains(body, "CUT"):
		return simulator.Reply{Fault: simulator.Fault{Kind: simulator.Cut, After: 6, Bytes: 60}}
	case strings.Contains(body, "OVERLOADED"):
		return simulator.Reply{Fault: simulator.Fault{Kind: simulator.ErrorEvent, After: 5}}
	}
	return simulator.Reply{}
}
