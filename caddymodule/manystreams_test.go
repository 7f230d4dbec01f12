package caddymodule_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func init() {
	caddy.RegisterModule(settler{})
	httpcaddyfile.RegisterHandlerDirective("test_settle", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return settler{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_settle", httpcaddyfile.Before, "respond")
}

// settler makes a process give back the memory that it does not need, so that
// what is left can be compared.
type settler struct{}

// CaddyModule implements caddy.Module.
func (settler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_settle", New: func() caddy.Module { return settler{} }}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (settler) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	for range 3 { // what a sync.Pool holds goes in the second
		debug.FreeOSMemory()
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// holding is an upstream whose streams stand still in the middle of their
// content until they are let go.
type holding struct {
	sim   *simulator.Server
	going chan struct{}
}

func (h *holding) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.sim.ServeHTTP(&heldWriter{ResponseWriter: w, r: r, going: h.going}, r)
}

type heldWriter struct {
	http.ResponseWriter
	r      *http.Request
	going  chan struct{}
	deltas int
}

// Unwrap is for http.ResponseController.
func (w *heldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *heldWriter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("content_block_delta")) {
		if w.deltas++; w.deltas == 2 {
			select {
			case <-w.going:
			case <-w.r.Context().Done():
			}
		}
	}
	return w.ResponseWriter.Write(p)
}

// longTalk is the n-th of many conversations of about 50 kB, as an agent has
// them.
func longTalk(n int) string {
	return fmt.Sprintf(`{"model":"claude-sonnet-5-5","max_tokens":4096,"stream":true,"metadata":{"user_id":"user_%064d_account__session_00000000-0000-4000-8000-%012d"},`, n, n) +
		`"system":[{"type":"text","text":"You are a helpful agent.","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"` +
		strings.Repeat(`A line of text with \"quotes\" in it.\n`, 1300) + `"}]}`
}

// crowd is a Caddy process, as gateway or as plain reverse_proxy, and its
// upstream.
type crowd struct {
	*site
	settle string
	held   *holding
	want   string // what every stream is in the end
	client *http.Client
}

// startCrowd starts a process with the handler of that Caddyfile, in which SIM
// stands for the upstream's address.
func startCrowd(t *testing.T, n int, handler string) *crowd {
	t.Helper()
	sim := simulator.New(simulator.Config{Keep: -1})
	sim.Set("", simulator.Always(simulator.Fixed(simulator.Reply{Deltas: 20}, []byte(longTalk(0)))))
	c := &crowd{
		held:   &holding{sim: sim, going: make(chan struct{})},
		settle: gatewaytest.FreeAddress(t),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}},
	}
	direct := httptest.NewServer(sim)
	c.want = c.stream(t, direct.URL, 0, func() {})
	direct.Close()
	server := httptest.NewServer(c.held)
	t.Cleanup(server.Close)
	t.Cleanup(sync.OnceFunc(func() { close(c.held.going) })) // before server.Close

	dir := t.TempDir()
	c.site = &site{dir: dir, config: filepath.Join(dir, "Caddyfile"), url: "http://" + gatewaytest.FreeAddress(t)}
	handler = strings.NewReplacer("SIM", strings.TrimPrefix(server.URL, "http://"), "STORE", filepath.Join(dir, "store")).Replace(handler)
	c.write(t, fmt.Sprintf("{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n}\nhttp://%s {\n\ttest_settle\n}\n%s {\n%s\n}\n", c.settle, c.url, handler))
	c.cmd, c.log = gatewaytest.Command(t, "run", "--config", c.config, "--adapter", "caddyfile")
	// A machine of two cores and 1 GiB: of that much memory, Caddy by itself sets
	// this limit to Go's collector, in a container.
	c.cmd.Env = append(c.cmd.Env, "GOMAXPROCS=2", "GOMEMLIMIT=920MiB")
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get("http://" + c.settle)
		if err == nil {
			response.Body.Close()
			return c
		}
		if time.Now().After(end) {
			t.Fatalf("Caddy did not start: %v\n%s", err, c.log)
		}
	}
}

