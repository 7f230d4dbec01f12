package caddymodule

import (
	"bytes"
	"errors"
	"net"
	"syscall"
	"time"
)

// lastWords bounds the wait for what a server says that takes no commands. It said so
// before it closed, so it is here already.
const lastWords = 100 * time.Millisecond

// turnedAway begin what a server says as the first thing on a connection that it
// closes then: there are too many, or they may not come from elsewhere.
var turnedAway = [][]byte{[]byte("-ERR max number of clients"), []byte("-DENIED ")}

// redisConn keeps what the server said when it turned the connection away. The client
// library reads past it, or writes before it reads, and would only tell of a connection
// that was reset.
type redisConn struct {
	net.Conn
	hasSpoken bool
	words     string
}

// socketConn is a redisConn that the client library can look at, without reading, to
// see whether it is still open.
type socketConn struct {
	*redisConn
	syscall.Conn
}

func newRedisConn(conn net.Conn) net.Conn {
	listening := &redisConn{Conn: conn}
	if socket, isOne := conn.(syscall.Conn); isOne {
		return socketConn{listening, socket}
	}
	return listening
}

// Read implements net.Conn.
func (c *redisConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.hasSpoken && n > 0 {
		c.hasSpoken = true
		for _, begin := range turnedAway {
			if bytes.HasPrefix(p[:n], begin) {
				line, _, _ := bytes.Cut(p[1:n], []byte("\r\n"))
				c.words = string(line)
			}
		}
	}
	return n, c.explain(err)
}

// Write implements net.Conn. Where it fails before the server was heard, the error has
// what that says.
func (c *redisConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !c.hasSpoken && !isTimeout(err) && c.SetReadDeadline(time.Now().Add(lastWords)) == nil {
		said := make([]byte, 512)
		heard, _ := c.Read(said)
		line, _, whole := bytes.Cut(said[:heard], []byte("\r\n"))
		if words, isError := bytes.CutPrefix(line, []byte("-")); whole && isError {
			c.words = string(words)
		}
	}
	return n, c.explain(err)
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func (c *redisConn) explain(err error) error {
	if err == nil || c.words == "" {
		return err
	}
	return &turnedAwayError{c.words, err}
}

// turnedAwayError is why a connection failed, in the server's words.
type turnedAwayError struct {
	words string
	err   error
}

// Error implements error.
func (e *turnedAwayError) Error() string { return e.words + ": " + e.err.Error() }

// Unwrap returns a list, which errors.Unwrap leaves alone: the client library would
// strip the words with that from what fails while it logs in.
func (e *turnedAwayError) Unwrap() []error { return []error{e.err} }
