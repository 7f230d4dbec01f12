package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of a connection pool.
const (
	dialTimeout         = 10 * time.Second
	tlsHandshakeTimeout = 10 * time.Second
	idleConnTimeout     = 5 * time.Minute
	// idleConnsUnlimited is how many idle connections an account without a
	// concurrency limit may keep.
	idleConnsUnlimited = 1024
)

// Transports keeps one connection pool per account and proxy, so that no
// account's traffic shares a connection with another's. Pools outlive configs;
// one that no config asks for any more is empty after 5 minutes. Proxies of the
// environment (HTTP_PROXY and the like) are not used. The zero value is ready
// to use.
type Transports struct {
	mu    sync.RWMutex
	pools map[poolKey]pool
	roots *x509.CertPool // who is trusted; nil = whom the system trusts
}

// poolKey is what makes two Accounts of different configs share a pool.
type poolKey struct {
	account     string
	concurrency int
	proxy       string
}

// pool is one account's connections.
type pool interface {
	http.RoundTripper
	CloseIdleConnections()
}

// For returns the account's pool, made at the first call. What went wrong on
// the way to the account, its proxy included, is an error of RoundTrip; no such
// error holds the proxy's credentials.
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
			t.pools = make(map[poolKey]pool)
		}
		p = t.newPool(account)
		t.pools[key] = p
	}
	return p
}

// Close closes all idle connections. Requests in flight end as they would.
func (t *Transports) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pools {
		p.CloseIdleConnections()
	}
}

func (t *Transports) newPool(account *Account) pool {
	idle := account.Concurrency
	if idle == 0 {
		idle = idleConnsUnlimited
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	direct := &http.Transport{
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: t.roots},
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   tlsHandshakeTimeout,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   idle,
		IdleConnTimeout:       idleConnTimeout,
		// The bytes are relayed as they come: no encoding is asked for.
		DisableCompression: true,
	}
	if account.Proxy == nil {
		return direct
	}
	return throughProxy(direct, dialer, account.Proxy)
}
