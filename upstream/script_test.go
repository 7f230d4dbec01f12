package upstream

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The protocols that a scripted server speaks.
const (
	plain    = "HTTP/1.1"
	plainTLS = "HTTP/1.1 over TLS"
	h2       = "HTTP/2"
)

// lateness is how long a script's "late" waits.
const lateness = 600 * time.Millisecond

// script is a server that treats each request as its script says:
//
//	ok          answers "fine"
//	close       ends the connection without an answer
//	reset       the same, with a RST
//	late        the same as close, after lateness
//	103         sends a 103 and ends the connection
//	half        sends half an answer and resets the connection
//	ok, close   answers, and ends the connection 4 ms later
//
// and in HTTP/2
//
//	refuse      resets the stream: REFUSED_STREAM
//	protocol    the same with PROTOCOL_ERROR, internal: INTERNAL_ERROR
//	internal, close    the same, then the connection ends
//	goaway      GOAWAY of all from this stream on
//	goaway, error    the same with an error
//	goaway, close    GOAWAY of all after this stream, then the connection ends
//
// and in HTTP/1.1
//
//	garbage     answers something that is no HTTP
type script struct {
	url   *url.URL
	roots *x509.CertPool

	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	steps []string // the last is for all further requests
	seen  map[string]int
	conns []net.Conn
}

// certificate is one for 127.0.0.1, and whom one has to trust for it.
func certificate() ([]tls.Certificate, *x509.CertPool) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.TLS.Certificates, roots
}

func play(t *testing.T, protocol string, steps ...string) *script {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{listener: listener, steps: steps, seen: map[string]int{}}
	scheme, serve := "http", s.serveHTTP1
	var config *tls.Config
	if protocol != plain {
		scheme = "https"
		config = &tls.Config{NextProtos: []string{"http/1.1"}}
		config.Certificates, s.roots = certificate()
	}
	if protocol == h2 {
		config.NextProtos = []string{"h2"}
		serve = s.serveHTTP2
	}
	s.url = &url.URL{Scheme: scheme, Host: listener.Addr().String()}
	s.running.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, raw)
			s.mu.Unlock()
			s.running.Go(func() {
				defer raw.Close()
				conn := raw
				if config != nil {
					conn = tls.Server(raw, config)
					defer conn.Close()
				}
				serve(conn, raw.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *script) close() {
	s.listener.Close()
	s.mu.Lock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// next notes that a request was seen, and returns what becomes of it.
func (s *script) next(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[name]++
	step := s.steps[0]
	if len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	return step
}

// count returns how often a request was seen, and how many connections there
// were.
func (s *script) count(name string) (seen, conns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[name], len(s.conns)
}

func (s *script) serveHTTP1(conn net.Conn, raw *net.TCPConn) {
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		switch step := s.next(r.Header.Get("X-Name")); step {
		case "ok", "ok, close":
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
			if step != "ok" {
				time.Sleep(4 * time.Millisecond)
				return
			}
		case "reset":
			raw.SetLinger(0)
			raw.Close()
			return
		case "late":
			time.Sleep(lateness)
			return
		case "103":
			fmt.Fprint(conn, "HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n")
			time.Sleep(4 * time.Millisecond)
			return
		case "half":
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi")
			time.Sleep(20 * time.Millisecond)
			raw.SetLinger(0)
			raw.Close()
			return
		case "garbage":
			fmt.Fprint(conn, "this is no HTTP\r\n\r\n")
			return
		default:
			return
		}
	}
}

func (s *script) serveHTTP2(conn net.Conn, raw *net.TCPConn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings()
	name := ""
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		ended := false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				framer.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			for _, field := range f.RegularFields() {
				if field.Name == "x-name" {
					name = field.Value
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		}
		if ended && !s.answerHTTP2(framer, frame.Header().StreamID, s.next(name), raw) {
			return
		}
	}
}

// answerHTTP2 does a step; it returns false if the connection ends.
func (s *script) answerHTTP2(framer *http2.Framer, stream uint32, step string, raw *net.TCPConn) bool {
	header := func(fields ...string) []byte {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for i := 0; i < len(fields); i += 2 {
			encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return block.Bytes()
	}
	head := func(status string) {
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, BlockFragment: header(":status", status)})
	}
	switch step {
	case "ok", "ok, close":
		head("200")
		framer.WriteData(stream, true, []byte("fine"))
		time.Sleep(4 * time.Millisecond)
		return step == "ok"
	case "reset":
		raw.SetLinger(0)
		raw.Close()
		return false
	case "late":
		time.Sleep(lateness)
		return false
	case "103":
		head("103")
		time.Sleep(4 * time.Millisecond)
		return false
	case "half":
		head("200")
		framer.WriteData(stream, false, []byte("fi"))
		time.Sleep(20 * time.Millisecond)
		raw.SetLinger(0)
		raw.Close()
		return false
	case "refuse":
		return framer.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
	case "protocol":
		return framer.WriteRSTStream(stream, http2.ErrCodeProtocol) == nil
	case "internal, close":
		framer.WriteRSTStream(stream, http2.ErrCodeInternal)
		return false
	case "internal":
		return framer.WriteRSTStream(stream, http2.ErrCodeInternal) == nil
	case "goaway":
		return framer.WriteGoAway(stream-1, http2.ErrCodeNo, nil) == nil
	case "goaway, error":
		return framer.WriteGoAway(stream-1, http2.ErrCodeEnhanceYourCalm, nil) == nil
	case "goaway, close":
		framer.WriteGoAway(stream, http2.ErrCodeNo, nil)
		return false
	}
	return false
}
