package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// newTransports is a pool whose times are those of use, but for those that the
// test changes.
func newTransports(t testing.TB, change func(*limits)) *Transports {
	times := defaultLimits
	if change != nil {
		change(&times)
	}
	pools := &Transports{limits: &times}
	t.Cleanup(pools.Close)
	return pools
}

// post makes a request with a body that can be had again.
func post(ctx context.Context, to *url.URL, name string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String()+"/v1/messages", bytes.NewReader([]byte(`{"hello":"there"}`)))
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-Name", name)
	return r
}

// ask sends a request and reads its answer; an answer that is not "fine" is an
// error.
func ask(transport http.RoundTripper, r *http.Request) error {
	response, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	if string(body) != "fine" {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// What becomes of a request whose connection, or stream, ends.
func TestWhatIsSentAgain(t *testing.T) {
	t.Parallel()
	both := []string{plain, plainTLS, h2}
	http1 := []string{plain, plainTLS}
	http2 := []string{h2}
	for _, test := range []struct {
		name      string
		protocols []string
		fresh     bool // nothing was sent over the connection before
		steps     []string
		seen      int    // how often the server saw the request
		conns     int    // how many connections there were
		wrong     string // part of the client's error, or | another; "" = it has its answer
	}{
		{"ends without an answer", both, false, []string{"close", "ok"}, 2, 2, ""},
		{"is reset without an answer", both, false, []string{"reset", "ok"}, 2, 2, ""},
		{"ends twice without an answer", both, false, []string{"close", "close", "ok"}, 2, 2, "EOF"},
		{"ends without an answer later", both, false, []string{"late", "ok"}, 1, 1, "EOF"},
		{"ends without an answer, new", both, true, []string{"close", "ok"}, 1, 1, "EOF"},
		{"is reset without an answer, new", both, true, []string{"reset", "ok"}, 1, 1, "connection reset|EOF"},
		{"ends after a 103", both, false, []string{"103", "ok"}, 1, 1, "EOF"},
		{"ends after a 103, new", both, true, []string{"103", "ok"}, 1, 1, "EOF"},
		{"ends in its answer", both, false, []string{"half", "ok"}, 1, 1, "the answer broke off"},
		{"ends in its answer, new", both, true, []string{"half", "ok"}, 1, 1, "the answer broke off"},
		{"answers nonsense", http1, false, []string{"garbage", "ok"}, 1, 1, "malformed"},
		{"is refused", http2, false, []string{"refuse", "ok"}, 2, 2, ""},
		{"is refused, new", http2, true, []string{"refuse", "ok"}, 2, 2, ""},
		{"is refused twice", http2, false, []string{"refuse", "refuse", "ok"}, 2, 2, "REFUSED_STREAM"},
		{"is one stream too many", http2, false, []string{"protocol", "ok"}, 2, 2, ""},
		{"fails at the server", http2, false, []string{"internal", "ok"}, 1, 1, "INTERNAL_ERROR"},
		{"fails at a server that then ends", http2, false, []string{"internal, close", "ok"}, 1, 1, "INTERNAL_ERROR"},
		{"is after a GOAWAY's last", http2, false, []string{"goaway", "ok"}, 2, 2, ""},
		{"is after a GOAWAY's last, new", http2, true, []string{"goaway", "ok"}, 2, 2, ""},
		{"is after an error's last", http2, false, []string{"goaway, error", "ok"}, 2, 2, ""},
		{"is after an error's last, new", http2, true, []string{"goaway, error", "ok"}, 2, 2, ""},
		{"is a GOAWAY's last and ends", http2, false, []string{"goaway, close", "ok"}, 2, 2, ""},
		{"is a GOAWAY's last and ends, new", http2, true, []string{"goaway, close", "ok"}, 1, 1, "GOAWAY"},
	} {
		for _, protocol := range test.protocols {
			t.Run(test.name+", "+protocol, func(t *testing.T) {
				steps := test.steps
				if !test.fresh {
					steps = append([]string{"ok"}, steps...)
				}
				server := play(t, protocol, steps...)
				pools := newTransports(t, func(l *limits) { l.resend = lateness * 2 / 3 })
				pools.roots = server.roots
				transport := pools.For(&Account{Name: "main"})
				if !test.fresh {
					if err := ask(transport, post(t.Context(), server.url, "first")); err != nil {
						t.Fatal(err)
					}
				}
				err := ask(transport, post(t.Context(), server.url, "it"))
				switch {
				case test.wrong == "" && err != nil:
					t.Errorf("no answer: %v", err)
				case test.wrong != "" && (err == nil || !slices.ContainsFunc(strings.Split(test.wrong, "|"), func(part string) bool { return strings.Contains(err.Error(), part) })):
					t.Errorf("the error is %v, want one with %q", err, test.wrong)
				}
				var unconnected *ConnectError
				if errors.As(err, &unconnected) {
					t.Errorf("%v: it says that there was no connection", err)
				}
				if seen, conns := server.count("it"); seen != test.seen || conns != test.conns {
					t.Errorf("the server saw it %d times, over %d connections; want %d over %d", seen, conns, test.seen, test.conns)
				}
			})
		}
	}
}

// Only what can be said again is.
func TestWhatCanBeSentAgain(t *testing.T) {
	for name, test := range map[string]struct {
		request func(*http.Request)
		seen    int
	}{
		"a body that can be had again": {func(*http.Request) {}, 2},
		"a body that can't":            {func(r *http.Request) { r.GetBody = nil }, 1},
		"a body that fails to be had": {func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		}, 1},
		"no body": {func(r *http.Request) { r.Method, r.Body, r.GetBody, r.ContentLength = http.MethodGet, nil, nil, 0 }, 2},
		"an empty body": {func(r *http.Request) {
			r.Body, r.GetBody, r.ContentLength = http.NoBody, nil, 0
		}, 2},
	} {
		for _, protocol := range []string{plain, h2} {
			t.Run(name+", "+protocol, func(t *testing.T) {
				server := play(t, protocol, "ok", "close", "ok")
				pools := newTransports(t, nil)
				pools.roots = server.roots
				transport := pools.For(&Account{Name: "main"})
				if err := ask(transport, post(t.Context(), server.url, "first")); err != nil {
					t.Fatal(err)
				}
				r := post(t.Context(), server.url, "it")
				test.request(r)
				err := ask(transport, r)
				if (err == nil) != (test.seen == 2) {
					t.Errorf("the error is %v", err)
				}
				if seen, _ := server.count("it"); seen != test.seen {
					t.Errorf("the server saw it %d times, want %d", seen, test.seen)
				}
			})
		}
	}
}

// A body that breaks while it is sent is the request's own failure.
func TestARequestWhoseBodyBreaksIsNotSentAgain(t *testing.T) {
	for _, protocol := range []string{plain, h2} {
		t.Run(protocol, func(t *testing.T) {
			server := play(t, protocol, "ok")
			pools := newTransports(t, nil)
			pools.roots = server.roots
			transport := pools.For(&Account{Name: "main"})
			if err := ask(transport, post(t.Context(), server.url, "first")); err != nil {
				t.Fatal(err)
			}
			r := post(t.Context(), server.url, "it")
			broken := errors.New("the disk is gone")
			bodies := 0
			r.GetBody = func() (io.ReadCloser, error) { bodies++; return r.Body, nil }
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), failing{broken}))
			if err := ask(transport, r); !errors.Is(err, broken) {
				t.Errorf("the error is %v", err)
			}
			if bodies != 0 {
				t.Error("it was sent again")
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// An upstream that ends its connections soon after each answer.
func TestAnUpstreamThatClosesAfterEachAnswer(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{plain, plainTLS, h2} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := play(t, protocol, "ok, close")
			pools := newTransports(t, nil)
			pools.roots = server.roots
			transport := pools.For(&Account{Name: "main", Concurrency: 2})
			for i := range 200 {
				name := fmt.Sprint(i)
				if err := ask(transport, post(t.Context(), server.url, name)); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
				// So that some come before the end, some after it, and some with it.
				time.Sleep(time.Duration(i%9) * time.Millisecond)
				if seen, _ := server.count(name); seen == 0 || seen > 2 {
					t.Errorf("request %d was seen %d times", i, seen)
				}
			}
		})
	}
}

