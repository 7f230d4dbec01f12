package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// park makes n connections and leaves them idle.
func park(t *testing.T, f *far, p *pool, n int) {
	t.Helper()
	var held []*http.Response
	for range n {
		held = append(held, onNew(t, f, p))
	}
	f.letGo()
	for _, response := range held {
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	if p.size() != n {
		t.Fatalf("%d connections are parked, want %d", p.size(), n)
	}
}

// How a request ends that is not answered in time, and what it does to
// connections: its own, and the account's idle ones.
func TestWhatEndsARequestAndItsConnections(t *testing.T) {
	gone := errors.New("the client is gone")
	for _, protocol := range []string{plain, plainTLS, h2} {
		for _, test := range []struct {
			name  string
			ask   string // mute: no header comes; hold: the body does not end
			end   error
			read  bool // the body is read when it ends, not closed
			doubt bool // the connections are not used any more
		}{
			{"no header in time", "mute", late{}, false, true},
			{"no header by the deadline", "mute", context.DeadlineExceeded, false, true},
			{"no header before the client is gone", "mute", gone, false, false},
			{"no header before something else", "mute", &net.OpError{Op: "read", Err: gone}, false, false},
			{"no header before it is cancelled", "mute", context.Canceled, false, false},
			{"the body is late, and is read", "hold", late{}, true, true},
			{"the body is late, and is closed", "hold", late{}, false, true},
			{"the client is gone, the body is read", "hold", gone, true, false},
			{"the client is gone, the body is closed", "hold", gone, false, false},
		} {
			t.Run(protocol+", "+test.name, func(t *testing.T) {
				f := newFar(t, protocol)
				transport := f.pools(t, nil).For(&Account{Name: "main"})
				park(t, f, transport.(*pool), 3)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if test.ask == "mute" {
					time.AfterFunc(50*time.Millisecond, func() { cancel(test.end) })
				}
				response, err := transport.RoundTrip(post(ctx, f.url, test.ask))
				if (err == nil) != (test.ask == "hold") {
					t.Fatalf("the error is %v", err)
				}
				if err == nil {
					time.AfterFunc(10*time.Millisecond, func() { cancel(test.end) })
					if test.read {
						if body, err := io.ReadAll(response.Body); err == nil {
							t.Errorf("the answer is whole: %q", body)
						}
					} else {
						<-ctx.Done()
					}
					response.Body.Close()
				}
				// HTTP/1.1 has to close the request's own connection.
				want := 3
				if test.doubt {
					want = 0
				} else if protocol != h2 {
					want = 2
				}
				p := transport.(*pool)
				eventually(t, fmt.Sprintf("%d connections are left", want), func() bool { return p.size() == want })
				// A cancelled stream's connection is proven by its next answer to a ping.
				mustAsk(t, transport, post(t.Context(), f.url, "after"))
				made := 3
				if test.doubt {
					made = 4
				}
				if n := len(f.all()); n != made {
					t.Errorf("%d connections were made, want %d", n, made)
				}
			})
		}
	}
}

// What else goes over the HTTP/2 connection of a request that timed out goes on;
// then it is closed.
func TestOtherStreamsOutliveATimeOut(t *testing.T) {
	f := newFar(t, h2)
	transport := f.pools(t, nil).For(&Account{Name: "main"})
	other, err := transport.RoundTrip(post(t.Context(), f.url, "hold"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Body.Close()
	if err := ask(transport, post(within(t, 50*time.Millisecond), f.url, "mute")); err == nil {
		t.Fatal("it was answered")
	}
	if n := len(f.all()); n != 1 {
		t.Fatalf("two streams took %d connections", n)
	}
	mustAsk(t, transport, post(t.Context(), f.url, "next"))
	if n := len(f.all()); n != 2 {
		t.Errorf("there were %d connections, want a new one", n)
	}
	first := f.all()[0]
	if first.ended.Load() {
		t.Error("the first connection was closed before its last stream ended")
	}
	f.letGo()
	if body, err := io.ReadAll(other.Body); err != nil || string(body) != "fine" {
		t.Errorf("the other stream ended with %q, %v", body, err)
	}
	other.Body.Close()
	eventually(t, "the first connection is closed", first.ended.Load)
	mustAsk(t, transport, post(t.Context(), f.url, "last"))
	if n := len(f.all()); n != 2 {
		t.Errorf("there were %d connections", n)
	}
}

// Closing the body of an answer that timed out may take long on a dead
// connection; idle ones are closed before.
func TestIdleConnectionsAreClosedBeforeABodyThatIsLate(t *testing.T) {
	f := newFar(t, h2)
	transport := f.pools(t, nil).For(&Account{Name: "main"})
	p := transport.(*pool)
	park(t, f, p, 2)
	ctx, cancel := context.WithCancelCause(t.Context())
	response, err := transport.RoundTrip(post(ctx, f.url, "hold"))
	if err != nil {
		t.Fatal(err)
	}
	cancel(late{})
	x := response.Body.(*exchange)
	left := -1
	x.ReadCloser = closeFunc{x.ReadCloser, func() { left = p.size() }}
	x.Close()
	if left != 0 {
		t.Errorf("%d connections were left when the body was closed", left)
	}
}

type closeFunc struct {
	io.ReadCloser
	before func()
}

func (c closeFunc) Close() error {
	c.before()
	return c.ReadCloser.Close()
}

// Bodies that are closed early, or never read, leave nothing behind.
func TestBodiesThatAreNotRead(t *testing.T) {
	for _, protocol := range []string{plain, plainTLS, h2} {
		t.Run(protocol, func(t *testing.T) {
			f := newFar(t, protocol)
			transport := f.pools(t, nil).For(&Account{Name: "main"})
			for _, name := range []string{"it", "hold", "it", "hold"} {
				response, err := transport.RoundTrip(post(t.Context(), f.url, name))
				if err != nil {
					t.Fatal(err)
				}
				if name == "it" && protocol == plain {
					io.ReadFull(response.Body, make([]byte, 1))
				}
				response.Body.Close()
				response.Body.Close()
			}
			p := transport.(*pool)
			eventually(t, "no request is in flight", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				for _, c := range append(p.shared, p.exclusive...) {
					if c.inFlight != 0 {
						return false
					}
				}
				return true
			})
			if n := p.size(); protocol == h2 && n != 1 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}
