package upstream

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// forwarder carries TCP connections to a server, and breaks them as networks
// do.
type forwarder struct {
	address  string
	to       string
	listener net.Listener
	done     chan struct{}
	running  sync.WaitGroup

	mu     sync.Mutex
	onLink func(*link) // see each
	links  []*link
}

// link is one connection through a forwarder.
type link struct {
	client, server *net.TCPConn
	frozen         atomic.Bool
	ended          atomic.Bool  // by the client
	delay          atomic.Int64 // of each piece that is carried, in nanoseconds
	fault          func()       // called once when so many bytes have come from the server; nil = none
	faultAfter     int
}

func forward(t testing.TB, to string) *forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{address: listener.Addr().String(), to: to, listener: listener, done: make(chan struct{})}
	f.running.Go(f.accept)
	t.Cleanup(f.close)
	return f
}

// close ends the forwarder and its links; it may be called twice.
func (f *forwarder) close() {
	f.listener.Close()
	f.mu.Lock()
	select {
	case <-f.done:
	default:
		close(f.done)
	}
	for _, l := range f.links {
		l.client.Close()
		l.server.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
}

func (f *forwarder) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", f.to)
		if err != nil {
			client.Close()
			continue
		}
		l := &link{client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
		f.mu.Lock()
		if f.onLink != nil {
			f.onLink(l)
		}
		f.links = append(f.links, l)
		select {
		case <-f.done:
			client.Close()
			server.Close()
		default:
		}
		f.mu.Unlock()
		f.running.Go(func() { f.carry(l, l.server, l.client) })
		f.running.Go(func() { f.carry(l, l.client, l.server) })
	}
}

// carry copies one way until that ends.
func (f *forwarder) carry(l *link, to, from *net.TCPConn) {
	buffer := make([]byte, 4096)
	for carried := 0; ; {
		n, err := from.Read(buffer)
		carried += n
		if from == l.server && l.fault != nil && carried > l.faultAfter {
			l.fault()
			l.fault = nil
		}
		if err != nil && from == l.client {
			l.ended.Store(true)
		}
		if l.frozen.Load() {
			<-f.done
			return
		}
		if d := time.Duration(l.delay.Load()); d > 0 {
			select {
			case <-time.After(d):
			case <-f.done:
			}
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close()
				return
			}
		}
		switch {
		case err == io.EOF:
			to.CloseWrite()
			return
		case err != nil:
			to.Close()
			return
		}
	}
}

// each has a function called with each link that is made from now on, before a
// byte is carried.
func (f *forwarder) each(do func(*link)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onLink = do
}

// all returns the links that were ever made.
func (f *forwarder) all() []*link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*link(nil), f.links...)
}

// last is the latest link.
func (f *forwarder) last() *link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[len(f.links)-1]
}

// freeze stops all that goes over a link; nothing is closed or reset.
func (l *link) freeze() { l.frozen.Store(true) }

// reset ends a link in both directions with a RST.
func (l *link) reset() {
	for _, conn := range []*net.TCPConn{l.client, l.server} {
		conn.SetLinger(0)
		conn.Close()
	}
}

// halfClose ends what comes from the server, and no more.
func (l *link) halfClose() { l.client.CloseWrite() }
