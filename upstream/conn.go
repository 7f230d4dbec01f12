package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/net/idna"
)

// ConnectError is the error of a request for which no connection could be made:
// the name is unknown, the address or the proxy refuses, TLS fails, or all of it
// took longer than 10 seconds. The account's API has not seen the request,
// unless it went over another connection before that ended and let it be sent
// again.
type ConnectError struct {
	// Address is the scheme, host and port that a connection was wanted to.
	Address string
	// Proxied: the way there is the account's proxy.
	Proxied bool
	// Err is what went wrong. It does not hold the proxy's credentials.
	Err error
}

func (e *ConnectError) Error() string {
	if e.Proxied {
		return fmt.Sprintf("connecting to %s through the account's proxy: %v", e.Address, e.Err)
	}
	return fmt.Sprintf("connecting to %s: %v", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// target is whom a connection is made to, as a request's URL has it.
type target struct{ scheme, host string }

// address is the target's host and port, of which http.Transport wants both.
func (t target) address() string {
	u := url.URL{Host: t.host}
	host, port := u.Hostname(), u.Port()
	if ascii, err := idna.Lookup.ToASCII(host); err == nil {
		host = ascii
	}
	if port == "" {
		port = proxyPorts[t.scheme]
	}
	return net.JoinHostPort(host, port)
}

// conn is a connection of a pool.
type conn struct {
	to     target
	client *http.ClientConn
	wire   *wire // nil in clear, where no connection is shared
	// shared: it speaks HTTP/2, so that it carries several requests at a time.
	shared bool

	// The rest is guarded by the pool's mutex.

	inFlight int   // requests that were handed to it and have not ended
	used     bool  // a request was handed to it
	handed   int64 // when the last one was; see now
	// barred: it gets no further request, and is closed when its last one ends.
	barred    bool
	idleSince time.Time // when inFlight became 0
}

// unproven reports whether nothing has come over the connection since a request
// was handed to it: it may be dead without anybody knowing.
func (c *conn) unproven() bool { return c.wire.lastRead.Load() <= c.handed }

// wire is the network's end of a connection: it knows when bytes last came.
type wire struct {
	net.Conn
	lastRead atomic.Int64 // see now
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.lastRead.Store(now())
	}
	return n, err
}

var processStart = time.Now()

// now is a reading of a clock that never goes back.
func now() int64 { return int64(time.Since(processStart)) }

// dialing is the key of a context that holds the conn which a dial is for.
type dialing struct{}

// watched makes a dial function give the conn that it dials for its wire.
func watched(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c, ok := ctx.Value(dialing{}).(*conn)
		if !ok {
			// Without the methods of a *net.TCPConn, which would report a request's body
			// that can't be read as a connection that broke.
			return struct{ net.Conn }{raw}, nil
		}
		c.wire = &wire{Conn: raw}
		return c.wire, nil
	}
}

// dial makes a connection and hands a request to it. The error is the
// context's cause if that has ended, else a *ConnectError.
func (p *pool) dial(ctx context.Context, to target) (*conn, error) {
	c := &conn{to: to, inFlight: 1, used: true}
	limited, cancel := context.WithTimeout(ctx, p.limits.connect)
	defer cancel()
	if to.scheme == schemeHTTPS { // only HTTP/2, which is never in clear here, asks its wire
		limited = context.WithValue(limited, dialing{}, c)
	}
	limited = httptrace.WithClientTrace(limited, &httptrace.ClientTrace{
		// Of two hops, upstream's is the last.
		TLSHandshakeDone: func(state tls.ConnectionState, _ error) { c.shared = state.NegotiatedProtocol == "h2" },
	})
	address := to.address()
	client, err := p.transport.NewClientConn(limited, to.scheme, address)
	if err != nil {
		if expired(ctx) {
			return nil, context.Cause(ctx)
		}
		if expired(limited) {
			err = fmt.Errorf("it took longer than %v: %w", p.limits.connect, err)
		}
		return nil, &ConnectError{Address: to.scheme + "://" + address, Proxied: p.proxied, Err: err}
	}
	c.client = client
	client.Reserve() // if it can't be, sending says why
	p.add(c)
	client.SetStateHook(func(*http.ClientConn) {
		if client.Err() != nil {
			p.drop(c)
		}
	})
	return c, nil
}

// expired reports whether a context has ended. One whose deadline has passed
// has, though its timer may be later than that of the network.
func expired(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}
