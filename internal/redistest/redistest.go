// Package redistest runs real Redis servers for tests: one, a Cluster, or one
// with Sentinels, on free ports of 127.0.0.1. They end with the test, and on
// Linux with its process too, should a panic or a deadline end that first.
//
// Methods that may fail end the test, so they are for its own goroutine.
package redistest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sub2api/caddy-sub2api/internal/freeport"
)

const (
	variable = "SUB2API_TEST_REDIS"
	program  = "redis-server"

	startAttempts = 5           // with other ports
	patience      = time.Minute // for what takes some seconds, on a machine with nothing else to do

	// Ports are below those that Linux gives to outgoing connections, so that none
	// takes a server's while it is down. Cluster nodes talk to each other on
	// the port busDistance above.
	lowestPort  = 10_000
	highestPort = 21_999
	busDistance = 10_000
)

// Require skips the test unless SUB2API_TEST_REDIS is set, and ends it where it
// is set and there is no redis-server in PATH. All that starts a server
// begins with it.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(variable) == "" {
		t.Skipf("%s is not set: this test starts servers of its own", variable)
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is set, but %v: install it, or unset the variable", variable, err)
	}
}

// Option says how a server differs from one that keeps nothing on disk, asks for
// no password and speaks plain TCP.
type Option func(*setup)

type setup struct {
	lines          []string // of redis.conf
	user, password string
	socket, tls    bool
	sentinel       bool
}

// Fsync says when a server that keeps a log of its writes has them on disk.
type Fsync string

const (
	Always      Fsync = "always"   // before it answers
	EverySecond Fsync = "everysec" // a second later, Redis's default
)

// AppendOnly lets the server log its writes, so that Restart finds them.
func AppendOnly(fsync Fsync) Option {
	return Config("appendonly yes", "appendfsync "+string(fsync))
}

// Password lets the server ask for a password of the default user.
func Password(password string) Option {
	return func(s *setup) {
		s.password = password
		s.lines = append(s.lines, "requirepass "+strconv.Quote(password))
	}
}

// User gives the server a user who may do anything, and nothing to others.
func User(name, password string) Option {
	return func(s *setup) {
		s.user, s.password = name, password
		s.lines = append(s.lines, "user default off", "user "+name+" on "+strconv.Quote(">"+password)+" ~* &* +@all")
	}
}

// UnixSocket lets the server listen on a socket file, and on no port.
func UnixSocket() Option { return func(s *setup) { s.socket = true } }

// TLS lets the server speak TLS alone, with a certificate for 127.0.0.1 and
// localhost from an authority of its own: see Server.CAFile.
func TLS() Option { return func(s *setup) { s.tls = true } }

// Config adds lines to redis.conf.
func Config(lines ...string) Option {
	return func(s *setup) { s.lines = append(s.lines, lines...) }
}

// Start starts a server and returns once it answers.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	Require(t)
	var how setup
	for _, option := range options {
		option(&how)
	}
	// Not t.TempDir, whose names can be too long for a socket's.
	dir, err := os.MkdirTemp("", "redis-")
	if err != nil {
		t.Fatalf("make a directory for %s: %v", program, err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })

	for attempt := 1; ; attempt++ {
		s, err := how.server(t, dir)
		if err != nil {
			t.Fatalf("prepare %s: %v", program, err)
		}
		t.Cleanup(func() {
			s.Kill()
			s.client.Close()
		})
		if err = s.launch(); err == nil {
			return s
		}
		if attempt == startAttempts || !strings.Contains(err.Error(), "Address already in use") {
			t.Fatal(err)
		}
		s.Kill() // so that its cleanup finds nothing to do
	}
}

// server returns a server that does not run yet, with its configuration in dir.
func (s setup) server(t testing.TB, dir string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	server := &Server{Addr: addr, t: t, dir: dir, sentinel: s.sentinel}
	where := url.URL{Scheme: "redis", Host: addr, Path: "/0"}
	if s.password != "" {
		where.User = url.UserPassword(s.user, s.password)
	}
	// A sentinel knows neither save nor appendonly; others may set these again below.
	lines := []string{"bind 127.0.0.1", "dir " + dir}
	if !s.sentinel {
		lines = append(lines, `save ""`, "appendonly no")
	}
	client := &redis.Options{Addr: addr, Username: s.user, Password: s.password,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: time.Second}
	switch {
	case s.socket:
		server.Addr = filepath.Join(dir, "redis.sock")
		where = url.URL{Scheme: "unix", User: where.User, Path: server.Addr, RawQuery: "db=0"}
		client.Network, client.Addr = "unix", server.Addr
		lines = append(lines, "port 0", "unixsocket "+server.Addr)
	case s.tls:
		trust, err := writeCertificates(dir)
		if err != nil {
			return nil, err
		}
		server.CAFile = filepath.Join(dir, authorityFile)
		where.Scheme = "rediss"
		client.TLSConfig = trust
		lines = append(lines, "port 0", fmt.Sprintf("tls-port %d", port), "tls-auth-clients no",
			"tls-ca-cert-file "+server.CAFile, "tls-cert-file "+filepath.Join(dir, certificateFile), "tls-key-file "+filepath.Join(dir, keyFile))
	default:
		lines = append(lines, fmt.Sprintf("port %d", port))
	}
	lines = append(lines, s.lines...)
	server.URL = where.String()
	server.client = redis.NewClient(client)
	return server, os.WriteFile(server.configFile(), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// freePort returns a port that nobody listens on, nor on the one busDistance above.
func freePort() (int, error) { return freeport.Take(lowestPort, highestPort, busDistance) }

// wait tries until it works, and says what it waited for and the last error if
// it never does.
func wait(what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %w", patience, what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
