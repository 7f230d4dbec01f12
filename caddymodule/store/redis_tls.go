package store

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// Encryption is how the servers of a store are spoken to over TLS.
type Encryption struct {
	roots        *x509.CertPool    // nil = the system's
	certificates []tls.Certificate // the client's own; nil = none
	hosts        []string          // of the URLs
}

// LoadEncryption reads the files of the authority and of the client's own certificate,
// "" where there is none, for servers at addresses.
func LoadEncryption(addresses []string, ca, certificate, key string) (*Encryption, error) {
	e := &Encryption{}
	for _, address := range addresses {
		host, _, _ := net.SplitHostPort(address)
		e.hosts = append(e.hosts, host)
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		e.roots = x509.NewCertPool()
		if !e.roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: there is no certificate in PEM form in %s", ca)
		}
	}
	if certificate != "" {
		own, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("client_certificate: reading %s and %s: %w", certificate, key, err)
		}
		e.certificates = []tls.Certificate{own}
	}
	return e, nil
}

// config is for a connection to one server. It accepts certificates of the host
// that is dialled, and of those in the URLs: Clusters and Sentinels tell of
// servers by IP address, where certificates are made for names.
func (e *Encryption) config(host string) *tls.Config {
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
