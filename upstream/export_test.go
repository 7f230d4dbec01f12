package upstream

import (
	"crypto/x509"
	"net/http"
)

// Trust makes pools that are made from now on trust these roots alone.
func (t *Transports) Trust(roots *x509.CertPool) { t.roots = roots }

// TransportOf returns what makes a pool's connections.
func TransportOf(rt http.RoundTripper) *http.Transport { return rt.(*pool).transport }
