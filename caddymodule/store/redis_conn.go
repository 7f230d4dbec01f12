package store

import (
	"bytes"
	"net"
	"syscall"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// turnedAway begin what a server says as the first thing on a connection that it
// closes then: there are too many, or they may not come from elsewhere.
var turnedAway = [][]byte{[]byte("-ERR max number of clients"), []byte("-DENIED ")}

// lastWordsWait bounds the reading of what a server said that has closed the connection:
// it is there already, or never comes.
const lastWordsWait = 50 * time.Millisecond

// redisConn keeps what the server said when it turned the connection away. The client
// library reads past it, and would only tell of a connection that was reset.
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

// Write implements net.Conn. A server that turns a connection away may have closed it
// before the first command is written; what it said then is still to be read.
func (c *redisConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !c.hasSpoken {
		_ = c.SetReadDeadline(time.Now().Add(lastWordsWait))
		_, _ = c.Read(make([]byte, 512))
	}
	return n, c.explain(err)
}

func (c *redisConn) explain(err error) error {
	if err == nil || c.words == "" {
		return err
	}
	return &redislink.TurnedAway{Words: c.words, Err: err}
}
