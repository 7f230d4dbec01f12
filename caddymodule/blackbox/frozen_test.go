package blackbox_test

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// freezer forwards connections, until it freezes those that there are: then
// nothing comes through them any more, and nothing says so.
type freezer struct {
	listener net.Listener
	to       string

	mu     sync.Mutex
	frozen chan struct{} // closed when the connections so far freeze
	conns  []net.Conn
	made   int
}

func newFreezer(t *testing.T, to string) *freezer {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &freezer{listener: listener, to: u.Host, frozen: make(chan struct{})}
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			forwarding.Go(func() { f.forward(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		f.mu.Lock()
		for _, conn := range f.conns {
			conn.Close()
		}
		f.mu.Unlock()
		forwarding.Wait()
	})
	return f
}

func (f *freezer) forward(near net.Conn) {
	far, err := net.Dial("tcp", f.to)
	if err != nil {
		near.Close()
		return
	}
	f.mu.Lock()
	f.made++
	f.conns = append(f.conns, near, far)
	frozen := f.frozen
	f.mu.Unlock()
	var both sync.WaitGroup
	copyUntil := func(to, from net.Conn) {
		buffer := make([]byte, 4096)
		for {
			n, err := from.Read(buffer)
			select {
			case <-frozen:
				if err != nil {
					return
				}
				continue // swallowed
			default:
			}
			if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
				to.Close()
				return
			}
		}
	}
	both.Go(func() { copyUntil(far, near) })
	both.Go(func() { copyUntil(near, far) })
	both.Wait()
}

// freeze freezes the connections that there are.
func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.frozen)
	f.frozen = make(chan struct{})
}

func (f *freezer) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made
}

// TestAFrozenConnectionMakesOneRequestLate: the time-out of one request has the
// account's other idle connections closed, which may be as dead.
func TestAFrozenConnectionMakesOneRequestLate(t *testing.T) {
	for _, stream := range []string{"true", "false"} {
		t.Run("stream "+stream, func(t *testing.T) {
			sim, err := simulator.Start(simulator.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Close()
			way := newFreezer(t, sim.URL)
			g := serve(t, simulator.Config{}, `
				account acct-main {
					api_key sk-upstream-main
					base_url http://`+way.listener.Addr().String()+`
				}
				relay {
					header_timeout 400ms
					answer_timeout 400ms
				}
			`+alice)
			ask := func() int {
				request, _ := http.NewRequest(http.MethodPost, g.url+"/v1/messages", strings.NewReader(
					`{"model":"claude-sonnet-5-5","max_tokens":20,"stream":`+stream+`,"messages":[{"role":"user","content":"hi"}]}`))
				request.Header.Set("X-Api-Key", aliceKey)
				response, err := g.http.Do(request)
				if err != nil {
					t.Error(err)
					return 0
				}
				defer response.Body.Close()
				io.Copy(io.Discard, response.Body)
				return response.StatusCode
			}
			sim.Set("", simulator.Always(simulator.Reply{HeaderDelay: 50 * time.Millisecond}))
			var warm sync.WaitGroup
			for range 8 {
				warm.Go(func() { ask() })
			}
			warm.Wait()
			idle := way.connections()
			if idle < 4 {
				t.Fatalf("%d connections were made for 8 requests at once", idle)
			}
			way.freeze()
			if status := ask(); status != http.StatusGatewayTimeout {
				t.Errorf("over a frozen connection: status %d", status)
			}
			for range 10 {
				if status := ask(); status != http.StatusOK {
					t.Errorf("after that: status %d", status)
				}
			}
			if made := way.connections() - idle; made < 1 || made > 2 {
				t.Errorf("%d connections were made again", made)
			}
		})
	}
}
