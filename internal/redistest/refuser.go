package redistest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Refuser is a proxy on 127.0.0.1 before a server, which can make it refuse what
// clients ask, and have it well again. It knows RESP, and pub/sub over connections
// that do nothing else after it; transactions it does not refuse as Redis would.
type Refuser struct {
	Addr string // host:port
	URL  string // the server's, with this address

	t        testing.TB
	server   *Server
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	now     *Refusal      // nil: it is well
	well    chan struct{} // closed when now ends
	met     int
	clients map[*proxied]bool
	closed  bool
}

// StartRefuser starts one before a server that speaks plain TCP. It ends with the
// test.
func StartRefuser(t testing.TB, server *Server) *Refuser {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen before the server at %s: %v", server.Addr, err)
	}
	where, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	where.Host = listener.Addr().String()
	r := &Refuser{Addr: where.Host, URL: where.String(), t: t, server: server, listener: listener, clients: map[*proxied]bool{}}
	r.serving.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// Refuse has clients refused from now on.
func (r *Refuser) Refuse(refusal Refusal) {
	r.Recover()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.well = &refusal, make(chan struct{})
}

// Recover ends what Refuse began.
func (r *Refuser) Recover() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now != nil {
		close(r.well)
	}
	r.now = nil
}

// Disconnect closes all open connections.
func (r *Refuser) Disconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.clients {
		c.close()
	}
}

// Met returns how many commands and connections were refused until now.
func (r *Refuser) Met() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.met
}

func (r *Refuser) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Recover()
	r.listener.Close()
	r.Disconnect()
	r.serving.Wait()
}

// refusal is what a command or, without words, a new connection meets; nil =
// nothing. well is closed when it ends.
func (r *Refuser) refusal(words []string, loggedIn bool) (f *Refusal, well <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.now == nil:
		return nil, nil
	case len(words) > 0 && !r.now.hits(words, loggedIn), len(words) == 0 && r.now.To != Connections:
		return nil, nil
	}
	r.met++
	return r.now, r.well
}

func (r *Refuser) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				r.t.Errorf("accept connections for the server at %s: %v", r.server.Addr, err)
			}
			return
		}
		if f, _ := r.refusal(nil, false); f != nil {
			if f.How == Error {
				_, _ = io.WriteString(conn, "-"+f.Text+"\r\n")
			}
			conn.Close()
			continue
		}
		r.serving.Go(func() { r.serve(conn) })
	}
}

// proxied is a client's connection, and the one to the server for it.
type proxied struct {
	client, server net.Conn
	fromClient     *bufio.Reader
	fromServer     *bufio.Reader
	loggedIn       bool
	mute           bool // an answer got lost, so that the next would be taken for it
}

func (c *proxied) close() {
	c.client.Close()
	c.server.Close()
}

func (r *Refuser) serve(client net.Conn) {
	server, err := net.DialTimeout("tcp", r.server.Addr, time.Second)
	if err != nil { // as without a proxy, but for a moment
		client.Close()
		return
	}
	c := &proxied{client: client, server: server, fromClient: bufio.NewReader(client), fromServer: bufio.NewReader(server)}
	defer c.close()
	r.mu.Lock()
	r.clients[c] = true
	if r.closed {
		c.close()
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.clients, c)
	}()
	for r.exchange(c) == nil {
	}
}

// exchange takes one command of the client and sees that it is answered. An error
// ends the connection.
func (r *Refuser) exchange(c *proxied) error {
	words, raw, err := readCommand(c.fromClient)
	if err != nil || len(words) == 0 {
		return err
	}
	f, well := r.refusal(words, c.loggedIn)
	switch {
	case f == nil:
	case f.How == Cut:
		return io.EOF
	case f.How == Silence:
		<-well
	case f.How == Error || f.How == Garbage:
		_, err := io.WriteString(c.client, f.answer(words))
		if f.How == Garbage && err == nil {
			err = io.EOF
		}
		return err
	}
	if _, err := c.server.Write(raw); err != nil {
		return err
	}
	if strings.HasSuffix(strings.ToLower(words[0]), "subscribe") {
		return r.subscribed(c)
	}
	reply, err := appendReply(nil, c.fromServer)
	if err != nil {
		return err
	}
	if reply[0] != '-' { // whatever it was, the server has let it in
		c.loggedIn = true
	}
	switch {
	case f != nil && f.How == Hangup:
		return io.EOF
	case f != nil && f.How == Loss:
		c.mute = true
	}
	if c.mute {
		return nil
	}
	_, err = c.client.Write(reply)
	return err
}

// subscribed passes all on in both directions, as messages come unasked. A server
// that is silent, or whose answers get lost, says nothing here either.
func (r *Refuser) subscribed(c *proxied) error {
	r.serving.Go(func() {
		defer c.close()
		_, _ = io.Copy(c.server, c.fromClient)
	})
	for {
		message, err := appendReply(nil, c.fromServer)
		if err != nil {
			return err
		}
		r.mu.Lock()
		now, well := r.now, r.well
		r.mu.Unlock()
		switch {
		case now == nil || now.To != Commands:
		case now.How == Silence:
			<-well
		case now.How == Loss:
			continue
		case now.How == Cut || now.How == Hangup:
			return io.EOF
		}
		if _, err := c.client.Write(message); err != nil {
			return err
		}
	}
}
