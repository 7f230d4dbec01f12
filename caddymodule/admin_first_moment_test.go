package caddymodule_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// Whoever asks the admin API as soon as something listens is asked to come again
// until the config runs, and never hears that there is no sub2api.
func TestTheAdminAPIFromTheFirstMomentOn(t *testing.T) {
	// A Redis that takes connections and says nothing makes the start slow.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dir := t.TempDir()
	s := &site{dir: dir, config: filepath.Join(dir, "Caddyfile"), admin: gatewaytest.FreeAddress(t), url: "http://" + gatewaytest.FreeAddress(t)}
	text := fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
}
%s {
	sub2api {
		store redis redis://%s {
			timeout 500ms
			spool %s
		}
		account main {
			api_key sk-upstream
		}
		user alice {
			key sk-alice
		}
	}
}
`, s.admin, s.url, silent.Addr(), dir)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cmd, s.log = gatewaytest.Command(t, "run", "--config", s.config, "--adapter", "caddyfile")
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { s.cmd.Process.Kill(); s.cmd.Wait() }()
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	starting := 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		response, err := client.Get("http://" + s.admin + "/sub2api/users")
		if err != nil {
			continue // nothing listens yet
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" {
			t.Fatalf("status %d, Retry-After %q after %d that say to come again: %s", response.StatusCode, response.Header.Get("Retry-After"), starting, body)
		}
		if !strings.Contains(string(body), "is being started") {
			break // the store, which is out of reach
		}
		starting++
	}
	if starting == 0 {
		t.Errorf("no answer came while the config was being started")
	}
}
