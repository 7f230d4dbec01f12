package simulator

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Request is a request that came in, and how far its answer got.
type Request struct {
	// ID is the request-id that it was answered with.
	ID     string
	Time   time.Time
	Method string
	Path   string
	// RawQuery is the query as it came, without the "?".
	RawQuery string
	// Proto is HTTP/1.1 or HTTP/2.0.
	Proto string
	Host  string
	// Header has every value as it came, names in Go's canonical form. What
	// net/http takes out is not in it: Host, Content-Length, Transfer-Encoding.
	Header http.Header
	// ContentLength is −1 where none was sent.
	ContentLength int64
	// Body is every byte as it came. It must not be changed; where nothing is
	// kept (Config.Keep) it is gone after the answer.
	Body []byte
	// Credential is the x-api-key, else the bearer token; at the token
	// endpoint, the refresh token.
	Credential string
	// Model and Stream are those of the body.
	Model  string
	Stream bool

	// Status that was sent; 0: none yet.
	Status int
	// Pieces (events) and Bytes of the body that went out, before compression,
	// and OutputTokens in them, a token being four bytes of a delta.
	Pieces, Bytes, OutputTokens int64
	// Disconnected is when the client was seen to be gone before the answer's
	// end; zero: it wasn't.
	Disconnected time.Time
	// Done is when the answer was given or given up; zero: still at it.
	Done time.Time
}

// exchange is one request on its way.
type exchange struct {
	server  *Server
	request Request // Status, Disconnected, Done: under server.mu
	account *Account
	message bool
	left    bool

	pieces, bytes, tokens atomic.Int64
}

// snapshot needs server.mu.
func (x *exchange) snapshot() Request {
	r := x.request
	r.Pieces, r.Bytes, r.OutputTokens = x.pieces.Load(), x.bytes.Load(), x.tokens.Load()
	return r
}

// enter counts and remembers a request; who is its key among the accounts.
func (s *Server) enter(x *exchange, who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[who]
	if a == nil {
		a = &Account{}
		s.accounts[who] = a
	}
	x.account = a
	a.Requests++
	if x.message {
		a.Messages++
		a.InFlight++
		a.MaxInFlight = max(a.MaxInFlight, a.InFlight)
	}
	if s.config.Keep > 0 {
		if len(s.records) >= s.config.Keep {
			s.records[0] = nil
			s.records = s.records[1:]
		}
		s.records = append(s.records, x)
	}
	s.notifyLocked()
}

// leave ends the request's time in flight, once.
func (x *exchange) leave() {
	s := x.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.left {
		return
	}
	x.left = true
	x.request.Done = time.Now()
	if x.message {
		x.account.InFlight--
	}
	s.notifyLocked()
}

func (s *Server) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// gone notes that the client left before the answer's end, where it wasn't
// Close that ended it.
func (x *exchange) gone() {
	s := x.server
	if s.isClosed() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !x.left && x.request.Disconnected.IsZero() {
		x.request.Disconnected = time.Now()
		s.notifyLocked()
	}
}

func (x *exchange) setStatus(status int) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	x.request.Status = status
}

// wait sleeps for d (negative: forever) and reports whether to go on.
func (x *exchange) wait(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	var after <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-after:
		return true
	case <-ctx.Done():
		return false
	case <-x.server.closed:
		return false
	}
}

func credentialOf(h http.Header) string {
	if key := h.Get("X-Api-Key"); key != "" {
		return key
	}
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}
