package upstream_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/proxytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// The proxies' credentials: the user name is as secret as the password.
const (
	proxyUser     = "DO-NOT-SHOW-user"
	proxyPassword = "DO-NOT-SHOW p@ss:word/"
)

// world is an upstream and whom its clients trust.
type world struct {
	sim   *simulator.Server
	roots *x509.CertPool
	port  string
	proxy *tls.Config // of a proxy over TLS
}

func newWorld(t *testing.T, overTLS bool) *world {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{TLS: overTLS})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	address, err := url.Parse(sim.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{sim: sim, roots: x509.NewCertPool(), port: address.Port()}
	if overTLS {
		w.roots = sim.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	// A certificate of net/http's own, for 127.0.0.1 and example.com.
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	w.proxy = &tls.Config{Certificates: server.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}
	w.roots.AddCert(server.Certificate())
	server.Close()
	return w
}

// start starts a proxy of that scheme, which knows the upstream by one more
// name than the world does.
func (w *world) start(t *testing.T, scheme string) *proxytest.Proxy {
	t.Helper()
	names := map[string]string{
		"simulator.internal:" + w.port: "127.0.0.1:" + w.port,
		"[::1]:" + w.port:              "127.0.0.1:" + w.port,
		"other.internal:" + w.port:     "127.0.0.1:" + w.port,
	}
	start := func() (*proxytest.Proxy, error) { return proxytest.StartSOCKS(proxyUser, proxyPassword, names) }
	switch scheme {
	case "http":
		start = func() (*proxytest.Proxy, error) { return proxytest.StartHTTP(nil, proxyUser, proxyPassword, names) }
	case "https":
		start = func() (*proxytest.Proxy, error) { return proxytest.StartHTTP(w.proxy, proxyUser, proxyPassword, names) }
	}
	p, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// through is the URL of a proxy, as an operator would write it.
func through(t *testing.T, scheme, address, password string) *url.URL {
	t.Helper()
	text := (&url.URL{Scheme: scheme, Host: address, User: url.UserPassword(proxyUser, password)}).String()
	u, err := upstream.ParseProxy(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return u
}

// ask sends the account of a pool one request. The answer is whole.
func ask(t *testing.T, pools *upstream.Transports, account *upstream.Account) (*http.Response, error) {
	t.Helper()
	body := `{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, account.BaseURL.String()+"/v1/messages", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Api-Key", "sk-upstream")
	request.Header.Set("Anthropic-Version", "2023-06-01")
	response, err := pools.For(account).RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatalf("the answer broke off: %v", err)
	}
	return response, nil
}

func base(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestProxies(t *testing.T) {
	for _, test := range []struct {
		proxy    string
		upstream string // scheme://host of the upstream, as the account names it
		asked    string // of the proxy, PORT for the upstream's; more than one where a name has more addresses
	}{
		{"http", "http://simulator.internal", "POST http://simulator.internal:PORT/v1/messages"},
		{"http", "https://simulator.internal", "CONNECT simulator.internal:PORT"},
		{"https", "http://simulator.internal", "POST http://simulator.internal:PORT/v1/messages"},
		{"https", "https://simulator.internal", "CONNECT simulator.internal:PORT"},
		{"socks5", "http://localhost", "ipv4 127.0.0.1:PORT|ipv6 [::1]:PORT"},
		{"socks5", "https://localhost", "ipv4 127.0.0.1:PORT|ipv6 [::1]:PORT"},
		{"socks5", "https://127.0.0.1", "ipv4 127.0.0.1:PORT"},
		{"socks5h", "http://simulator.internal", "domain simulator.internal:PORT"},
		{"socks5h", "https://simulator.internal", "domain simulator.internal:PORT"},
		{"socks5h", "https://127.0.0.1", "ipv4 127.0.0.1:PORT"},
	} {
		t.Run(test.proxy+" to "+test.upstream, func(t *testing.T) {
			overTLS := strings.HasPrefix(test.upstream, "https:")
			w := newWorld(t, overTLS)
			p := w.start(t, test.proxy)
			var pools upstream.Transports
			pools.Trust(w.roots)
			defer pools.Close()
			account := &upstream.Account{Name: "main", BaseURL: base(t, test.upstream+":"+w.port), Proxy: through(t, test.proxy, p.Address, proxyPassword)}
			for range 3 {
				response, err := ask(t, &pools, account)
				if err != nil {
					t.Fatal(err)
				}
				if response.StatusCode != http.StatusOK {
					t.Fatalf("status %d", response.StatusCode)
				}
				if overTLS && response.ProtoMajor != 2 {
					t.Errorf("the upstream was spoken to in %s, not in HTTP/2", response.Proto)
				}
			}
			for _, r := range w.sim.Requests() {
				if got := r.Header.Get("Proxy-Authorization"); got != "" {
					t.Errorf("the upstream got Proxy-Authorization %q", got)
				}
			}
			wanted := strings.Split(strings.ReplaceAll(test.asked, "PORT", w.port), "|")
			asked := p.Asked()
			if strings.HasPrefix(asked[0], "POST ") {
				if len(asked) != 3 {
					t.Errorf("three requests went through the proxy as %q", asked)
				}
			} else if len(asked) != 1 {
				t.Errorf("three requests took %d connections through the proxy: %q", len(asked), asked)
			}
			found := false
			for _, want := range wanted {
				found = found || asked[0] == want
			}
			if !found {
				t.Errorf("the proxy was asked for %q, want %q", asked, wanted)
			}
		})
	}
}

// A proxy that can be had but does not serve, and one that can't be had.
func TestProxyFailuresAreErrorsWithoutCredentials(t *testing.T) {
	const closedUpstream = "127.0.0.1:1"
	for _, scheme := range []string{"http", "https", "socks5", "socks5h"} {
		for _, base := range []string{"http://", "https://"} {
			for name, test := range map[string]struct {
				password string
				stop     bool
				host     string // of the upstream, if not the one that works
				want     []string
			}{
				"wrong password": {"DO-NOT-SHOW-wrong", false, "", []string{"407 Proxy Authentication Required", "username/password authentication failed"}},
				"down":           {proxyPassword, true, "", []string{"connection refused"}},
				"no upstream":    {proxyPassword, false, closedUpstream, []string{"502 Bad Gateway", "host unreachable", "status 502"}},
			} {
				t.Run(scheme+" to "+base+", "+name, func(t *testing.T) {
					w := newWorld(t, base == "https://")
					p := w.start(t, scheme)
					if test.stop {
						p.Close()
					}
					var pools upstream.Transports
					pools.Trust(w.roots)
					defer pools.Close()
					host := test.host
					if host == "" {
						host = "127.0.0.1:" + w.port
					}
					u, _ := url.Parse(base + host)
					account := &upstream.Account{Name: "main", BaseURL: u, Proxy: through(t, scheme, p.Address, test.password)}
					response, err := ask(t, &pools, account)
					text := ""
					if err != nil {
						text = err.Error()
						if !strings.Contains(text, "proxy") {
							t.Errorf("the error does not say that it is about the proxy: %v", err)
						}
					} else {
						text = "status " + response.Status
					}
					found := false
					for _, want := range test.want {
						found = found || strings.Contains(text, want)
					}
					if !found {
						t.Errorf("got %q, want one of %q", text, test.want)
					}
					if strings.Contains(text, "DO-NOT-SHOW") {
						t.Errorf("the error shows the credentials: %s", text)
					}
					if n := len(w.sim.Requests()); n != 0 {
						t.Errorf("%d requests reached the upstream", n)
					}
				})
			}
		}
	}
}

// The name that is verified is the upstream's, whatever is between.
func TestTLSThroughAProxyVerifiesTheUpstreamsName(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5h"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, true)
			p := w.start(t, scheme)
			var pools upstream.Transports
			pools.Trust(w.roots)
			defer pools.Close()
			account := &upstream.Account{Name: "main", BaseURL: base(t, "https://other.internal:"+w.port), Proxy: through(t, scheme, p.Address, proxyPassword)}
			_, err := ask(t, &pools, account)
			if err == nil || !strings.Contains(err.Error(), "not other.internal") {
				t.Errorf("the error is %v", err)
			}
			if n := len(w.sim.Requests()); n != 0 {
				t.Errorf("%d requests reached the upstream", n)
			}
		})
	}
}

// No account shares a connection with another, nor with itself through another
// proxy; a new config's account of the same name and proxy does.
func TestPools(t *testing.T) {
	var pools upstream.Transports
	defer pools.Close()
	proxy := func(text string) *url.URL {
		u, err := upstream.ParseProxy(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	first := pools.For(&upstream.Account{Name: "main", Concurrency: 8, Proxy: proxy("http://me:a@127.0.0.1:1")})
	for name, test := range map[string]struct {
		account upstream.Account
		same    bool
	}{
		"same":           {upstream.Account{Name: "main", Concurrency: 8, Proxy: proxy("http://me:a@127.0.0.1:1"), Priority: 3}, true},
		"other password": {upstream.Account{Name: "main", Concurrency: 8, Proxy: proxy("http://me:b@127.0.0.1:1")}, false},
		"other scheme":   {upstream.Account{Name: "main", Concurrency: 8, Proxy: proxy("https://me:a@127.0.0.1:1")}, false},
		"no proxy":       {upstream.Account{Name: "main", Concurrency: 8}, false},
		"other account":  {upstream.Account{Name: "team", Concurrency: 8, Proxy: proxy("http://me:a@127.0.0.1:1")}, false},
		"other slots":    {upstream.Account{Name: "main", Concurrency: 9, Proxy: proxy("http://me:a@127.0.0.1:1")}, false},
	} {
		if got := pools.For(&test.account) == first; got != test.same {
			t.Errorf("%s: the same pool: %t, want %t", name, got, test.same)
		}
	}
}

func TestTheEnvironmentsProxyIsNotUsed(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	// net/http never takes the environment's proxy to loopback, so that it is not
	// enough to see that a request arrives.
	var pools upstream.Transports
	transport := upstream.TransportOf(pools.For(&upstream.Account{Name: "main"}))
	if transport.Proxy != nil {
		t.Error("an account without a proxy has one")
	}
}

func TestParseProxy(t *testing.T) {
	long := strings.Repeat("DO-NOT-SHOW", 24)
	for _, test := range []struct{ text, want, wrong string }{
		{text: "http://127.0.0.1", want: "http://127.0.0.1"},
		{text: "https://proxy.example:8443/", want: "https://proxy.example:8443"},
		{text: "socks5://me:p%40ss@[::1]:1080", want: "socks5://me:p%40ss@[::1]:1080"},
		{text: "SOCKS5H://Proxy.example", want: "socks5h://Proxy.example"},
		{text: "http://DO-NOT-SHOW@127.0.0.1", want: "http://DO-NOT-SHOW@127.0.0.1"},
		{text: "", wrong: "begins with http://"},
		{text: "127.0.0.1:1080", wrong: "is not a URL"},
		{text: "proxy.example:1080", wrong: "begins with http://"},
		{text: "DO-NOT-SHOW://host", wrong: "begins with http://"},
		{text: "socks4://me:DO-NOT-SHOW@host", wrong: "begins with http://"},
		{text: "http://me:DO-NOT-SHOW%@host", wrong: "is not a URL"},
		{text: "http://me:DO-NOT-SHOW@", wrong: "without a host"},
		{text: "http://me:DO-NOT-SHOW@:80", wrong: "without a host"},
		{text: "http://me:DO-NOT-SHOW@host:0", wrong: "port outside"},
		{text: "http://me:DO-NOT-SHOW@host:65536", wrong: "port outside"},
		{text: "http://me:DO-NOT-SHOW@host/path", wrong: "more than a host and a port"},
		{text: "http://me:DO-NOT-SHOW@host?q", wrong: "more than a host and a port"},
		{text: "http://me:DO-NOT-SHOW@host?", wrong: "more than a host and a port"},
		{text: "http://me@host#DO-NOT-SHOW", wrong: "more than a host and a port"},
		{text: "socks5://:DO-NOT-SHOW@host", wrong: "user name or password that SOCKS can't carry"},
		{text: "socks5://" + long + "@host", wrong: "user name or password that SOCKS can't carry"},
		{text: "socks5h://me:" + long + "@host", wrong: "user name or password that SOCKS can't carry"},
		{text: "http://me:" + long + "@host", want: "http://me:" + long + "@host"},
	} {
		u, err := upstream.ParseProxy(test.text)
		switch {
		case test.wrong == "" && err != nil:
			t.Errorf("%s: %v", test.text, err)
		case test.wrong == "":
			if diff := cmp.Diff(test.want, u.String()); diff != "" {
				t.Errorf("%s: %s", test.text, diff)
			}
		case err == nil:
			t.Errorf("%q is accepted as %s", test.text, u)
		case !strings.Contains(err.Error(), test.wrong) || strings.Contains(err.Error(), "DO-NOT-SHOW"):
			t.Errorf("%q: %v; want: %s", test.text, err, test.wrong)
		}
	}
}

// A proxy without a port in its URL is dialed at its scheme's own.
func TestProxyDefaultPorts(t *testing.T) {
	for scheme, port := range map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"} {
		if listener, err := net.Listen("tcp", "127.0.0.1:"+port); err != nil {
			t.Logf("port %s is taken here; not tried", port)
			continue
		} else {
			listener.Close()
		}
		var pools upstream.Transports
		u, err := upstream.ParseProxy(scheme + "://127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		account := &upstream.Account{Name: "main", BaseURL: base(t, "http://127.0.0.1:1"), Proxy: u}
		if _, err := ask(t, &pools, account); err == nil || !strings.Contains(err.Error(), "127.0.0.1:"+port) {
			t.Errorf("%s: %v; want one about port %s", scheme, err, port)
		}
	}
}
