package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"golang.org/x/net/proxy"
)

// The schemes of a proxy's URL. Socks5 has names looked up on this machine,
// socks5h by the proxy.
const (
	schemeHTTP    = "http"
	schemeHTTPS   = "https"
	schemeSOCKS5  = "socks5"
	schemeSOCKS5H = "socks5h"
)

// proxyPorts are the ports of proxies whose URL names none.
var proxyPorts = map[string]string{schemeHTTP: "80", schemeHTTPS: "443", schemeSOCKS5: "1080", schemeSOCKS5H: "1080"}

// maxSOCKSCredential is how long, in bytes, RFC 1929 lets a user name or a
// password be.
const maxSOCKSCredential = 255

// ParseProxy reads the URL of a proxy: http, https, socks5 or socks5h, with a
// host, and at will a port, a user name and a password. The errors show no part
// of the URL but its scheme: the rest may be secret.
func ParseProxy(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("is not a URL; write one such as socks5://host:1080, with %XX for the special characters of a password")
	}
	if !slices.Contains([]string{schemeHTTP, schemeHTTPS, schemeSOCKS5, schemeSOCKS5H}, u.Scheme) {
		return nil, errors.New("is not the URL of a proxy; write one that begins with http://, https://, socks5:// or socks5h://")
	}
	switch {
	case u.Hostname() == "":
		return nil, fmt.Errorf("is a %s URL without a host; write one such as %[1]s://host:%s", u.Scheme, proxyPorts[u.Scheme])
	case !ValidPort(u.Port()):
		return nil, fmt.Errorf("is a %s URL with a port outside 1 to 65535", u.Scheme)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("is a %s URL with more than a host and a port; leave out what follows them", u.Scheme)
	}
	if password, _ := u.User.Password(); isSOCKS(u) && u.User != nil &&
		(u.User.Username() == "" || len(u.User.Username()) > maxSOCKSCredential || len(password) > maxSOCKSCredential) {
		return nil, fmt.Errorf("has a user name or password that SOCKS can't carry; the name needs 1 to %d bytes, the password at most as many", maxSOCKSCredential)
	}
	u.Path = ""
	return u, nil
}

// ValidPort reports whether a URL's port is none, or a number from 1 to 65535.
func ValidPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

func isSOCKS(u *url.URL) bool { return u.Scheme == schemeSOCKS5 || u.Scheme == schemeSOCKS5H }

// throughProxy makes a transport's connections go through a proxy that
// ParseProxy accepts. TLS to upstream is end to end: it verifies upstream's
// name.
func throughProxy(transport *http.Transport, dialer *net.Dialer, u *url.URL) {
	if isSOCKS(u) {
		transport.DialContext = watched((&socksDialer{dialer, u}).DialContext)
		return
	}
	transport.Proxy = http.ProxyURL(u)
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
		if response.StatusCode == http.StatusOK {
			return nil
		}
		return proxyRefused(response.StatusCode)
	}
	if u.Scheme == schemeHTTPS {
		// The first hop is the proxy's. It must not agree on HTTP/2, in which
		// net/http speaks to no proxy.
		config := &tls.Config{
			RootCAs:            transport.TLSClientConfig.RootCAs,
			ServerName:         u.Hostname(),
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		}
		transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			raw, err := transport.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(raw, config)
			if err := conn.HandshakeContext(ctx); err != nil {
				raw.Close()
				return nil, err
			}
			return conn, nil
		}
	}
}

// proxyRefused is the error of a proxy that answered with that status. It does
// not show the proxy's own words, which may repeat what it was sent.
func proxyRefused(status int) error {
	return fmt.Errorf("it answered %d %s", status, http.StatusText(status))
}

// socksDialer makes connections through a SOCKS5 proxy (RFC 1928, RFC 1929).
type socksDialer struct {
	dialer *net.Dialer
	proxy  *url.URL
}

// DialContext is that of an http.Transport; the context bounds all of it.
func (d *socksDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	addresses := []string{address}
	if d.proxy.Scheme == schemeSOCKS5 {
		var err error
		if addresses, err = lookUp(ctx, address); err != nil {
			return nil, err
		}
	}
	var auth *proxy.Auth
	if user := d.proxy.User; user != nil {
		auth = &proxy.Auth{User: user.Username()}
		auth.Password, _ = user.Password()
	}
	port := d.proxy.Port()
	if port == "" {
		port = proxyPorts[d.proxy.Scheme]
	}
	through, err := proxy.SOCKS5("tcp", net.JoinHostPort(d.proxy.Hostname(), port), auth, d.dialer)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, address := range addresses {
		conn, err := through.(proxy.ContextDialer).DialContext(ctx, network, address)
		if err == nil {
			return conn, nil
		}
		failed = err
	}
	return nil, failed
}

// lookUp resolves the host of an address, on this machine.
func lookUp(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		ips[i] = net.JoinHostPort(ip, port)
	}
	return ips, nil
}
