// Package proxytest holds real proxies on loopback, for tests: HTTP (CONNECT
// and absolute-form), the same over TLS, and SOCKS5.
package proxytest

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Proxy is a running proxy. It serves only those who send its credentials.
type Proxy struct {
	// Address is host:port.
	Address string

	user, password string
	names          map[string]string // what names resolve to, host:port
	listener       net.Listener

	mu       sync.Mutex
	asked    []string
	conns    map[net.Conn]bool
	closed   bool
	handlers sync.WaitGroup
}

// StartHTTP starts an HTTP proxy; with a config, it is one over TLS. names maps
// the host:port that clients ask for to those that the proxy dials; others it
// dials as they are.
func StartHTTP(config *tls.Config, user, password string, names map[string]string) (*Proxy, error) {
	return start(config, user, password, names, (*Proxy).serveHTTP)
}

// StartSOCKS starts a SOCKS5 proxy; see StartHTTP.
func StartSOCKS(user, password string, names map[string]string) (*Proxy, error) {
	return start(nil, user, password, names, (*Proxy).serveSOCKS)
}

func start(config *tls.Config, user, password string, names map[string]string, serve func(*Proxy, net.Conn)) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxytest: %w", err)
	}
	p := &Proxy{Address: listener.Addr().String(), user: user, password: password, names: names, conns: map[net.Conn]bool{}}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	p.listener = listener
	p.handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.handlers.Go(func() {
				if p.track(conn) {
					serve(p, conn)
				}
				p.drop(conn)
			})
		}
	})
	return p, nil
}

// Close ends the proxy and all connections through it.
func (p *Proxy) Close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for conn := range p.conns {
		conn.Close()
	}
	p.mu.Unlock()
	p.handlers.Wait()
}

// Asked tells what clients with the right credentials asked for, one item each:
// "CONNECT host:port" or "POST http://host:port/path" of an HTTP proxy; "domain
// host:port", "ipv4 host:port" or "ipv6 [host]:port" of a SOCKS proxy.
func (p *Proxy) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.asked...)
}

func (p *Proxy) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

// track takes a connection into care; false if the proxy is closed.
func (p *Proxy) track(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[conn] = true
	return true
}

func (p *Proxy) drop(conn net.Conn) {
	conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

func (p *Proxy) dial(address string) (net.Conn, error) {
	if to, ok := p.names[address]; ok {
		address = to
	}
	conn, err := net.Dial("tcp", address)
	if err == nil && !p.track(conn) {
		conn.Close()
		err = net.ErrClosed
	}
	return conn, err
}

// join copies both ways until one side ends.
func (p *Proxy) join(client io.ReadWriter, clientConn, upstream net.Conn) {
	defer p.drop(upstream)
	p.handlers.Go(func() {
		io.Copy(upstream, client)
		upstream.Close()
	})
	io.Copy(client, upstream)
	clientConn.Close()
}

func (p *Proxy) authorized(r *http.Request) bool {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password))
	return p.user == "" || r.Header.Get("Proxy-Authorization") == want
}

// refuse answers as unhelpful proxies do: with what they were sent.
func (p *Proxy) refuse(conn net.Conn, r *http.Request) {
	sent := strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic ")
	plain, _ := base64.StdEncoding.DecodeString(sent)
	fmt.Fprintf(conn, "HTTP/1.1 407 Wrong credentials %s\r\nContent-Length: 0\r\n\r\n", plain)
}
