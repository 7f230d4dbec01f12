// Package gatewaytest runs gateways for tests as processes of their own, which
// can be killed, frozen and started again. The test's own binary is the caddy
// command: its TestMain calls Main. They end with the test, and with its process
// too, should a panic or a deadline end that first.
//
// Methods that may fail end the test, so they are for its own goroutine.
package gatewaytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/freeport"
)

const (
	asCaddy = "SUB2API_TEST_AS_CADDY"
	// AsCaddy in the environment makes the test's binary the caddy command.
	AsCaddy = asCaddy + "=1"

	startTimeout = 40 * time.Second
	stopTimeout  = 15 * time.Second

	// Ports are below those that Linux gives to outgoing connections, and above
	// those of package redistest, so that none takes a gateway's while it is down.
	lowestPort  = 22_000
	highestPort = 31_999
)

// faults are what must not be in a gateway's log, whatever is done to it.
var faults = []string{"panic", "DATA RACE", "failed inside the gateway"}

// Main is TestMain. caddy is that command's main function.
func Main(m *testing.M, caddy func()) {
	if os.Getenv(asCaddy) != "" {
		go endWithTest()
		caddy()
		return
	}
	os.Exit(m.Run())
}

// endWithTest ends this gateway when the process of the test has ended, however
// it did: that holds the other end of its input.
func endWithTest() {
	io.Copy(io.Discard, os.Stdin)
	os.Exit(1)
}

// command is a caddy command, with a home of its own.
func command(t testing.TB, ctx context.Context, home string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), AsCaddy, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	if _, err := cmd.StdinPipe(); err != nil { // see endWithTest
		t.Fatal(err)
	}
	return cmd
}

// Command is a caddy command that is not started yet, and what it prints. It ends with the
// test, and after 50 s at most.
func Command(t testing.TB, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	t.Cleanup(cancel)
	cmd, output := command(t, ctx, t.TempDir(), args...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, output
}

// Gateway is one gateway, of one process at a time.
type Gateway struct {
	Name  string
	URL   string // http://127.0.0.1:port
	Admin string // that of the admin endpoint, where the Caddyfile has one

	t     testing.TB
	dir   string
	cmd   *exec.Cmd
	ended chan struct{} // closed once cmd has been waited for
}

// Start starts a gateway with a Caddyfile in which SITE stands for its own
// address, and ADMIN for that of its admin endpoint. It does not wait until the gateway serves. When the test ends, so does
// the gateway, and faults of its own in its log fail the test.
func Start(t testing.TB, name, caddyfile string) *Gateway {
	t.Helper()
	g := &Gateway{Name: name, URL: "http://" + FreeAddress(t), Admin: "http://" + FreeAddress(t), t: t, dir: t.TempDir()}
	g.Configure(caddyfile)
	g.launch()
	t.Cleanup(g.finish)
	return g
}

// Configure writes the Caddyfile that the gateway's next process begins with.
func (g *Gateway) Configure(caddyfile string) {
	g.t.Helper()
	text := strings.NewReplacer("SITE", g.URL, "ADMIN", strings.TrimPrefix(g.Admin, "http://")).Replace(caddyfile)
	if err := os.WriteFile(g.configFile(), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// Restart starts the gateway again at its address and with the files it left,
// after a Kill if it still runs. It does not wait until the gateway serves.
func (g *Gateway) Restart() {
	g.t.Helper()
	g.Kill()
	g.launch()
}

func (g *Gateway) launch() {
	g.t.Helper()
	output, err := os.OpenFile(g.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer output.Close()
	cmd, ended := command(g.t, context.Background(), g.dir, "run", "--config", g.configFile(), "--adapter", "caddyfile"), make(chan struct{})
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	g.cmd, g.ended = cmd, ended
}

// Wait waits until the gateway serves.
func (g *Gateway) Wait() {
	g.t.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		response, err := client.Get(g.URL + "/v1/usage")
		if err == nil {
			response.Body.Close()
			return
		}
		if !g.Runs() {
			g.t.Fatalf("gateway %s ended: %v%s", g.Name, g.cmd.ProcessState, g.tail())
		}
		if time.Now().After(end) {
			g.t.Fatalf("gateway %s did not start: %v%s", g.Name, err, g.tail())
		}
	}
}

// Runs reports whether its process is alive, if only frozen.
func (g *Gateway) Runs() bool {
	select {
	case <-g.ended:
		return false
	default:
		return true
	}
}

// Pid is the id of its process.
func (g *Gateway) Pid() int { return g.cmd.Process.Pid }

// Freeze stops the gateway's process in its tracks, until Thaw.
func (g *Gateway) Freeze() { g.t.Helper(); g.signal(syscall.SIGSTOP) }

// Thaw has a frozen gateway go on.
func (g *Gateway) Thaw() { g.t.Helper(); g.signal(syscall.SIGCONT) }

// Kill ends the gateway as a crash would, if it runs.
func (g *Gateway) Kill() {
	g.t.Helper()
	if err := g.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		g.t.Errorf("killing gateway %s: %v", g.Name, err)
	}
	<-g.ended
}

// Stop ends the gateway as an operator would, if it runs.
func (g *Gateway) Stop() {
	g.t.Helper()
	if g.Runs() {
		g.cmd.Process.Signal(syscall.SIGCONT)
		g.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-g.ended:
	case <-time.After(stopTimeout):
		g.t.Errorf("gateway %s did not end within %v of SIGTERM", g.Name, stopTimeout)
		g.Kill()
	}
}

func (g *Gateway) signal(signal syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(signal); err != nil {
		g.t.Fatalf("sending %v to gateway %s: %v", signal, g.Name, err)
	}
}

// finish ends the gateway and looks for faults of its own.
func (g *Gateway) finish() {
	g.Stop()
	logged := g.Log()
	for _, fault := range faults {
		if i := strings.Index(logged, fault); i >= 0 {
			g.t.Errorf("the log of gateway %s has a fault of its own: …%s", g.Name, logged[max(0, i-300):min(len(logged), i+1000)])
		}
	}
	if g.t.Failed() {
		g.t.Logf("the log of gateway %s ends:%s", g.Name, g.tail())
	}
}

// Log is what the gateway's processes have logged.
func (g *Gateway) Log() string {
	logged, err := os.ReadFile(g.logFile())
	if err != nil {
		return err.Error()
	}
	return string(logged)
}

// tail is the end of the gateway's log.
func (g *Gateway) tail() string {
	logged := g.Log()
	return "\n" + logged[max(0, len(logged)-3000):]
}

func (g *Gateway) configFile() string { return filepath.Join(g.dir, "Caddyfile") }
func (g *Gateway) logFile() string    { return filepath.Join(g.dir, "log") }

// FreeAddress is an address of this machine that nobody listens on, and no other test
// gets.
func FreeAddress(t testing.TB) string {
	t.Helper()
	port, err := freeport.Take(lowestPort, highestPort)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
