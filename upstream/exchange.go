package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// exchange is one request on one connection, from when it was handed over until
// its answer has ended. It is the body of that answer.
type exchange struct {
	io.ReadCloser // net/http's
	pool          *pool
	conn          *conn
	ctx           context.Context // the request's
	reused        bool            // the connection had carried a request before
	sent          time.Time
	trace         httptrace.ClientTrace
	answered      atomic.Bool // a byte of an answer has come
	ended         atomic.Bool
}

// RoundTrip implements http.RoundTripper; see Transports.For.
func (p *pool) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.roundTrip(r)
	if err != nil {
		// It is closed already where net/http has got as far as sending it.
		closeBody(r)
		var unconnected *ConnectError
		if p.proxied && !errors.As(err, &unconnected) {
			err = fmt.Errorf("through the account's proxy: %w", err)
		}
		return nil, err
	}
	if p.transport.Proxy != nil && response.StatusCode == http.StatusProxyAuthRequired {
		// What only a proxy can say is no answer of upstream.
		response.Body.Close()
		return nil, &ConnectError{Address: r.URL.Scheme + "://" + r.URL.Host, Proxied: true, Err: proxyRefused(response.StatusCode)}
	}
	return response, nil
}

func (p *pool) roundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	to := target{r.URL.Scheme, r.URL.Host}
	c, reused := p.take(to)
	if c == nil {
		var err error
		if c, err = p.dial(ctx, to); err != nil {
			return nil, err
		}
	}
	x := &exchange{pool: p, conn: c, ctx: ctx, reused: reused}
	response, err := x.send(r)
	if err == nil || !x.again(r, err) {
		return response, err
	}
	second, rewindErr := rewound(r)
	if rewindErr != nil {
		return nil, err
	}
	if c, err = p.dial(ctx, to); err != nil {
		closeBody(second)
		return nil, err
	}
	x = &exchange{pool: p, conn: c, ctx: ctx}
	if response, err = x.send(second); err != nil {
		closeBody(second)
		return nil, err
	}
	response.Request = r
	return response, nil
}

func (x *exchange) send(r *http.Request) (*http.Response, error) {
	x.sent = time.Now()
	x.trace.GotFirstResponseByte = func() { x.answered.Store(true) }
	response, err := x.conn.client.RoundTrip(r.WithContext(httptrace.WithClientTrace(x.ctx, &x.trace)))
	if err != nil {
		x.end(err)
		return nil, err
	}
	response.Request = r
	if response.Body == http.NoBody {
		x.end(io.EOF)
		return response, nil
	}
	x.ReadCloser = response.Body
	response.Body = x
	return response, nil
}

// Read implements io.Reader.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.ReadCloser.Read(p)
	if err != nil {
		x.end(err)
	}
	return n, err
}

// Close implements io.Closer.
func (x *exchange) Close() error {
	if !x.ended.Load() && timedOut(x.ctx) {
		// Before net/http's, which may wait for a connection that is dead.
		x.pool.bar(x.conn)
	}
	err := x.ReadCloser.Close()
	x.end(http.ErrBodyReadAfterClose)
	return err
}

// end is called when there is no more to come; io.EOF says that all has come.
func (x *exchange) end(err error) {
	if !x.ended.CompareAndSwap(false, true) {
		return
	}
	if err != io.EOF && timedOut(x.ctx) {
		x.pool.bar(x.conn)
	}
	x.pool.release(x.conn)
}

// timedOut reports whether a context was ended by a time-out, be it its own
// deadline or a cause that says so.
func timedOut(ctx context.Context) bool {
	if ctx.Err() == nil {
		return false
	}
	var cause interface{ Timeout() bool }
	return errors.As(context.Cause(ctx), &cause) && cause.Timeout()
}

// again reports whether a request that failed without an answer is sent once
// more.
func (x *exchange) again(r *http.Request, err error) bool {
	if x.answered.Load() || x.ctx.Err() != nil || hasBody(r) && r.GetBody == nil {
		return false
	}
	if unprocessed(err) {
		return true
	}
	if !x.reused {
		return false
	}
	return lostPing(err) || time.Since(x.sent) <= x.pool.limits.resend && x.conn.brokeOff(err)
}

// What net/http's HTTP/2 says; its errors have no types that could be asked
// for.
const (
	textLostPing   = "http2: client connection lost"
	textShutDown   = "http2: Transport received Server's graceful shutdown GOAWAY"
	textGoAway     = "http2: Transport received GOAWAY from server ErrCode:"
	textUnusable   = "http2: client conn not usable"
	textIdleClosed = "http: server closed idle connection"
)

// lostPing reports whether an HTTP/2 connection ended because a ping was not
// answered.
func lostPing(err error) bool { return err.Error() == textLostPing }

// unprocessed reports whether the error is HTTP/2's word that the request was
// not processed: the stream was refused, or is beyond the last one of a GOAWAY.
// Net/http sends a request again after a PROTOCOL_ERROR too, which is what some
// servers say to one stream too many (RFC 9113, 5.1.2).
func unprocessed(err error) bool {
	var reset http2.StreamError
	if errors.As(err, &reset) {
		return reset.Code == http2.ErrCodeRefusedStream || reset.Code == http2.ErrCodeProtocol && reset.Cause != nil && reset.Cause.Error() == "received from peer"
	}
	text := err.Error()
	return text == textShutDown || text == textUnusable || strings.HasPrefix(text, textGoAway)
}

// brokeOff reports whether a request failed because its connection ended, and
// not by something of its own.
func (c *conn) brokeOff(err error) bool {
	if c.client.Err() == nil {
		return false
	}
	if c.shared {
		var reset http2.StreamError
		return !errors.As(err, &reset)
	}
	// An HTTP/1.1 connection also ends with a request whose body can't be read.
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || err.Error() == textIdleClosed
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

// rewound is a request to be sent a second time.
func rewound(r *http.Request) (*http.Request, error) {
	second := *r
	if hasBody(r) {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		second.Body = body
	}
	return &second, nil
}
