package caddymodule

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// redisEncryption is how the servers of a store are spoken to over TLS.
type redisEncryption struct {
	roots        *x509.CertPool    // nil = the system's
	certificates []tls.Certificate // the client's own; nil = none
	hosts        []string          // of the URLs
}

// loadCertificates reads the certificate files.
func (r *RedisStore) loadCertificates(addresses []string) (*redisEncryption, error) {
	e := &redisEncryption{}
	for _, address := range addresses {
		host, _, _ := net.SplitHostPort(address)
		e.hosts = append(e.hosts, host)
	}
	if r.CA != "" {
		pem, err := os.ReadFile(r.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		e.roots = x509.NewCertPool()
		if !e.roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: there is no certificate in PEM form in %s", r.CA)
		}
	}
	if c := r.ClientCertificate; c != nil {
		certificate, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("client_certificate: reading %s and %s: %w", c.Certificate, c.Key, err)
		}
		e.certificates = []tls.Certificate{certificate}
	}
	return e, nil
}

// config is for a connection to one server. It accepts certificates of the host
// that is dialled, and of those in the URLs: Clusters and Sentinels tell of
// servers by IP address, where certificates are made for names.
func (e *redisEncryption) config(host string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         host,
		Certificates:       e.certificates,
		InsecureSkipVerify: true, // VerifyConnection looks closer
		VerifyConnection: func(state tls.ConnectionState) error {
			options := x509.VerifyOptions{Roots: e.roots, Intermediates: x509.NewCertPool()}
			for _, above := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(above)
			}
			leaf := state.PeerCertificates[0]
			if _, err := leaf.Verify(options); err != nil {
				return err
			}
			err := leaf.VerifyHostname(host)
			for i := 0; err != nil && i < len(e.hosts); i++ {
				if leaf.VerifyHostname(e.hosts[i]) == nil {
					return nil
				}
			}
			return err
		},
	}
}
