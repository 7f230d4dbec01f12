package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// far is a server behind a forwarder.
type far struct {
	url *url.URL // through the forwarder
	*forwarder
	server *httptest.Server

	mu   sync.Mutex
	seen map[string]int
	// hold, while not closed, keeps answers to requests of a name that begins
	// with "hold" from ending, and to those with "mute" from beginning.
	hold chan struct{}
}

// letGo lets the requests end that are held now.
func (f *far) letGo() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.hold)
	f.hold = make(chan struct{})
}

// quiet is a log that nobody reads.
var quiet = log.New(io.Discard, "", 0)

// newFar starts a real server of net/http, which answers "fine".
func newFar(t testing.TB, protocol string, set ...func(*http.Server)) *far {
	f := &far{seen: map[string]int{}, hold: make(chan struct{})}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.Config.ErrorLog = quiet
	for _, set := range set {
		set(f.server.Config)
	}
	scheme := "http"
	if protocol == plain {
		f.server.Start()
	} else {
		scheme = "https"
		f.server.EnableHTTP2 = protocol == h2
		f.server.TLS = &tls.Config{}
		f.server.StartTLS()
	}
	f.forwarder = forward(t, f.server.Listener.Addr().String())
	f.url = &url.URL{Scheme: scheme, Host: f.address}
	t.Cleanup(func() {
		f.letGo()
		f.forwarder.close()
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

func (f *far) serve(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get("X-Name")
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	f.mu.Lock()
	f.seen[name]++
	hold := f.hold
	f.mu.Unlock()
	wait := func() {
		select {
		case <-hold:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if strings.HasPrefix(name, "mute") {
		wait()
	}
	if strings.HasPrefix(name, "hold") {
		io.WriteString(w, "fi")
		w.(http.Flusher).Flush()
		wait()
		io.WriteString(w, "ne")
		return
	}
	io.WriteString(w, "fine")
}

func (f *far) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[name]
}

// pools is a Transports that trusts the server.
func (f *far) pools(t testing.TB, change func(*limits)) *Transports {
	pools := newTransports(t, change)
	if f.url.Scheme == "https" {
		pools.roots = f.server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	return pools
}

// late is a time-out as the gateway's are.
type late struct{}

func (late) Error() string { return "no header within 50 ms" }
func (late) Timeout() bool { return true }

// within is a context that ends with a time-out.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, late{})
	t.Cleanup(cancel)
	return ctx
}

// eventually fails the test if something does not become true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("not so after 5 s: %s", what)
}

func mustAsk(t testing.TB, transport http.RoundTripper, r *http.Request) {
	t.Helper()
	if err := ask(transport, r); err != nil {
		t.Fatalf("%s: %v", r.Header.Get("X-Name"), err)
	}
}

// volley sends ten requests at once, and returns how long each took.
func volley(t *testing.T, f *far, transport http.RoundTripper, limit time.Duration) (took [10]time.Duration, errs [10]error) {
	var all sync.WaitGroup
	for i := range took {
		all.Go(func() {
			begun := time.Now()
			errs[i] = ask(transport, post(within(t, limit), f.url, fmt.Sprint("volley ", i)))
			took[i] = time.Since(begun)
		})
	}
	all.Wait()
	return took, errs
}

// An idle HTTP/2 connection that is dead makes one request late, and a ping
// lets that one be sent again.
func TestAFrozenIdleConnectionMakesOneRequestLate(t *testing.T) {
	t.Parallel()
	f := newFar(t, h2)
	const silence = time.Second
	transport := f.pools(t, func(l *limits) { l.silence, l.pong = silence, silence }).For(&Account{Name: "main"})
	mustAsk(t, transport, post(t.Context(), f.url, "first"))
	f.last().freeze()
	took, errs := volley(t, f, transport, 10*time.Second)
	slow := 0
	for i := range took {
		if errs[i] != nil {
			t.Errorf("request %d: %v", i, errs[i])
		}
		if took[i] > silence*3/2 { // a ping fails after twice the silence
			slow++
		}
		if n := f.count(fmt.Sprint("volley ", i)); n != 1 {
			t.Errorf("request %d was seen %d times", i, n)
		}
	}
	if slow != 1 {
		t.Errorf("%d requests were late, want the one that found the connection dead", slow)
	}
}

// Without a ping, the time-out of the one request ends it; all others have
// their answers.
func TestAFrozenIdleConnectionAndATimeOut(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{plain, plainTLS, h2} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			f := newFar(t, protocol)
			transport := f.pools(t, nil).For(&Account{Name: "main"})
			mustAsk(t, transport, post(t.Context(), f.url, "first"))
			f.last().freeze()
			_, errs := volley(t, f, transport, 2*time.Second)
			lost := 0
			for _, err := range errs {
				if err != nil {
					lost++
				}
			}
			if lost != 1 {
				t.Errorf("%d requests were lost, want 1: %v", lost, errs)
			}
			mustAsk(t, transport, post(within(t, 2*time.Second), f.url, "after"))
		})
	}
}