// stream asks for the n-th stream and returns all that came; begun is called
// when its content has begun.
func (c *crowd) stream(t *testing.T, url string, n int, begun func()) string {
	request, _ := http.NewRequest(http.MethodPost, url+"/v1/messages", strings.NewReader(longTalk(n)))
	for name, value := range map[string]string{
		"X-Api-Key": "sk-alice", "Anthropic-Version": "2023-06-01", "Content-Type": "application/json", "Accept": "application/json",
		"User-Agent": "claude-cli/2.0.14 (external, cli)", "X-App": "cli", "Anthropic-Beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
		"X-Stainless-Lang": "js", "X-Stainless-Runtime": "node", "X-Stainless-Os": "Linux", "X-Stainless-Arch": "x64", "X-Stainless-Retry-Count": "0",
	} {
		request.Header.Set(name, value)
	}
	response, err := c.client.Do(request)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer response.Body.Close()
	var all strings.Builder
	for lines := bufio.NewReaderSize(response.Body, 1024); ; {
		line, err := lines.ReadString('\n')
		all.WriteString(line)
		if strings.HasPrefix(line, "event: content_block_delta") {
			begun()
			begun = func() {}
		}
		if err == io.EOF {
			return strings.ReplaceAll(all.String(), ": keepalive\n\n", "")
		}
		if err != nil {
			t.Errorf("stream %d broke off: %v", n, err)
			return ""
		}
	}
}

// open opens n streams, the first of which has that number. They have begun
// when it returns; what it returns lets them go on and waits for their ends.
func (c *crowd) open(t *testing.T, first, n int) (finish func()) {
	t.Helper()
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for i := range n {
		ended.Go(func() {
			start := sync.OnceFunc(begun.Done)
			defer start()
			if got := c.stream(t, c.url, first+i, start); got != c.want {
				t.Errorf("stream %d did not come out whole: %.1000s", i, got)
			}
		})
	}
	begun.Wait()
	return func() {
		close(c.held.going)
		ended.Wait()
		c.held.going = make(chan struct{})
	}
}

// memory is what the process holds once it has settled, in bytes.
func (c *crowd) memory(t *testing.T) int64 {
	t.Helper()
	response, err := http.Get("http://" + c.settle)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return processMemory(t, c.cmd.Process.Pid, "VmRSS")
}

const (
	plainProxy   = "reverse_proxy SIM {\n\tflush_interval -1\n\ttransport http {\n\t\tkeepalive_idle_conns_per_host 10000\n\t}\n}"
	plainGateway = "sub2api {\n\tstore embedded STORE\n\taccount main {\n\t\tapi_key sk-upstream\n\t\tbase_url http://SIM\n\t}\n\tgroup default {\n\t\trate_multiplier 0.1\n\t}\n\tuser alice {\n\t\tbalance 100\n\t\tconcurrency 0\n\t\tkey sk-alice default\n\t}\n}"
)

// perStream is the memory that each of n streams takes that stand still, in
// bytes.
func perStream(t *testing.T, n int, handler string) (*crowd, int64) {
	t.Helper()
	c := startCrowd(t, n, handler)
	c.open(t, 1_000_000, 20)() // what is allocated once
	c.client.CloseIdleConnections()
	before := c.memory(t)
	finish := c.open(t, 0, n)
	after := c.memory(t)
	finish()
	return c, (after - before) / int64(n)
}

// A stream that stands still takes at most a quarter more memory in the gateway
// than in reverse_proxy: the growth of the process's resident memory from no
// stream to 500, each of them asked for with 50 kB. All come out whole.
func TestIdleStreamsTakeLittleMemory(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector's own memory would be measured")
	}
	const n = 500
	_, proxy := perStream(t, n, plainProxy)
	_, gateway := perStream(t, n, plainGateway)
	ratio := float64(gateway) / float64(proxy)
	t.Logf("memory of an idle stream: gateway %d bytes, reverse_proxy %d, ratio %.2f", gateway, proxy, ratio)
	if ratio > 1.25 {
		t.Errorf("an idle stream takes %d bytes, %.2f times the %d that it takes in reverse_proxy", gateway, ratio, proxy)
	}
}

// 5,000 streams at once, on two cores: each comes out whole and leaves its
// record, and the process never has more than 1 GiB resident.
func TestManyStreams(t *testing.T) {
	const n = 5000
	if testing.Short() {
		t.Skip("-short")
	}
	if raceEnabled() {
		t.Skip("the race detector's own memory would be measured")
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// Two ends of a connection in either process, and some for the rest.
	if need := uint64(2*n + 500); limit.Cur < need {
		t.Skipf("%d streams need %d open files in a process, and %d are allowed here (ulimit -n)", n, need, limit.Cur)
	}
	began := time.Now()
	c, each := perStream(t, n, plainGateway)
	peak := processMemory(t, c.cmd.Process.Pid, "VmHWM")
	t.Logf("%d streams: %d bytes each, the process at most %d MiB, in %s", n, each, peak>>20, time.Since(began).Round(time.Millisecond))
	if peak > 1<<30 {
		t.Errorf("the process took %d MiB", peak>>20)
	}
	c.stop(t, syscall.SIGTERM)
	if records, _ := c.records(t); len(records) != n+20 {
		t.Errorf("%d records of %d streams", len(records), n+20)
	}
}

func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, setting := range info.Settings {
		if setting.Key == "-race" {
			return setting.Value == "true"
		}
	}
	return false
}
