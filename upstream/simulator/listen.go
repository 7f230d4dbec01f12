package simulator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// listen opens the listener that the Config wants, and prepares its server.
func (s *Server) listen() error {
	if s.config.Memory {
		s.memory = &memory{conns: make(chan net.Conn), closed: make(chan struct{})}
		s.listener = s.memory
		s.URL = "http://simulator.internal"
	} else {
		address := s.config.Address
		if address == "" {
			address = "127.0.0.1:0"
		}
		var err error
		if s.listener, err = net.Listen("tcp", address); err != nil {
			return err
		}
		s.URL = "http://" + s.listener.Addr().String()
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.config.TLS)
	protocols.SetUnencryptedHTTP2(!s.config.TLS)
	// What net/http would log are clients that went away in a handshake.
	s.http = &http.Server{Handler: s, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
	if s.config.TLS {
		s.URL = "https" + strings.TrimPrefix(s.URL, "http")
		certificate, err := s.certificate()
		if err != nil {
			s.listener.Close()
			return fmt.Errorf("making a certificate: %w", err)
		}
		s.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	return nil
}

// certificate makes one for the listener's host, and the pool that trusts it.
func (s *Server) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "simulator"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"localhost", "simulator.internal"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	s.roots = x509.NewCertPool()
	s.roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Client makes a client that reaches a started Server: it dials Memory and
// trusts the certificate of TLS. Its Transport is a new *http.Transport, whose
// DialContext (Memory) and TLSClientConfig (TLS) also serve other transports.
func (s *Server) Client() *http.Client {
	transport := &http.Transport{ForceAttemptHTTP2: s.config.TLS}
	if s.roots != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: s.roots}
	}
	if s.config.Memory {
		transport.DialContext = s.memory.dial
	}
	return &http.Client{Transport: transport}
}

// memory is a listener whose connections are pipes.
type memory struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.conns <- server:
		return client, nil
	case <-m.closed:
		return nil, fmt.Errorf("simulator: dialing a closed server: %w", net.ErrClosed)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (m *memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// Addr implements net.Listener.
func (m *memory) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "simulator.internal:80" }
