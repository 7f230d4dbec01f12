package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// listenAnd accepts connections, and does one thing with each until the test
// ends.
func listenAnd(t *testing.T, do func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			running.Go(func() { do(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return listener.Addr().String()
}

// The places where connecting can stop for ever.
func hanging(t *testing.T) map[string]*Account {
	silent := func(conn net.Conn) { io.Copy(io.Discard, conn) }
	certificates, _ := certificate()
	tlsThenSilent := listenAnd(t, func(conn net.Conn) {
		silent(tls.Server(conn, &tls.Config{Certificates: certificates}))
	})
	tunnelThenSilent := listenAnd(t, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		if _, err := http.ReadRequest(in); err == nil {
			fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		}
		io.Copy(io.Discard, in)
	})
	// Takes the user name and the password, and does not answer what is asked for.
	socksThenSilent := listenAnd(t, func(conn net.Conn) {
		greeting := make([]byte, 64)
		conn.Read(greeting)
		conn.Write([]byte{5, 2})
		conn.Read(greeting)
		conn.Write([]byte{1, 0})
		silent(conn)
	})
	nothing := listenAnd(t, silent)
	account := func(base, proxy string) *Account {
		a := &Account{Name: "main"}
		a.BaseURL, _ = url.Parse(base)
		if proxy != "" {
			var err error
			if a.Proxy, err = ParseProxy(proxy); err != nil {
				t.Fatal(err)
			}
		}
		return a
	}
	const user = "DO-NOT-SHOW-user:DO-NOT-SHOW-password@"
	return map[string]*Account{
		"TLS":                       account("https://"+nothing, ""),
		"CONNECT":                   account("https://upstream.internal", "http://"+user+nothing),
		"TLS after CONNECT":         account("https://upstream.internal", "http://"+user+tunnelThenSilent),
		"the proxy's TLS":           account("https://upstream.internal", "https://"+user+nothing),
		"the proxy's TLS, then not": account("http://upstream.internal", "https://"+user+nothing),
		"CONNECT over TLS":          account("https://upstream.internal", "https://"+user+tlsThenSilent),
		"SOCKS5":                    account("https://127.0.0.1:1", "socks5://"+user+nothing),
		"SOCKS5 by name":            account("http://upstream.internal", "socks5h://"+user+nothing),
		"SOCKS5 after the password": account("https://upstream.internal", "socks5h://"+user+socksThenSilent),
	}
}

// Connecting takes no longer than it may, nor than the request has.
func TestConnectingThatHangs(t *testing.T) {
	_, roots := certificate()
	for name, account := range hanging(t) {
		t.Run(name, func(t *testing.T) {
			const limit = 150 * time.Millisecond
			pools := newTransports(t, func(l *limits) { l.connect = limit })
			pools.roots = roots
			transport := pools.For(account)
			before := runtime.NumGoroutine()
			begun := time.Now()
			err := ask(transport, post(t.Context(), account.BaseURL, "it"))
			var unconnected *ConnectError
			if !errors.As(err, &unconnected) || !strings.Contains(err.Error(), "longer than 150ms") {
				t.Errorf("the error is %v", err)
			}
			if took := time.Since(begun); took < limit || took > limit+2*time.Second {
				t.Errorf("it took %v", took)
			}
			if err != nil && (strings.Contains(err.Error(), "DO-NOT-SHOW") || strings.Contains(err.Error(), "proxy") != (account.Proxy != nil)) {
				t.Errorf("the error shows credentials, or not where they were: %v", err)
			}

			pools.limits.connect = time.Minute
			account := *account
			account.Name = "patient"
			transport = pools.For(&account)
			for _, cause := range []error{late{}, errors.New("the client is gone")} {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
				if err := ask(transport, post(ctx, account.BaseURL, "it")); !errors.Is(err, cause) || errors.As(err, &unconnected) {
					t.Errorf("the request ended by %q with %v", cause, err)
				}
			}
			eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+2 })
		})
	}
}

func TestConnectingThatFails(t *testing.T) {
	server := play(t, h2, "ok")
	notTLS := listenAnd(t, func(conn net.Conn) { fmt.Fprint(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") })
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	hangUp := listenAnd(t, func(conn net.Conn) { conn.Close() })
	for name, test := range map[string]struct{ base, want string }{
		"refused":             {"http://" + refused.Addr().String(), "connection refused"},
		"refused, TLS":        {"https://" + refused.Addr().String(), "connection refused"},
		"unknown name":        {"https://upstream.invalid", "upstream.invalid"},
		"unknown certificate": {server.url.String(), "certificate"},
		"no TLS there":        {"https://" + notTLS, "tls: first record does not look like a TLS handshake"},
		"hangs up":            {"https://" + hangUp, "EOF|reset"},
	} {
		t.Run(name, func(t *testing.T) {
			to, err := url.Parse(test.base)
			if err != nil {
				t.Fatal(err)
			}
			r := post(t.Context(), to, "it")
			bodyClosed := false
			r.Body = closeFunc{r.Body, func() { bodyClosed = true }}
			err = ask(newTransports(t, nil).For(&Account{Name: "main"}), r)
			var unconnected *ConnectError
			if !errors.As(err, &unconnected) {
				t.Fatalf("the error is %v", err)
			}
			if !strings.HasPrefix(unconnected.Address, test.base) {
				t.Errorf("it is about %s, want %s", unconnected.Address, test.base)
			}
			found := false
			for part := range strings.SplitSeq(test.want, "|") {
				found = found || strings.Contains(err.Error(), part)
			}
			if !found {
				t.Errorf("the error is %v, want one with %q", err, test.want)
			}
			if !bodyClosed {
				t.Error("the request's body is open")
			}
		})
	}
}

// The port and the spelling of a target.
func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"https://api.example.com":      "api.example.com:443",
		"http://api.example.com":       "api.example.com:80",
		"https://api.example.com:8443": "api.example.com:8443",
		"https://[::1]":                "[::1]:443",
		"http://[::1]:81":              "[::1]:81",
		"https://bücher.example":       "xn--bcher-kva.example:443",
		"https://127.0.0.1:1":          "127.0.0.1:1",
		"http://a_b.example":           "a_b.example:80",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := (target{u.Scheme, u.Host}).address(); got != want {
			t.Errorf("%s is at %s, want %s", text, got, want)
		}
	}
}

// Connections to different targets are not mixed up, and TLS sessions are
// resumed.
func TestTargetsOfOneAccount(t *testing.T) {
	for _, protocol := range []string{plainTLS, h2} {
		a, b := newFar(t, protocol), newFar(t, protocol)
		pools := a.pools(t, nil)
		pools.roots.AddCert(b.server.Certificate())
		transport := pools.For(&Account{Name: "main"})
		for range 3 {
			mustAsk(t, transport, post(t.Context(), a.url, "to a"))
			mustAsk(t, transport, post(t.Context(), b.url, "to b"))
		}
		if a.count("to a") != 3 || b.count("to b") != 3 || len(a.all()) != 1 || len(b.all()) != 1 {
			t.Errorf("%s: %d and %d requests over %d and %d connections", protocol, a.count("to a"), b.count("to b"), len(a.all()), len(b.all()))
		}
		p := transport.(*pool)
		p.bar(&conn{})
		if p.size() != 0 {
			t.Fatalf("%d connections are left", p.size())
		}
		// The last session is kept of each name, and both have the same.
		response, err := transport.RoundTrip(post(t.Context(), b.url, "again"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if !response.TLS.DidResume {
			t.Errorf("%s: the TLS session was not resumed", protocol)
		}
	}
}
