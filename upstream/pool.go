package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// pool is one account's connections. No method of an http.ClientConn that may
// call the state hook (Reserve, Release, RoundTrip, Close) is called while mu is
// held: the hook takes it too.
type pool struct {
	transport *http.Transport // makes connections; keeps none
	limits    limits
	keep      int  // how many idle connections are kept
	proxied   bool // connections go through the account's proxy

	mu sync.Mutex
	// exclusive are the idle HTTP/1.1 connections, the last used one last.
	exclusive []*conn
	// shared are all HTTP/2 connections that may get a request.
	shared []*conn
	closed bool
	// timer closes what has been idle for too long; ticking: it is going to.
	timer   *time.Timer
	ticking bool
}

func newPool(account *Account, roots *x509.CertPool, times limits) *pool {
	p := &pool{limits: times, keep: account.Concurrency, proxied: account.Proxy != nil}
	if p.keep == 0 {
		p.keep = idleConnsUnlimited
	}
	dialer := &net.Dialer{KeepAlive: 30 * time.Second}
	p.transport = &http.Transport{
		DialContext: watched(dialer.DialContext),
		// Sessions are resumed by this account alone.
		TLSClientConfig:       &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: times.silence, PingTimeout: times.pong},
		ExpectContinueTimeout: time.Second,
		// The bytes are relayed as they come: no encoding is asked for.
		DisableCompression: true,
	}
	if account.Proxy != nil {
		throughProxy(p.transport, dialer, account.Proxy)
	}
	return p
}

// take hands a request to the connection that was useful last; nil if there is
// none that can be used. reused reports whether it had carried another.
func (p *pool) take(to target) (c *conn, reused bool) {
	for {
		p.mu.Lock()
		if c = p.pick(to); c == nil {
			p.mu.Unlock()
			return nil, false
		}
		reused = c.used
		c.inFlight++
		c.used = true
		c.handed = now()
		p.mu.Unlock()
		if c.client.Reserve() == nil {
			return c, reused
		}
		// It has just ended, or has just got as many requests as it may have.
		p.release(c)
	}
}

// pick finds a usable connection; an exclusive one leaves the idle ones.
func (p *pool) pick(to target) *conn {
	var best *conn
	for _, c := range p.shared {
		if c.to == to && !c.unproven() && (best == nil || c.wire.lastRead.Load() > best.wire.lastRead.Load()) && c.client.Available() > 0 {
			best = c
		}
	}
	if best != nil {
		return best
	}
	for i, c := range slices.Backward(p.exclusive) {
		if c.to == to {
			p.exclusive = slices.Delete(p.exclusive, i, i+1)
			return c
		}
	}
	return nil
}

// add takes in a new connection, to which a request is handed.
func (p *pool) add(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.handed = now()
	if c.shared {
		p.shared = append(p.shared, c)
	}
}

// release ends a request that was handed to a connection.
func (p *pool) release(c *conn) {
	p.mu.Lock()
	c.inFlight--
	done := c.inFlight == 0
	if done && !c.barred && (c.shared || c.client.Available() > 0) {
		done = p.closed || !p.rest(c)
	}
	if done {
		p.forget(c)
	}
	p.mu.Unlock()
	if done {
		c.client.Close()
	}
}

// rest makes a connection an idle one. It returns false if it can't be kept: it
// has ended, or there are enough.
func (p *pool) rest(c *conn) bool {
	idle := len(p.exclusive)
	for _, other := range p.shared {
		if other.inFlight == 0 && other != c {
			idle++
		}
	}
	if idle >= p.keep || c.client.Err() != nil {
		return false
	}
	c.idleSince = time.Now()
	if !c.shared {
		p.exclusive = append(p.exclusive, c)
	}
	if !p.ticking {
		p.ticking = true
		if p.timer == nil {
			p.timer = time.AfterFunc(p.limits.idle, p.expire)
		} else {
			p.timer.Reset(p.limits.idle)
		}
	}
	return true
}

// bar keeps further requests from a connection, and closes all idle ones: what
// happened to it may have happened to them too.
func (p *pool) bar(c *conn) {
	p.mu.Lock()
	c.barred = true
	p.forget(c)
	idle := p.idle(time.Now())
	p.mu.Unlock()
	closeAll(idle)
}

// drop is for a connection that has ended.
func (p *pool) drop(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.barred = true
	p.forget(c)
}

// close closes idle connections, and lets none be idle from now on.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	idle := p.idle(time.Now())
	p.mu.Unlock()
	closeAll(idle)
}

// expire closes the connections that have been idle for too long.
func (p *pool) expire() {
	p.mu.Lock()
	idle := p.idle(time.Now().Add(-p.limits.idle))
	next, some := time.Time{}, false
	for _, list := range [][]*conn{p.exclusive, p.shared} {
		for _, c := range list {
			if c.inFlight == 0 && (!some || c.idleSince.Before(next)) {
				next, some = c.idleSince, true
			}
		}
	}
	if p.ticking = some && !p.closed; p.ticking {
		p.timer.Reset(time.Until(next.Add(p.limits.idle)))
	}
	p.mu.Unlock()
	closeAll(idle)
}

// idle takes out the connections that have been idle since then.
func (p *pool) idle(since time.Time) []*conn {
	var found []*conn
	stale := func(c *conn) bool {
		if c.inFlight > 0 || c.idleSince.After(since) {
			return false
		}
		c.barred = true
		found = append(found, c)
		return true
	}
	p.exclusive = slices.DeleteFunc(p.exclusive, stale)
	p.shared = slices.DeleteFunc(p.shared, stale)
	return found
}

func (p *pool) forget(c *conn) {
	list := &p.exclusive
	if c.shared {
		list = &p.shared
	}
	if i := slices.Index(*list, c); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		c.client.Close()
	}
}
