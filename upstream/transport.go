package upstream

import (
	"crypto/x509"
	"net/http"
	"sync"
	"time"
)

// idleConnsUnlimited is how many idle connections an account without a
// concurrency limit may keep.
const idleConnsUnlimited = 1024

// limits are the times of a pool.
type limits struct {
	// connect bounds all of connecting: look-up, proxy, TLS.
	connect time.Duration
	// idle is how long a connection without a request is kept.
	idle time.Duration
	// silence is how long nothing may come over an HTTP/2 connection before it is
	// pinged, pong how long the answer may take.
	silence, pong time.Duration
	// resend is how soon after a request was sent a reused connection must have
	// ended for the request to be sent again.
	resend time.Duration
}

var defaultLimits = limits{
	connect: 10 * time.Second,
	idle:    5 * time.Minute,
	silence: 15 * time.Second,
	pong:    15 * time.Second,
	resend:  5 * time.Second,
}

// Transports keeps one connection pool per account and proxy, so that no
// account's traffic shares a connection with another's. Pools outlive configs;
// one that no config asks for any more is empty after 5 minutes. Proxies of the
// environment (HTTP_PROXY and the like) are not used. The zero value is ready
// to use.
type Transports struct {
	mu     sync.RWMutex
	pools  map[poolKey]*pool
	roots  *x509.CertPool // who is trusted; nil = whom the system trusts
	limits *limits        // nil = defaultLimits
}

// poolKey is what makes two Accounts of different configs share a pool.
type poolKey struct {
	account     string
	concurrency int
	proxy       string
}

// For returns the account's pool, made at the first call. What went wrong on
// the way to the account, its proxy included, is an error of RoundTrip; no such
// error holds the proxy's credentials. Where no connection could be had, it is
// a *ConnectError, within 10 seconds.
//
// Connections are not trusted. HTTP/2 is pinged after 15 seconds of silence and
// given up 15 seconds later; while nothing has come over an HTTP/2 connection
// since a request was sent, it is given no other. When a request's context ends
// with a cause whose Timeout method returns true, before its answer was read
// to the end, its connection gets no further request and the account's idle
// connections are closed.
//
// A request that can be sent again (without a body, or with GetBody) is, once
// and over a new connection, if no byte of an answer has come, and either the
// server said that it did not process it, or a connection that had carried a
// request before ended: by a ping without an answer, or within 5 seconds.
func (t *Transports) For(account *Account) http.RoundTripper {
	key := poolKey{account: account.Name, concurrency: account.Concurrency}
	if account.Proxy != nil {
		key.proxy = account.Proxy.String()
	}
	t.mu.RLock()
	p := t.pools[key]
	t.mu.RUnlock()
	if p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p = t.pools[key]; p == nil {
		if t.pools == nil {
			t.pools = make(map[poolKey]*pool)
		}
		times := defaultLimits
		if t.limits != nil {
			times = *t.limits
		}
		p = newPool(account, t.roots, times)
		t.pools[key] = p
	}
	return p
}

// Close closes all idle connections, and those in use as soon as they are not.
// Requests in flight end as they would.
func (t *Transports) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pools {
		p.close()
	}
}