// A request whose context has ended is sent nowhere.
func TestARequestThatHasEndedIsNotSent(t *testing.T) {
	server := play(t, plain, "ok")
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client is gone")
	cancel(gone)
	r := post(ctx, server.url, "it")
	closed := false
	r.Body = closeFunc{r.Body, func() { closed = true }}
	if err := ask(newTransports(t, nil).For(&Account{Name: "main"}), r); err != gone {
		t.Errorf("the error is %v", err)
	}
	if seen, conns := server.count("it"); seen != 0 || conns != 0 {
		t.Errorf("it was seen %d times over %d connections", seen, conns)
	}
	if !closed {
		t.Error("its body is open")
	}
}

// A connection may end between its being chosen and its use.
func TestAConnectionThatEndedJustBefore(t *testing.T) {
	for name, end := range map[string]func(*link){"reset": (*link).reset, "half-closed": (*link).halfClose} {
		for _, protocol := range []string{plain, plainTLS, h2} {
			t.Run(name+", "+protocol, func(t *testing.T) {
				f := newFar(t, protocol)
				transport := f.pools(t, nil).For(&Account{Name: "main"})
				p := transport.(*pool)
				for range 10 {
					mustAsk(t, transport, post(t.Context(), f.url, "first"))
					p.mu.Lock()
					c := append(p.shared, p.exclusive...)[0]
					c.inFlight++
					p.mu.Unlock()
					end(f.last())
					eventually(t, "the connection has ended", func() bool { return c.client.Err() != nil })
					r := post(t.Context(), f.url, "it")
					// Nothing of it is sent over HTTP/2, which is reason enough.
					x := &exchange{pool: p, conn: c, ctx: t.Context(), reused: protocol != h2}
					_, err := x.send(r)
					if err == nil || !x.again(r, err) {
						t.Errorf("it is not sent again after %v", err)
					}
				}
			})
		}
	}
}

// A server that takes few streams gets more connections.
func TestAServerOfFewStreams(t *testing.T) {
	f := newFar(t, h2, func(server *http.Server) { server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2} })
	transport := f.pools(t, nil).For(&Account{Name: "main"})
	var held []*http.Response
	for range 5 {
		response, err := transport.RoundTrip(post(t.Context(), f.url, "hold"))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, response)
	}
	if n := len(f.all()); n != 3 {
		t.Errorf("five streams took %d connections, want 3", n)
	}
	f.letGo()
	for _, response := range held {
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != "fine" {
			t.Errorf("a stream ended with %q, %v", body, err)
		}
		response.Body.Close()
	}
}
