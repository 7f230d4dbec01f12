package caddymodule_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// overRedis is the store of a test: its server, and more lines of its block.
func overRedis(t *testing.T, address, more string) string {
	return "redis redis://" + address + " {\n\t\t\ttimeout 300ms\n\t\t\tspool " + filepath.Join(t.TempDir(), "spool") + "\n\t\t\t" + more + "\n\t\t}"
}

// ask sends a request of alice's and returns status, header and body.
func (s *site) ask(t *testing.T, method, path, body string) (int, http.Header, string) {
	t.Helper()
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Api-Key", "sk-alice")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(answer)
}

const question = `{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`

func (s *site) wantAnswer(t *testing.T) {
	t.Helper()
	if status, _, body := s.ask(t, http.MethodPost, "/v1/messages", question); status != http.StatusOK {
		t.Errorf("status %d: %s\n%s", status, body, s.log)
	}
}

// balance is what alice has left.
func (s *site) balance(t *testing.T) billing.USD {
	t.Helper()
	status, _, body := s.ask(t, http.MethodGet, "/v1/usage", "")
	var answer struct{ Remaining json.Number }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		t.Fatalf("status %d: %s\n%s", status, body, s.log)
	}
	amount, err := billing.ParseUSD(answer.Remaining.String())
	if err != nil {
		t.Fatal(err)
	}
	return amount
}

// wantBalance waits until alice has so much left at every site.
func wantBalance(t *testing.T, want billing.USD, sites ...*site) {
	t.Helper()
	for _, s := range sites {
		for end := time.Now().Add(15 * time.Second); s.balance(t) != want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("alice has %s left, want %s\n%s", s.balance(t), want, s.log)
			}
		}
	}
}

// opening is what alice begins with.
const opening billing.USD = 100_000_000_000

func TestGatewaysShareWhatIsInRedis(t *testing.T) {
	server := miniredis.RunT(t)
	first := startSiteOver(t, "1s", overRedis(t, server.Addr(), ""))
	second := startSiteOver(t, "1s", overRedis(t, server.Addr(), ""))
	first.wantAnswer(t)
	price := opening - first.balance(t)
	if price <= 0 {
		t.Fatalf("a request cost %s", price)
	}
	wantBalance(t, opening-price, second)
	second.wantAnswer(t)
	wantBalance(t, opening-2*price, first, second)
	for more, ok := range map[string]bool{"retry {\n\t\t\tmax_switches 1\n\t\t}": true, "billing {\n\t\t\tdurability power\n\t\t}": false} {
		second.write(t, second.caddyfile("1s", more))
		cmd, out := gatewaytest.Command(t, "reload", "--config", second.config, "--adapter", "caddyfile", "--address", second.admin)
		if err := cmd.Run(); (err == nil) != ok || !ok && !strings.Contains(out.String(), "durability is another than that of the store") {
			t.Errorf("reload with %s: %v %s", more, err, out)
		}
	}
	for _, key := range server.Keys() {
		if !strings.HasPrefix(key, "{sub2api}:") {
			t.Errorf("the key %q is outside the namespace", key)
		}
	}
	first.stop(t, syscall.SIGKILL)
	second.wantAnswer(t)
	wantBalance(t, opening-3*price, second)
	second.stop(t, syscall.SIGTERM)
	if strings.Contains(first.log.String()+second.log.String(), "panic") {
		t.Error(first.log, second.log)
	}
}

func TestServingWhileRedisIsDown(t *testing.T) {
	server := miniredis.RunT(t)
	address := server.Addr()
	before := startSiteOver(t, "1s", overRedis(t, address, ""))
	before.wantAnswer(t)
	price := opening - before.balance(t)
	server.Close()
	after := startSiteOver(t, "1s", overRedis(t, address, "")) // it has never seen the store
	for range 5 {
		before.wantAnswer(t)
		after.wantAnswer(t)
	}
	after.stop(t, syscall.SIGKILL) // its records are in the spool
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	wantBalance(t, opening-6*price, before)
	again := startSiteOver(t, "1s", after.store)
	wantBalance(t, opening-11*price, again, before)
	again.wantAnswer(t)
	wantBalance(t, opening-12*price, again, before)
}

func TestRefusingWhileRedisIsDown(t *testing.T) {
	server := miniredis.RunT(t)
	address := server.Addr()
	server.Close()
	s := startSiteOver(t, "1s", overRedis(t, address, "on_outage refuse"))
	refused := func() {
		t.Helper()
		for path, method := range map[string]string{"/v1/messages": http.MethodPost, "/v1/usage": http.MethodGet} {
			status, header, body := s.ask(t, method, path, question)
			if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(body, `"type":"api_error"`) {
				t.Errorf("%s: %d %v %s", path, status, header, body)
			}
		}
	}
	served := func() {
		t.Helper()
		for end := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			status, _, body := s.ask(t, http.MethodPost, "/v1/messages", question)
			if status == http.StatusOK {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it refuses still: %d %s\n%s", status, body, s.log)
			}
		}
	}
	refused()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	served()
	server.Close()
	refused()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	served()
}

func TestValidateNeedsNoRedis(t *testing.T) {
	server := miniredis.RunT(t)
	address := server.Addr()
	server.Close()
	s := &site{dir: t.TempDir(), admin: gatewaytest.FreeAddress(t), url: "http://" + gatewaytest.FreeAddress(t), store: overRedis(t, address, "")}
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	s.sim = sim
	s.config = filepath.Join(s.dir, "Caddyfile")
	s.write(t, s.caddyfile("1s", ""))
	validate := func() {
		t.Helper()
		if cmd, out := gatewaytest.Command(t, "validate", "--config", s.config, "--adapter", "caddyfile"); cmd.Run() != nil {
			t.Errorf("caddy validate: %s", out)
		}
		if keys := server.Keys(); len(keys) > 0 {
			t.Errorf("caddy validate left %q in Redis", keys)
		}
	}
	validate()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	validate()
}
