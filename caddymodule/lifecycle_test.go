package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestMain(m *testing.M) { gatewaytest.Main(m, caddycmd.Main) }

// site is one gateway process and its upstream.
type site struct {
	dir, config, admin, url string
	store                   string // after the word; "" = a directory of its own
	sim                     *simulator.Server
	cmd                     *exec.Cmd
	log                     *bytes.Buffer
}

func (s *site) caddyfile(grace, more string) string {
	store := s.store
	if store == "" {
		store = "embedded " + filepath.Join(s.dir, "store")
	}
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	grace_period %s
}
%s {
	sub2api {
		store %s
		account main {
			api_key sk-upstream
			base_url %s
		}
		group default
		user alice {
			balance 100
			concurrency 0
			key sk-alice default
		}
		%s
	}
}
`, s.admin, grace, s.url, store, s.sim.URL, more)
}

func (s *site) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startSite runs a gateway in a process of its own.
func startSite(t *testing.T, grace string) *site {
	t.Helper()
	return startSiteOver(t, grace, "")
}

func startSiteOver(t *testing.T, grace, store string) *site {
	t.Helper()
	dir := t.TempDir()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	s := &site{dir: dir, config: filepath.Join(dir, "Caddyfile"), admin: gatewaytest.FreeAddress(t), url: "http://" + gatewaytest.FreeAddress(t), store: store, sim: sim}
	s.write(t, s.caddyfile(grace, ""))
	s.cmd, s.log = gatewaytest.Command(t, "run", "--config", s.config, "--adapter", "caddyfile")
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; {
		response, err := http.Get(s.url + "/v1/usage")
		if err == nil {
			response.Body.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("the gateway did not start: %v\n%s", err, s.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop sends a signal and waits for the process to end.
func (s *site) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	s.cmd.Wait()
}

// records reads the store of a site that has stopped.
func (s *site) records(t *testing.T) (records []billing.Record, balance billing.Balance) {
	t.Helper()
	ledger, err := sqliteledger.Open(t.Context(), filepath.Join(s.dir, "store"), sqliteledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	if err := ledger.Records(t.Context(), billing.RecordFilter{}, func(r *billing.Record) bool {
		records = append(records, *r)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if balance, err = ledger.Balance(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	charged := billing.USD(0)
	for _, r := range records {
		charged += r.Charged
	}
	if want, _ := billing.ParseUSD("100"); charged+balance.Amount != want {
		t.Errorf("charged %s and balance %s are not the opening balance, %s", charged, balance.Amount, want)
	}
	return records, balance
}

// streams opens n streams and calls each for every one that has ended, with all
// that came. They have begun when it returns.
func (s *site) streams(t *testing.T, n int, each func(answer string, err error)) *sync.WaitGroup {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	var begun, ended sync.WaitGroup
	for i := range n {
		begun.Add(1)
		ended.Go(func() {
			start := sync.OnceFunc(begun.Done)
			defer start()
			body := fmt.Sprintf(`{"model":"claude-sonnet-5-5","max_tokens":99,"stream":true,"messages":[{"role":"user","content":"stream %d"}]}`, i)
			request, _ := http.NewRequest(http.MethodPost, s.url+"/v1/messages", strings.NewReader(body))
			request.Header.Set("X-Api-Key", "sk-alice")
			response, err := client.Do(request)
			if err != nil {
				each("", err)
				return
			}
			defer response.Body.Close()
			var answer strings.Builder
			first := make([]byte, 1)
			if _, err = io.ReadFull(response.Body, first); err == nil {
				start()
				answer.Write(first)
				_, err = io.Copy(&answer, response.Body)
			}
			each(answer.String(), err)
		})
	}
	begun.Wait()
	return &ended
}

func TestReloadCutsNoStream(t *testing.T) {
	for _, test := range []struct {
		name   string
		config func(*site) string
	}{
		{"same store, other settings", func(s *site) string { return s.caddyfile("5s", "scheduling {\n\t\t\tsticky_ttl 2h\n\t\t}") }},
		{"without the directive", func(s *site) string {
			return fmt.Sprintf("{\n\tadmin %s\n\tpersist_config off\n\tauto_https off\n}\n%s {\n\trespond hi\n}\n", s.admin, s.url)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startSite(t, "5s")
			s.sim.Set("", simulator.Always(simulator.Reply{Deltas: 20, Pause: 100 * time.Millisecond, Usage: nil}))
			const n = 200
			var whole atomic.Int64
			ended := s.streams(t, n, func(answer string, err error) {
				if err == nil && strings.Count(answer, "event: message_stop") == 1 && !strings.Contains(answer, "event: error") {
					whole.Add(1)
				}
			})
			s.write(t, test.config(s))
			for range 2 {
				if cmd, out := gatewaytest.Command(t, "reload", "--config", s.config, "--adapter", "caddyfile", "--address", s.admin); cmd.Run() != nil {
					t.Fatalf("caddy reload: %s", out)
				}
			}
			ended.Wait()
			if got := whole.Load(); got != n {
				t.Errorf("%d of %d streams came out whole", got, n)
			}
			s.stop(t, syscall.SIGTERM)
			if records, _ := s.records(t); len(records) != n {
				t.Errorf("%d records of %d streams", len(records), n)
			}
			if strings.Contains(s.log.String(), "panic") {
				t.Error(s.log)
			}
		})
	}
}

func TestValidateAndAdaptWhileServing(t *testing.T) {
	s := startSite(t, "1s")
	for _, args := range [][]string{{"validate", "--config", s.config, "--adapter", "caddyfile"}, {"adapt", "--config", s.config, "--adapter", "caddyfile"}} {
		cmd, out := gatewaytest.Command(t, args...)
		began := time.Now()
		if err := cmd.Run(); err != nil {
			t.Errorf("caddy %s: %v\n%s", args[0], err, out)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("caddy %s took %v", args[0], took)
		}
	}
	s.write(t, strings.ReplaceAll(s.caddyfile("1s", ""), "sk-alice", "{env.SUB2API_TEST_ABSENT}"))
	cmd, out := gatewaytest.Command(t, "validate", "--config", s.config, "--adapter", "caddyfile")
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "SUB2API_TEST_ABSENT") {
		t.Errorf("validating a config with an unset variable: %v\n%s", err, out)
	}
}

func TestSecondProcessOnOneStore(t *testing.T) {
	s := startSite(t, "1s")
	s.streams(t, 1, func(string, error) {}).Wait()
	other := *s
	other.admin, other.url = gatewaytest.FreeAddress(t), "http://"+gatewaytest.FreeAddress(t)
	other.config = filepath.Join(t.TempDir(), "Caddyfile")
	other.write(t, other.caddyfile("1s", ""))
	cmd, out := gatewaytest.Command(t, "run", "--config", other.config, "--adapter", "caddyfile")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		request, _ := http.NewRequest(http.MethodGet, other.url+"/v1/usage", nil)
		request.Header.Set("X-Api-Key", "sk-alice")
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode != http.StatusInternalServerError {
				t.Errorf("a second process on the store answers %d", response.StatusCode)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if text := out.String(); !strings.Contains(text, "another process") || !strings.Contains(text, "caddy reload") {
		t.Errorf("the log does not say that another process has the store:\n%s", text)
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	for _, test := range []struct {
		name, grace string
		pause       time.Duration
		whole       bool
	}{
		{"within the grace period", "20s", 50 * time.Millisecond, true},
		{"beyond it", "300ms", time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startSite(t, test.grace)
			s.sim.Set("", simulator.Always(simulator.Reply{Deltas: 20, Pause: test.pause}))
			const n = 50
			var whole, failed atomic.Int64
			ended := s.streams(t, n, func(answer string, _ error) {
				if strings.Contains(answer, "event: message_stop") {
					whole.Add(1)
				} else if strings.HasSuffix(answer, "\n\n") && strings.Count(answer, "event: error") == 1 {
					failed.Add(1)
				}
			})
			s.stop(t, syscall.SIGTERM)
			ended.Wait()
			records, _ := s.records(t)
			if len(records) != n {
				t.Errorf("%d records of %d streams", len(records), n)
			}
			want := [2]int64{n, 0}
			if !test.whole {
				want = [2]int64{0, n}
				for _, r := range records {
					if !r.Estimated || r.Input == 0 {
						t.Fatalf("a stream that was cut has the record %+v", r)
					}
				}
			}
			if got := [2]int64{whole.Load(), failed.Load()}; got != want {
				t.Errorf("whole, ended by an error event: %v, want %v\n%s", got, want, s.log)
			}
		})
	}
}
