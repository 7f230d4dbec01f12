package anthropic

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptrace"
	"sync"
)

// body is the body of one request to upstream. net/http holds on to a request
// until its answer has ended, which for a stream is long after its body was
// sent; drop lets go of the bytes before.
//
// The reader is a plain bytes.Reader because net/http sends the header of any
// other in a packet of its own.
type body struct {
	mu      sync.Mutex
	bytes   []byte
	reader  *bytes.Reader
	written bool // the reader was read to its end, and is not read again
	again   bool // net/http made another reader, to send the request again
	dropped bool
}

func newBody(b []byte) *body { return &body{bytes: b, reader: bytes.NewReader(b)} }

var errDropped = errors.New("the request's body is gone: its answer has begun")

// getBody is http.Request.GetBody.
func (b *body) getBody() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped {
		return nil, errDropped
	}
	b.again = true
	return io.NopCloser(bytes.NewReader(b.bytes)), nil
}

// wrote is httptrace.ClientTrace.WroteRequest. Where a request is sent again,
// it does not tell which reader it is about.
func (b *body) wrote(info httptrace.WroteRequestInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written = info.Err == nil
	b.empty()
}

// drop lets go of the bytes as soon as they are sent: upstream may answer
// before it has read them all.
func (b *body) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped, b.bytes = true, nil
	b.empty()
}

func (b *body) empty() {
	if b.dropped && b.written && !b.again {
		b.reader.Reset(nil)
	}
}
