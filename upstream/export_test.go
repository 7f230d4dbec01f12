package upstream

import "crypto/x509"

// Trust makes pools that are made from now on trust these roots alone.
func (t *Transports) Trust(roots *x509.CertPool) { t.roots = roots }
