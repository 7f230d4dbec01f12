// Package simulator is an upstream that behaves, and misbehaves, on request:
// it plays the Anthropic API for the demo, the tests and the benchmarks.
//
// Without any script it answers POST /v1/messages (streamed or not), POST
// /v1/messages/count_tokens, GET /v1/models and /v1/models/{id} as the API
// does, well enough for the official SDKs, and refreshes tokens at TokenPath.
// A Reply per request changes what it says, how fast, and how it fails:
//
//	sim, err := simulator.Start(simulator.Config{})
//	defer sim.Close()
//	sim.Queue("key-a", simulator.Reply{Status: 429, RetryAfter: 2 * time.Second})
//	sim.Set("key-b", simulator.Always(simulator.Reply{
//		Fault: simulator.Fault{Kind: simulator.Cut, After: 4, Bytes: 10},
//	}))
//	// … requests to sim.URL …
//	sim.Requests()           // what came in, and how far each answer got
//	sim.Account("key-a")     // counts, and the most that were ever in flight
//
// "Connection refused" needs no script: an address whose Server was closed
// refuses connections.
package simulator

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// TokenPath is where the OAuth 2.0 token endpoint answers, beside
// /v1/oauth/token. It also stands for that endpoint in Queue, Set and Account:
// scripts for "" don't reach it.
const TokenPath = "/oauth/token"

// Config is what holds for a Server's whole life. The zero value is an API
// that works, on a free port of 127.0.0.1.
type Config struct {
	// Address to listen on. Default: 127.0.0.1:0.
	Address string
	// Memory makes Start listen on nothing: connections are made by the
	// Transport of Client alone, as pipes, so that client and server fit in a
	// testing/synctest bubble. There Reset looks like Cut.
	Memory bool
	// TLS serves HTTPS (HTTP/1.1 and HTTP/2) with a certificate made at Start,
	// which Client trusts. Otherwise it is HTTP/1.1 and cleartext HTTP/2.
	TLS bool

	// CheckThinking refuses thinking blocks that come back altered, from
	// another credential or under another system prompt, and tool turns that
	// miss theirs, with the API's 400s.
	CheckThinking bool
	// Models are the ids that /v1/models lists. Default: the API's. Messages
	// are answered for any model.
	Models []string
	// TokenLifetime is what the token endpoint promises. Default: 8 h.
	TokenLifetime time.Duration

	// Keep is how many requests are remembered, the newest ones.
	// Default: 1000; negative: none, for benchmarks (counts still work).
	Keep int
}

// Server is a simulated upstream. Make one with Start or New.
type Server struct {
	// URL is the base URL, without a slash at the end; "" after New.
	URL string

	config Config
	models []string
	closed chan struct{} // ends every wait of every answer
	once   sync.Once
	serial atomic.Uint64
	active sync.WaitGroup

	listener net.Listener
	memory   *memory // the listener, where it is one
	http     *http.Server
	served   chan struct{}
	roots    *x509.CertPool

	mu       sync.Mutex
	queues   map[string][]Reply
	scripts  map[string]func(*Request) Reply
	accounts map[string]*Account
	records  []*exchange
	tokens   tokens
	changed  chan struct{} // closed at the next change; nil while nobody waits
}

// Account is what one credential's requests amounted to.
type Account struct {
	// Requests of any kind, refused ones included.
	Requests int
	// Messages are the POSTs to /v1/messages among them (of TokenPath: all).
	Messages int
	// InFlight and MaxInFlight count messages: now, and the most ever. A
	// request leaves before the last bytes of its answer go out, so a client
	// that starts the next one after the answer's end is never counted twice;
	// one that hangs up is seen to leave a moment after it did.
	InFlight, MaxInFlight int
}

