package caddymodule_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// tokenSite is a gateway process whose first account is refreshed.
type tokenSite struct {
	*site
	access, refresh, encryptionKey string
}

func newTokenSite(t *testing.T) *tokenSite {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	dir := t.TempDir()
	s := &site{dir: dir, config: filepath.Join(dir, "Caddyfile"), admin: gatewaytest.FreeAddress(t), url: "http://" + gatewaytest.FreeAddress(t), sim: sim}
	return &tokenSite{site: s, access: "access-0", refresh: "refresh-0"}
}

func (s *tokenSite) configure(t *testing.T) {
	t.Helper()
	key := ""
	if s.encryptionKey != "" {
		key = "encryption_key " + s.encryptionKey
	}
	text := strings.Replace(s.caddyfile("1s", key), "account main {", fmt.Sprintf(`account max {
			oauth {
				access_token %s
				refresh_token %s
				expires_at 2026-01-01T00:00:00Z
				token_url %s%s
				client_id c
			}
			base_url %s
			priority 1
		}
		account main {`, s.access, s.refresh, s.sim.URL, simulator.TokenPath, s.sim.URL), 1)
	s.write(t, text)
}

// run starts the process and waits until it answers.
func (s *tokenSite) run(t *testing.T) {
	t.Helper()
	s.configure(t)
	s.cmd, s.log = gatewaytest.Command(t, "run", "--config", s.config, "--adapter", "caddyfile")
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := s.cmd
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(s.url + "/v1/usage")
		if err == nil {
			response.Body.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the gateway did not start: %v\n%s", err, s.log)
		}
	}
}

// say sends one request and returns the answer's status.
func (s *tokenSite) say(t *testing.T) int {
	t.Helper()
	body := `{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`
	request, _ := http.NewRequest(http.MethodPost, s.url+"/v1/messages", strings.NewReader(body))
	request.Header.Set("X-Api-Key", "sk-alice")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

func (s *tokenSite) wantSaid(t *testing.T, credentials ...string) {
	t.Helper()
	if status := s.say(t); status != http.StatusOK {
		t.Errorf("status %d\n%s", status, s.log)
	}
	s.wantAsked(t, credentials...)
}

// wantAsked tells with which credentials the upstream was asked since it was
// called last: access tokens, API keys, refresh tokens.
func (s *tokenSite) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, r := range s.sim.Requests() {
		got = append(got, strings.TrimPrefix(r.Credential, "sk-ant-"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	s.sim.Reset()
}

// waitUpstream waits for a request with a credential.
func (s *tokenSite) waitUpstream(t *testing.T, credential string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.sim.Wait(ctx, func() bool { return s.sim.Account(credential).Requests > 0 }); err != nil {
		t.Fatalf("waiting for %s: %v\n%s", credential, err, s.log)
	}
}

// onDisk reports whether a file of the store's documents holds the text.
func (s *tokenSite) onDisk(t *testing.T, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "store", "documents", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err == nil && bytes.Contains(content, []byte(text)) {
			return true
		}
	}
	return false
}

func TestRotatedTokensSurviveKill(t *testing.T) {
	for _, key := range []string{"", strings.Repeat("5e", 32)} {
		t.Run(fmt.Sprintf("sealed %t", key != ""), func(t *testing.T) {
			s := newTokenSite(t)
			s.encryptionKey = key
			hang := simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: simulator.BeforeHeader}}
			s.sim.Queue("sk-ant-oat01-sim-1", hang)
			s.run(t)
			// The moment that a new token is used, it is safe.
			go s.say(t)
			s.waitUpstream(t, "sk-ant-oat01-sim-1")
			s.stop(t, syscall.SIGKILL)
			s.wantAsked(t, "refresh-0", "oat01-sim-1")
			if s.onDisk(t, "sk-ant-") != (key == "") {
				t.Error("tokens are in clear with a key, or missing without one")
			}

			s.run(t)
			s.wantSaid(t, "oat01-sim-1")
			s.sim.Queue("sk-ant-oat01-sim-1", simulator.Reply{Status: http.StatusUnauthorized})
			s.wantSaid(t, "oat01-sim-1", "ort01-sim-1", "oat01-sim-2")
			s.stop(t, syscall.SIGKILL)
			s.run(t)
			s.wantSaid(t, "oat01-sim-2")

			// The config's own change wins.
			s.stop(t, syscall.SIGKILL)
			s.access, s.refresh = "access-9", "refresh-9"
			s.run(t)
			s.wantSaid(t, "refresh-9", "oat01-sim-3")
		})
	}
}

func TestSealedStoreNeedsItsKey(t *testing.T) {
	s := newTokenSite(t)
	right := strings.Repeat("5e", 32)
	s.encryptionKey = right
	s.run(t)
	s.wantSaid(t, "refresh-0", "oat01-sim-1")
	s.stop(t, syscall.SIGTERM)
	wrong := strings.Repeat("0a", 32)
	for key, want := range map[string]string{
		wrong: "encryption_key is not the one that the secrets in this store were sealed with",
		"":    "secrets in this store are sealed, and there is no encryption_key",
	} {
		s.encryptionKey = key
		s.configure(t)
		for _, command := range []string{"run", "validate"} {
			cmd, out := gatewaytest.Command(t, command, "--config", s.config, "--adapter", "caddyfile")
			err := cmd.Run()
			if log := out.String(); err == nil || !strings.Contains(log, want) || strings.Contains(log, right) || strings.Contains(log, wrong) {
				t.Errorf("caddy %s: %v; it does not say %q, or it shows a key:\n%s", command, err, want, log)
			}
		}
	}
	s.encryptionKey = right
	s.run(t)
	s.wantSaid(t, "oat01-sim-1")
}

func TestAccountErrorsLastUntilTheCredentialChanges(t *testing.T) {
	s := newTokenSite(t)
	s.sim.Queue(simulator.TokenPath, simulator.Reply{Status: http.StatusBadRequest, ErrorType: "invalid_grant"})
	s.run(t)
	s.wantSaid(t, "refresh-0", "sk-upstream")
	for end := time.Now().Add(10 * time.Second); !s.onDisk(t, "invalid_grant"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the account's state is not stored")
		}
	}
	s.stop(t, syscall.SIGKILL)
	s.run(t)
	s.wantSaid(t, "sk-upstream")

	reload := func() {
		t.Helper()
		s.configure(t)
		if cmd, out := gatewaytest.Command(t, "reload", "--config", s.config, "--adapter", "caddyfile", "--address", s.admin, "--force"); cmd.Run() != nil {
			t.Fatalf("caddy reload: %s", out)
		}
	}
	reload()
	s.wantSaid(t, "sk-upstream")
	s.refresh = "refresh-9"
	reload()
	// The session is bound to the other account meanwhile.
	s.sim.Set("sk-upstream", simulator.Always(simulator.Reply{Status: 529}))
	s.wantSaid(t, "sk-upstream", "refresh-9", "oat01-sim-1")
}
