package caddymodule_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestAnOperatorLooksAfterAccounts(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		store := "embedded " + filepath.Join(t.TempDir(), "store")
		looksAfterAccounts(t, func(*testing.T) string { return store })
	})
	t.Run("miniredis", func(t *testing.T) {
		server := miniredis.RunT(t)
		looksAfterAccounts(t, func(t *testing.T) string {
			return "redis redis://" + server.Addr() + " {\n\t\t\ttimeout 10s\n\t\t\tspool " + filepath.Join(t.TempDir(), "spool") + "\n\t\t}" // it is slow beside other tests
		})
	})
	t.Run("redis", func(t *testing.T) {
		server := redistest.Start(t)
		looksAfterAccounts(t, func(t *testing.T) string {
			return "redis " + server.URL + " {\n\t\t\tspool " + filepath.Join(t.TempDir(), "spool") + "\n\t\t}"
		})
	})
}

// looksAfterAccounts runs sites one after the other over one store.
func looksAfterAccounts(t *testing.T, store func(*testing.T) string) {
	o := &operator{site: startSiteOver(t, "10s", store(t))}
	o.wantAnswer(t)
	if out := o.run(t, "accounts"); !strings.Contains(out, "main  anthropic  api_key  default  50        0       no limit     0        active") {
		t.Errorf("accounts:\n%s", out)
	}

	// What is in flight when the account is paused ends in peace.
	o.sim.Set("", simulator.Always(simulator.Reply{Deltas: 20, Pause: 100 * time.Millisecond}))
	var whole atomic.Int64
	streams := o.streams(t, 5, func(answer string, err error) {
		if err == nil && strings.Contains(answer, "event: message_stop") {
			whole.Add(1)
		}
	})
	if out := o.run(t, "accounts pause main"); !strings.HasPrefix(out, "account main is disabled: paused by the admin API at 20") {
		t.Errorf("accounts pause: %s", out)
	}
	o.wantPaused(t)
	streams.Wait()
	if whole.Load() != 5 {
		t.Errorf("%d of 5 streams came out whole", whole.Load())
	}

	// A pause outlives reloads, and even a process that is killed at once.
	o.write(t, o.caddyfile("10s", "retry {\n\t\t\tmax_switches 1\n\t\t}"))
	if cmd, out := gatewaytest.Command(t, "reload", "--config", o.config, "--adapter", "caddyfile", "--address", o.admin); cmd.Run() != nil {
		t.Fatal(out)
	}
	o.wantPaused(t)
	o.run(t, "accounts resume main")
	o.wantAnswer(t)
	o.run(t, "accounts pause main")
	o.stop(t, syscall.SIGKILL)
	next := &operator{site: startSiteOver(t, "1s", store(t))}
	next.wantPaused(t)
	if out := next.run(t, "accounts resume main"); out != "account main is active\n" {
		t.Errorf("accounts resume: %s", out)
	}
	next.wantAnswer(t)
	next.resets(t)
	next.stop(t, syscall.SIGTERM)
	for _, log := range []string{o.log.String(), next.log.String()} {
		if strings.Contains(log, "sk-upstream") || strings.Contains(log, "panic") {
			t.Error(log)
		}
	}
}

// wantPaused: nobody is served, and told that no retry helps.
func (o *operator) wantPaused(t *testing.T) {
	t.Helper()
	status, header, body := o.ask(t, http.MethodPost, "/v1/messages", question)
	if status != http.StatusServiceUnavailable || header.Get("X-Should-Retry") != "false" || header.Get("Retry-After") != "" {
		t.Errorf("while paused: %d %v %s", status, header, body)
	}
	if out := o.run(t, "accounts list"); !strings.Contains(out, "disabled") || !strings.Contains(out, "\n  paused by the admin API at 20") {
		t.Errorf("accounts:\n%s", out)
	}
}

// resets an account that upstream limits, with an error that quotes its key.
func (o *operator) resets(t *testing.T) {
	t.Helper()
	o.sim.Set("", simulator.Always(simulator.Reply{
		Status: http.StatusTooManyRequests, Message: "the key sk-upstream has used up its window",
		Limits: &simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{{Name: "5h", Status: "rejected", Reset: time.Now().Add(time.Hour), Utilization: 1}}},
	}))
	o.wantSpent(t, "sk-alice", http.StatusTooManyRequests)
	o.sim.Set("", simulator.Always(simulator.Reply{}))
	o.wantSpent(t, "sk-alice", http.StatusServiceUnavailable)
	var accounts []struct {
		State   string
		Until   time.Time `json:"state_until"`
		Reason  string
		Windows []struct{ Name, Status string }
	}
	out := o.run(t, "accounts --json")
	if err := json.Unmarshal([]byte(out), &accounts); err != nil || len(accounts) != 1 {
		t.Fatal(err, out)
	}
	a := accounts[0]
	if a.State != "rate_limited" || time.Until(a.Until) < 59*time.Minute || len(a.Windows) != 1 || a.Windows[0].Status != "rejected" ||
		!strings.Contains(a.Reason, "has used up its window") || strings.Contains(out, "sk-upstream") {
		t.Errorf("accounts: %s", out)
	}
	if out := o.run(t, "accounts reset main"); out != "account main is active\n" {
		t.Errorf("accounts reset: %s", out)
	}
	o.wantAnswer(t)
}
