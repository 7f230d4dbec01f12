package simulator

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
)

// maxBody is the API's own limit for a request body.
const maxBody = 32 << 20

// kind is what a request is for.
type kind uint8

const (
	unknownPath kind = iota
	messages
	countTokens
	models
	token
)

// kindOf also says the one method that the path takes.
func kindOf(path string) (kind, string) {
	switch {
	case path == "/v1/messages":
		return messages, http.MethodPost
	case path == "/v1/messages/count_tokens":
		return countTokens, http.MethodPost
	case path == "/v1/models", strings.HasPrefix(path, "/v1/models/"):
		return models, http.MethodGet
	case path == TokenPath, path == "/v1"+TokenPath:
		return token, http.MethodPost
	}
	return unknownPath, ""
}

// bodies saves the benchmarks, which keep no requests, an allocation per body.
var bodies = sync.Pool{New: func() any { return new(buffer) }}

type buffer struct{ b []byte }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		panic(http.ErrAbortHandler)
	}
	defer s.active.Done()

	body := new(buffer)
	if s.config.Keep < 0 {
		body = bodies.Get().(*buffer)
		defer bodies.Put(body)
	}
	err := body.read(r)
	x := s.newExchange(r, body.b)
	what, method := kindOf(r.URL.Path)
	x.message = what == messages || what == token
	who := x.request.Credential
	if what == token {
		who = TokenPath
		x.request.Path = TokenPath
		x.request.Credential = refreshToken(r, body.b)
	}
	s.enter(x, who)
	defer x.leave()
	if err != nil { // the client left, or was cut off, while sending
		x.gone()
		panic(http.ErrAbortHandler)
	}
	// Before leave, so that the end of the handler's context isn't taken for
	// the client's going.
	stop := context.AfterFunc(r.Context(), x.gone)
	defer stop()

	reply := s.script(who, x)
	answer := x.answer(what, method, &reply)
	x.send(w, r, &reply, answer)
}

// begin counts a handler in, unless the Server has closed.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return false
	}
	s.active.Add(1)
	return true
}

func (s *Server) newExchange(r *http.Request, body []byte) *exchange {
	serial := s.serial.Add(1)
	x := &exchange{server: s, request: Request{
		ID:            fmt.Sprintf("req_011Sim%016d", serial),
		Time:          time.Now(),
		Method:        r.Method,
		Path:          r.URL.Path,
		RawQuery:      r.URL.RawQuery,
		Proto:         r.Proto,
		Host:          r.Host,
		Header:        r.Header,
		ContentLength: r.ContentLength,
		Body:          body,
		Credential:    credentialOf(r.Header),
	}}
	if len(body) > 0 {
		found := gjson.GetManyBytes(body, "model", "stream")
		x.request.Model, x.request.Stream = found[0].String(), found[1].Bool()
	}
	return x
}

// read takes the whole body, one byte past the limit at most.
func (b *buffer) read(r *http.Request) error {
	b.b = b.b[:0]
	if n := r.ContentLength; n > 0 && n <= maxBody && int64(cap(b.b)) <= n {
		b.b = make([]byte, 0, n+1)
	}
	limited := io.LimitReader(r.Body, maxBody+1)
	for {
		if len(b.b) == cap(b.b) {
			b.b = append(b.b, 0)[:len(b.b)]
		}
		n, err := limited.Read(b.b[len(b.b):cap(b.b)])
		b.b = b.b[:len(b.b)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
