package gateway

import (
	"net/http"
	"sync"
	"time"
)

// downstream writes the answer of one request. The request's goroutine and the
// keepalive's timer share it.
type downstream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	id    string
	clock stopwatch

	mu       sync.Mutex
	started  bool          // the header is out
	stream   bool          // it was that of an event stream
	ended    bool          // the handler returns: nothing may be written any more
	between  bool          // what is out ends between two events
	last     time.Duration // when something went out, on the clock
	timer    *time.Timer   // nil without keepalive
	interval time.Duration
	after    time.Duration
}

func newDownstream(w http.ResponseWriter, id string, clock stopwatch) *downstream {
	return &downstream{w: w, id: id, rc: http.NewResponseController(w), clock: clock}
}

// keepAlive sends the client comment lines, one when it has heard nothing for
// the after time, and one every interval from then on. Only a streaming client
// understands them. It ends with end.
func (c *downstream) keepAlive(interval, after time.Duration) {
	if interval <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interval, c.after = interval, after
	c.last, c.between = c.clock.now(), true
	c.timer = time.AfterFunc(after, c.onTimer)
}

// answering has the first comment go out within a time, if none has: an account has begun
// to answer, and nothing is wrong but that it says nothing yet.
func (c *downstream) answering(within time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil || c.started || c.ended {
		return
	}
	now := c.clock.now()
	if left := c.after - (now - c.last); left > within {
		c.last = now + within - c.after
		c.timer.Reset(within)
	}
}

// answeringAfter is how long, at most, a client hears nothing of an account that
// has begun to answer: proxies on the way, and clients, give up after 30 s and
// more.
const answeringAfter = 15 * time.Second

// onTimer runs when the client may have heard nothing for long enough. Writes
// don't touch the timer: it looks back at the last one.
func (c *downstream) onTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.started && !c.stream {
		return // a comment has no place in another answer
	}
	if silent := c.clock.now() - c.last; silent < c.after {
		c.timer.Reset(c.after - silent)
		return
	}
	if c.between {
		c.startStream()
		if c.put([]byte(": keepalive\n\n"), c.clock.now()) != nil {
			return // the client is gone; the request's context tells
		}
	}
	c.timer.Reset(c.interval)
	// From here on it is the interval that counts.
	c.last += c.interval - c.after
}

// write relays the next bytes of the stream: one write, one flush. between
// reports whether they end between two events, now is the time on the clock.
func (c *downstream) write(p []byte, between bool, now time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startStream()
	c.between = between
	return c.put(p, now)
}

// fail answers with an error: as the answer where nothing was sent, else as an
// event.
func (c *downstream) fail(e *apiError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.started:
		c.started = true
		e.write(c.w, c.id)
	case c.stream:
		c.put(append([]byte(e.seal), e.event(c.id)...), c.clock.now())
	}
}

// whole answers with a complete body; false if a stream has begun.
func (c *downstream) whole(status int, header http.Header, body []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.start(status, header) {
		return false
	}
	c.w.Write(body)
	return true
}

// begin answers with a header, for a body to follow; false if a stream has
// begun.
func (c *downstream) begin(status int, header http.Header) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start(status, header)
}

// start writes the header of an answer that is no event stream.
func (c *downstream) start(status int, header http.Header) bool {
	if c.started {
		return false
	}
	c.started = true
	out := c.w.Header()
	for name, values := range header {
		out[name] = values
	}
	out.Set("Request-Id", c.id)
	c.w.WriteHeader(status)
	return true
}

// chunk writes the next part of a body that has begun.
func (c *downstream) chunk(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(p, c.clock.now())
}

// gone marks the request of a client that left, for the access log.
func (c *downstream) gone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started {
		c.started = true
		c.w.WriteHeader(statusClientGone)
	}
}

// end stops the keepalive. Nothing is written after it.
func (c *downstream) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// header sets headers of the stream to come; too late, it does nothing.
func (c *downstream) header(name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started && value != "" {
		c.w.Header().Set(name, value)
	}
}

func (c *downstream) startStream() {
	if c.started {
		return
	}
	c.started, c.stream = true, true
	header := c.w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no")
	header.Set("Request-Id", c.id)
	c.w.WriteHeader(http.StatusOK)
}

func (c *downstream) put(p []byte, now time.Duration) error {
	if _, err := c.w.Write(p); err != nil {
		return err
	}
	c.last = now
	return c.rc.Flush()
}
