package caddymodule_test

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

func TestTheDemoLeavesNoFilesBehind(t *testing.T) {
	home, temp := t.TempDir(), t.TempDir()
	address := gatewaytest.FreeAddress(t)
	cmd, log := gatewaytest.Command(t, "sub2api", "demo", "--listen", address)
	// Nothing but these says where files go.
	cmd.Env = []string{gatewaytest.AsCaddy, "HOME=" + home, "TMPDIR=" + temp, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		request, err := http.NewRequest(http.MethodPost, "http://"+address+"/v1/messages", strings.NewReader(question))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Api-Key", "sk-demo")
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Fatalf("status %d\n%s", response.StatusCode, log)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the demo did not start: %v\n%s", err, log)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log)
	}
	for _, dir := range []string{home, temp} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != dir {
				t.Errorf("the demo left %s", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
