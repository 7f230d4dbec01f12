package redistest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// heard is a test that notes how it was ended.
type heard struct {
	testing.TB
	skipped, failed bool
	said            string
}

func (h *heard) Helper() {}
func (h *heard) Skipf(format string, a ...any) {
	h.skipped, h.said = true, fmt.Sprintf(format, a...)
	panic(h)
}
func (h *heard) Fatalf(string, ...any) { h.failed = true; panic(h) }

// require returns how Require ended a test.
func require(t *testing.T) (h *heard) {
	h = &heard{TB: t}
	defer func() {
		if r := recover(); r != nil && r != any(h) {
			panic(r)
		}
	}()
	Require(h)
	return h
}

func TestRequire(t *testing.T) {
	empty, full := t.TempDir(), t.TempDir()
	if err := os.WriteFile(full+"/redis-server", nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		value, path     string
		skipped, failed bool
	}{
		"not asked for":      {"", full, true, false},
		"without the server": {"redis://127.0.0.1:1", empty, false, true},
		"with the server":    {"redis://127.0.0.1:1", full, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SUB2API_TEST_REDIS", test.value)
			t.Setenv("PATH", test.path)
			h := require(t)
			if h.skipped != test.skipped || h.failed != test.failed {
				t.Errorf("skipped is %v, failed %v", h.skipped, h.failed)
			}
			if h.skipped && !strings.Contains(h.said, variable) {
				t.Errorf("it says %q", h.said)
			}
		})
	}
}

// client returns a client of the URL.
func client(t *testing.T, s *Server) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if s.CAFile != "" {
		authority, err := os.ReadFile(s.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		options.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: options.TLSConfig.ServerName}
		options.TLSConfig.RootCAs.AppendCertsFromPEM(authority)
	}
	options.MaxRetries, options.ReadTimeout = -1, 200*time.Millisecond
	c := redis.NewClient(options)
	t.Cleanup(func() { c.Close() })
	return c
}

