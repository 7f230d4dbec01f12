package upstream

import (
	"io"
	"net/http"
	"testing"
	"time"
)

func TestIdleConnections(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{plain, plainTLS, h2} {
		t.Run(protocol+", are as many as the account has slots", func(t *testing.T) {
			t.Parallel()
			f := newFar(t, protocol)
			transport := f.pools(t, nil).For(&Account{Name: "main", Concurrency: 2})
			var held []*http.Response
			for range 4 {
				// Over one connection each, in HTTP/2 too.
				held = append(held, onNew(t, f, transport.(*pool)))
			}
			f.letGo()
			for _, response := range held {
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			p := transport.(*pool)
			eventually(t, "two connections are left", func() bool { return p.size() == 2 })
		})
		t.Run(protocol+", are closed after a while", func(t *testing.T) {
			t.Parallel()
			f := newFar(t, protocol)
			const idle = 300 * time.Millisecond
			transport := f.pools(t, func(l *limits) { l.idle = idle }).For(&Account{Name: "main"})
			p := transport.(*pool)
			for begun := time.Now(); time.Since(begun) < 3*idle; time.Sleep(idle / 6) {
				mustAsk(t, transport, post(t.Context(), f.url, "it"))
			}
			if n := len(f.all()); n != 1 {
				t.Errorf("one that is used often was made %d times", n)
			}
			response, err := transport.RoundTrip(post(t.Context(), f.url, "hold"))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * idle)
			f.letGo()
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != "fine" {
				t.Errorf("one that was in use all the time ended with %q, %v", body, err)
			}
			response.Body.Close()
			if protocol != h2 && p.size() != 1 || protocol == h2 && p.size() == 0 {
				t.Errorf("%d connections are left after the answer", p.size())
			}
			eventually(t, "the pool is empty", func() bool { return p.size() == 0 })
			mustAsk(t, transport, post(t.Context(), f.url, "again"))
			eventually(t, "the pool is empty again", func() bool { return p.size() == 0 })
		})
		t.Run(protocol+", are closed with the pools", func(t *testing.T) {
			t.Parallel()
			f := newFar(t, protocol)
			pools := f.pools(t, nil)
			transport := pools.For(&Account{Name: "main"})
			p := transport.(*pool)
			mustAsk(t, transport, post(t.Context(), f.url, "it"))
			response := onNew(t, f, p)
			pools.Close()
			f.letGo()
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != "fine" {
				t.Errorf("one in use ended with %q, %v", body, err)
			}
			response.Body.Close()
			if n := p.size(); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}

// onNew has a request held over a connection of its own.
func onNew(t *testing.T, f *far, p *pool) *http.Response {
	t.Helper()
	r := post(t.Context(), f.url, "hold")
	c, err := p.dial(t.Context(), target{r.URL.Scheme, r.URL.Host})
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&exchange{pool: p, conn: c, ctx: r.Context()}).send(r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// The times that are promised.
func TestDefaultLimits(t *testing.T) {
	var pools Transports
	p := pools.For(&Account{Name: "main"}).(*pool)
	want := limits{connect: 10 * time.Second, idle: 5 * time.Minute, silence: 15 * time.Second, pong: 15 * time.Second, resend: 5 * time.Second}
	if p.limits != want {
		t.Errorf("the limits are %v", p.limits)
	}
	if got := p.transport.HTTP2; got.SendPingTimeout != want.silence || got.PingTimeout != want.pong {
		t.Errorf("HTTP/2 is set up with %+v", got)
	}
	if p.keep != 1024 {
		t.Errorf("%d idle connections are kept without a limit", p.keep)
	}
}
