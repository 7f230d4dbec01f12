package upstream

import (
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

// Transports keeps one connection pool per account, so that no account's
// traffic shares a connection with another's. Pools outlive configs. The zero
// value is ready to use.
type Transports struct {
	mu    sync.RWMutex
	pools map[poolKey]*http.Transport
}

// poolKey is what makes two Accounts of different configs share a pool.
type poolKey struct {
	account     string
	concurrency int
}

// For returns the account's pool, made at the first call.
func (t *Transports) For(account *Account) http.RoundTripper {
	key := poolKey{account.Name, account.Concurrency}
	t.mu.RLock()
	pool := t.pools[key]
	t.mu.RUnlock()
	if pool != nil {
		return pool
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if pool = t.pools[key]; pool == nil {
		if t.pools == nil {
			t.pools = make(map[poolKey]*http.Transport)
		}
		pool = newPool(account.Concurrency)
		t.pools[key] = pool
	}
	return pool
}

// Close closes all idle connections. Requests in flight end as they would.
func (t *Transports) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pool := range t.pools {
		pool.CloseIdleConnections()
	}
}

func newPool(concurrency int) *http.Transport {
	idle := concurrency
	if idle == 0 {
		idle = idleConnsUnlimited
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   tlsHandshakeTimeout,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   idle,
		IdleConnTimeout:       idleConnTimeout,
		// The bytes are relayed as they come: no encoding is asked for.
		DisableCompression: true,
	}
}