func set(t *testing.T, c redis.UniversalClient, key, value string) {
	t.Helper()
	if err := c.Set(t.Context(), key, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

func value(t *testing.T, c redis.UniversalClient, key string) string {
	t.Helper()
	got, err := c.Get(t.Context(), key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return got
}

func TestServerIsReachedByItsURL(t *testing.T) {
	Require(t)
	for name, test := range map[string]struct {
		options []Option
		scheme  string
	}{
		"plain":               {nil, "redis://127.0.0.1:"},
		"password":            {[]Option{Password("a b/c")}, "redis://:a%20b%2Fc@127.0.0.1:"},
		"user":                {[]Option{User("gateway", "secret")}, "redis://gateway:secret@127.0.0.1:"},
		"socket":              {[]Option{UnixSocket()}, "unix:///"},
		"socket and password": {[]Option{UnixSocket(), Password("secret")}, "unix://:secret@/"},
		"TLS":                 {[]Option{TLS()}, "rediss://127.0.0.1:"},
		"TLS and user":        {[]Option{TLS(), User("gateway", "secret")}, "rediss://gateway:secret@127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Start(t, test.options...)
			if !strings.HasPrefix(s.URL, test.scheme) {
				t.Errorf("the URL is %s", s.URL)
			}
			c := client(t, s)
			set(t, c, "k", "v")
			if got := value(t, c, "k"); got != "v" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestServerKeepsStrangersOut(t *testing.T) {
	Require(t)
	for name, option := range map[string]Option{
		"password": Password("secret"),
		"user":     User("gateway", "secret"),
		"TLS":      TLS(),
	} {
		t.Run(name, func(t *testing.T) {
			stranger := redis.NewClient(&redis.Options{Addr: Start(t, option).Addr, MaxRetries: -1})
			defer stranger.Close()
			if err := stranger.Ping(t.Context()).Err(); err == nil {
				t.Error("who knows nothing but the address gets in")
			}
		})
	}
}

func TestServerComesBackWithWhatItKeeps(t *testing.T) {
	Require(t)
	for name, test := range map[string]struct {
		options []Option
		end     func(*Server)
		want    string
	}{
		"nothing after a stop":     {nil, (*Server).Stop, ""},
		"nothing after a kill":     {nil, (*Server).Kill, ""},
		"all after a stop":         {[]Option{AppendOnly(EverySecond)}, (*Server).Stop, "v"},
		"all after a kill":         {[]Option{AppendOnly(Always)}, (*Server).Kill, "v"},
		"all without an end":       {[]Option{AppendOnly(Always)}, func(*Server) {}, "v"},
		"a socket after a kill":    {[]Option{UnixSocket(), AppendOnly(Always)}, (*Server).Kill, "v"},
		"TLS after a kill":         {[]Option{TLS(), AppendOnly(Always)}, (*Server).Kill, "v"},
		"one stopped while frozen": {[]Option{AppendOnly(Always)}, func(s *Server) { s.Pause(); s.Stop() }, "v"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Start(t, test.options...)
			addr := s.Addr
			set(t, client(t, s), "k", "v")
			test.end(s)
			s.Restart()
			if s.Addr != addr {
				t.Errorf("it was at %s and is at %s", addr, s.Addr)
			}
			if got := value(t, client(t, s), "k"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPausedServerKeepsConnections(t *testing.T) {
	s := Start(t)
	c := client(t, s)
	set(t, c, "k", "v")
	s.Pause()
	s.Pause()
	connection, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatalf("the kernel takes no connection for it: %v", err)
	}
	defer connection.Close()
	if err := c.Get(t.Context(), "k").Err(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("asked while frozen: %v", err)
	}
	s.Resume()
	if got := value(t, c, "k"); got != "v" {
		t.Errorf("got %q", got)
	}
}

func TestServersEndWithTheirTest(t *testing.T) {
	Require(t)
	var servers []*Server
	t.Run("test", func(t *testing.T) {
		servers = []*Server{Start(t), Start(t), Start(t)}
		servers[1].Pause()
		servers[2].Kill()
	})
	for _, s := range servers {
		if connection, err := net.Dial("tcp", s.Addr); err == nil {
			connection.Close()
			t.Errorf("there is still a server at %s", s.Addr)
		}
		if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there", s.dir)
		}
	}
}

// TestServerEndsWithItsProcess lets a process end with no cleanup run, as a panic
// or a test's deadline would.
func TestServerEndsWithItsProcess(t *testing.T) {
	Require(t)
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can do it")
	}
	const abandon = "REDISTEST_ABANDON"
	if os.Getenv(abandon) != "" {
		fmt.Fprintf(os.Stderr, "%s\n", Start(t).Addr)
		os.Exit(1)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), abandon+"=1", "TMPDIR="+t.TempDir())
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err == nil {
		t.Fatal("the process ended as if all were well")
	}
	lines := strings.Fields(said.String())
	if len(lines) == 0 {
		t.Fatal("the process says nothing")
	}
	addr := lines[len(lines)-1]
	if _, _, err := net.SplitHostPort(addr); err != nil {
		t.Fatalf("the process says %s", &said)
	}
	eventually(t, func(context.Context) error {
		connection, err := net.Dial("tcp", addr)
		if err != nil {
			return nil
		}
		connection.Close()
		return errors.New("the server is still there")
	})
}

func TestCleanTakesThePrefixAlone(t *testing.T) {
	s := Start(t)
	c := client(t, s)
	for _, key := range []string{"{a*}:1", "{a*}:2", "{ab}:1", "x{a*}:1"} {
		set(t, c, key, "v")
	}
	Clean(t, c, "{a*}:")
	left, err := c.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(left)
	if want := []string{"x{a*}:1", "{ab}:1"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}

// eventually tries until it works or ten seconds are over, and says how long it took.
func eventually(t *testing.T, try func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := try(t.Context())
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