// New makes a Server that is served by someone else, as an http.Handler.
func New(config Config) *Server {
	if config.Keep == 0 {
		config.Keep = 1000
	}
	if config.TokenLifetime == 0 {
		config.TokenLifetime = 8 * time.Hour
	}
	models := config.Models
	if models == nil {
		models = apiModels
	}
	return &Server{
		config:   config,
		models:   models,
		closed:   make(chan struct{}),
		queues:   map[string][]Reply{},
		scripts:  map[string]func(*Request) Reply{},
		accounts: map[string]*Account{},
	}
}

// Start makes a Server and serves it until Close. It fails where the address
// can't be listened on.
func Start(config Config) (*Server, error) {
	s := New(config)
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("simulator: starting on address %q: %w", config.Address, err)
	}
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		// Serve always returns an error, and after Close it means nothing.
		if config.TLS {
			_ = s.http.ServeTLS(s.listener, "", "")
			return
		}
		_ = s.http.Serve(s.listener)
	}()
	return s, nil
}

// Close ends everything, answers that hang included, and waits for it. Close
// may be called more than once.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.mu.Lock() // no request begins after this
		defer s.mu.Unlock()
		close(s.closed)
	})
	var err error
	if s.http != nil {
		err = s.http.Close()
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		<-s.served
	}
	s.active.Wait()
	return err
}

// Queue scripts the next requests of a credential ("": of any; TokenPath: of
// the token endpoint), one Reply each, before anything that Set says. Replies
// that are queued already come first.
func (s *Server) Queue(credential string, replies ...Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queues[credential] = append(s.queues[credential], replies...)
}

// Set scripts all requests of a credential ("": of any without a script of its
// own; TokenPath: of the token endpoint) from now on; nil ends that. The
// function may be called concurrently.
func (s *Server) Set(credential string, script func(*Request) Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if script == nil {
		delete(s.scripts, credential)
		return
	}
	s.scripts[credential] = script
}

// Always is a script for Set: the same Reply every time.
func Always(reply Reply) func(*Request) Reply {
	return func(*Request) Reply { return reply }
}

// Account tells what a credential's requests amounted to so far.
func (s *Server) Account(credential string) Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.accounts[credential]; a != nil {
		return *a
	}
	return Account{}
}

// Requests returns what came in, oldest first, as it stands now.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Request, len(s.records))
	for i, x := range s.records {
		out[i] = x.snapshot()
	}
	return out
}

// Reset forgets requests, counts, queued replies and scripts. Requests that
// are still being answered go on and stay in InFlight.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.queues)
	clear(s.scripts)
	s.records = nil
	for credential, a := range s.accounts {
		if a.InFlight == 0 {
			delete(s.accounts, credential)
			continue
		}
		// Requests in flight hold the pointer.
		*a = Account{InFlight: a.InFlight, MaxInFlight: a.InFlight}
	}
}

// Wait returns once done is true, asking again whenever a request came in, was
// answered or lost its client. It fails with ctx, or when the Server closes.
func (s *Server) Wait(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if done() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("simulator: waiting for requests: %w", ctx.Err())
		case <-s.closed:
			return errors.New("simulator: waiting for requests: the server was closed")
		}
	}
}

// notifyLocked wakes Wait; s.mu is held.
func (s *Server) notifyLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// script chooses the Reply of a request.
func (s *Server) script(who string, x *exchange) Reply {
	keys := []string{who, ""}
	if who == TokenPath {
		keys = keys[:1]
	}
	s.mu.Lock()
	for _, key := range keys {
		if queue := s.queues[key]; len(queue) > 0 {
			s.queues[key] = queue[1:]
			s.mu.Unlock()
			return queue[0]
		}
	}
	var chosen func(*Request) Reply
	for _, key := range keys {
		if chosen = s.scripts[key]; chosen != nil {
			break
		}
	}
	r := x.snapshot() // a copy: the client may leave meanwhile, which is noted in x
	s.mu.Unlock()
	if chosen == nil {
		return Reply{}
	}
	return chosen(&r)
}
