// Package nodes tests gateways that share a store in Redis: processes of their
// own between real clients and a simulated upstream, and a redis-server that is
// killed, frozen and replaced. What the upstream saw, what clients got and what
// the ledger has must agree, whatever happens to whom.
package nodes_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sub2api/caddy-sub2api/caddymodule"
)

// asCaddy makes this test binary the caddy command, so that each gateway is a
// process of its own.
const asCaddy = "SUB2API_TEST_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		go endWithTest()
		caddycmd.Main()
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

// node is one gateway process.
type node struct {
	t     testing.TB
	name  string
	url   string
	cmd   *exec.Cmd
	log   string // the file that has its output
	ended chan struct{}
}

// startNode starts a gateway with a Caddyfile in which SITE stands for its own
// address. wait waits until it answers.
func startNode(t testing.TB, name, caddyfile string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, name: name, url: "http://" + freeAddress(t), log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(caddyfile, "SITE", n.url)), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := os.Create(n.log)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	n.cmd = exec.Command(os.Args[0], "run", "--config", config, "--adapter", "caddyfile")
	n.cmd.Env = append(os.Environ(), asCaddy+"=1", "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	n.cmd.Stdout, n.cmd.Stderr = output, output
	if _, err := n.cmd.StdinPipe(); err != nil { // see endWithTest
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(n.ended)
		n.cmd.Wait()
	}()
	t.Cleanup(n.stop)
	return n
}

func (n *node) wait() {
	n.t.Helper()
	client := &http.Client{Timeout: time.Second}
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := client.Get(n.url + "/v1/usage")
		if err == nil {
			response.Body.Close()
			return
		}
		select {
		case <-n.ended:
			n.t.Fatalf("gateway %s ended: %v%s", n.name, n.cmd.ProcessState, n.tail())
		default:
		}
		if time.Now().After(end) {
			n.t.Fatalf("gateway %s did not start: %v%s", n.name, err, n.tail())
		}
	}
}

func (n *node) signal(signal syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(signal); err != nil {
		n.t.Fatalf("sending %v to gateway %s: %v", signal, n.name, err)
	}
}

func (n *node) freeze() { n.t.Helper(); n.signal(syscall.SIGSTOP) }
func (n *node) thaw()   { n.t.Helper(); n.signal(syscall.SIGCONT) }

// kill ends the gateway as a crash would.
func (n *node) kill() {
	n.t.Helper()
	n.signal(syscall.SIGKILL)
	<-n.ended
}

// stop ends the gateway as an operator would, if it still runs, and looks for
// faults of its own in its log.
func (n *node) stop() {
	select {
	case <-n.ended:
	default:
		n.cmd.Process.Signal(syscall.SIGCONT)
		n.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-n.ended:
	case <-time.After(15 * time.Second):
		n.t.Errorf("gateway %s did not end within 15s of SIGTERM", n.name)
		n.cmd.Process.Kill()
		<-n.ended
	}
	logged := n.logged()
	for _, fault := range []string{"panic", "DATA RACE", "failed inside the gateway"} {
		if i := strings.Index(logged, fault); i >= 0 {
			n.t.Errorf("the log of gateway %s has a fault of its own: …%s", n.name, logged[max(0, i-300):min(len(logged), i+1000)])
		}
	}
	if n.t.Failed() {
		n.t.Logf("the log of gateway %s ends:%s", n.name, n.tail())
	}
}

func (n *node) logged() string {
	logged, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(logged)
}

// tail is the end of the gateway's log.
func (n *node) tail() string {
	logged := n.logged()
	return "\n" + logged[max(0, len(logged)-3000):]
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// within waits until done is true, and fails the test if that takes longer.
func within(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// list writes at most ten of many.
func list[T any](all []T) string {
	var out strings.Builder
	for i, one := range all {
		if i == 10 {
			fmt.Fprintf(&out, "\n\tand %d more", len(all)-i)
			break
		}
		fmt.Fprintf(&out, "\n\t%v", one)
	}
	return out.String()
}