// Streams in flight on a connection that dies are lost where they had begun; no
// more than one new request joins them.
func TestAConnectionThatFreezesWithStreamsInFlight(t *testing.T) {
	t.Parallel()
	f := newFar(t, h2)
	const silence = time.Second
	transport := f.pools(t, func(l *limits) { l.silence, l.pong = silence, silence }).For(&Account{Name: "main"})
	var held []*http.Response
	for i := range 5 {
		response, err := transport.RoundTrip(post(t.Context(), f.url, fmt.Sprint("hold ", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		held = append(held, response)
	}
	if n := len(f.all()); n != 1 {
		t.Fatalf("five streams took %d connections", n)
	}
	f.last().freeze()
	took, errs := volley(t, f, transport, 10*time.Second)
	slow := 0
	for i := range took {
		if errs[i] != nil {
			t.Errorf("request %d: %v", i, errs[i])
		}
		if took[i] > silence*3/2 { // a ping fails after twice the silence
			slow++
		}
	}
	if slow > 1 {
		t.Errorf("%d new requests were late", slow)
	}
	for i, response := range held {
		if _, err := io.ReadAll(response.Body); err == nil || err.Error() != textLostPing {
			t.Errorf("stream %d ended with %v", i, err)
		}
		if n := f.count(fmt.Sprint("hold ", i)); n != 1 {
			t.Errorf("stream %d was seen %d times", i, n)
		}
	}
}

// A request over a new connection is not sent again when a ping fails: the
// server may be at work on it.
func TestAFailedPingOnANewConnection(t *testing.T) {
	t.Parallel()
	f := newFar(t, h2)
	f.each(func(l *link) {
		time.AfterFunc(300*time.Millisecond, l.freeze)
	})
	transport := f.pools(t, func(l *limits) { l.silence, l.pong = 400*time.Millisecond, 100*time.Millisecond }).For(&Account{Name: "main"})
	err := ask(transport, post(t.Context(), f.url, "mute"))
	if err == nil || err.Error() != textLostPing {
		t.Errorf("the error is %v", err)
	}
	if n := f.count("mute"); n != 1 {
		t.Errorf("it was seen %d times", n)
	}
}

// A connection whose server is slow, but there, is kept.
func TestASlowUpstreamThatAnswersPings(t *testing.T) {
	t.Parallel()
	f := newFar(t, h2)
	transport := f.pools(t, func(l *limits) { l.silence, l.pong = 100*time.Millisecond, 500*time.Millisecond }).For(&Account{Name: "main"})
	time.AfterFunc(time.Second, f.letGo)
	mustAsk(t, transport, post(t.Context(), f.url, "mute"))
	mustAsk(t, transport, post(t.Context(), f.url, "after"))
	if n := len(f.all()); n != 1 {
		t.Errorf("there were %d connections", n)
	}
}

// All that is delayed arrives.
func TestADelayedConnection(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{plain, plainTLS, h2} {
		f := newFar(t, protocol)
		f.each(func(l *link) { l.delay.Store(int64(20 * time.Millisecond)) })
		transport := f.pools(t, nil).For(&Account{Name: "main"})
		_, errs := volley(t, f, transport, 10*time.Second)
		if err := errors.Join(errs[:]...); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

// An idle connection that the other side ends leaves the pool at once.
func TestAnIdleConnectionThatEnds(t *testing.T) {
	for name, end := range map[string]func(*link){
		"reset":       (*link).reset,
		"half-closed": (*link).halfClose,
	} {
		for _, protocol := range []string{plain, plainTLS, h2} {
			t.Run(name+", "+protocol, func(t *testing.T) {
				f := newFar(t, protocol)
				transport := f.pools(t, nil).For(&Account{Name: "main"})
				mustAsk(t, transport, post(t.Context(), f.url, "first"))
				end(f.last())
				p := transport.(*pool)
				eventually(t, "the pool is empty", func() bool { return p.size() == 0 })
				r := post(t.Context(), f.url, "it")
				r.GetBody = nil
				mustAsk(t, transport, r)
			})
		}
	}
}

// size is how many connections a pool holds.
func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.exclusive) + len(p.shared)
}
