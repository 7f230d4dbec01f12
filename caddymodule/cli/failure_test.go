package cli

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// servedAt is the address of a server with this handler.
func servedAt(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// always answers every request in one way.
func always(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// otherCaddy is a Caddy without sub2api.
func otherCaddy(config http.HandlerFunc) http.HandlerFunc {
	mux := http.NewServeMux()
	mux.HandleFunc("/config/", config)
	return mux.ServeHTTP
}

// talker speaks no HTTP.
func talker(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// Not before it was asked: what comes then, the client takes for no answer.
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte("-ERR unknown command\r\n"))
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func TestCommandsWithoutAnAnswer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	listener.Close()
	withConfig := servedAt(t, otherCaddy(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"`+r.URL.Path+` 811c9dc5"`)
		_, _ = w.Write([]byte("null\n"))
	}))
	withoutConfig := servedAt(t, otherCaddy(always(400, "application/json", `{"error":"invalid traversal path at: config"}`)))
	dropping := servedAt(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	failing := admintest.NewLedger()
	broken := adminServer(t, admintest.Serving(t, failing))
	failing.Fail = errors.New("out\nof order")
	const builtWithout, off, other = "it was built without sub2api", "admin off", "is not Caddy's admin endpoint: "
	for _, test := range []struct{ address, words, want, not string }{
		{withConfig, "users", builtWithout, other},
		{withConfig, "users credit bob 1 --id a", builtWithout, "credited"},
		{withoutConfig, "records", builtWithout, other},
		{nobody, "users", "nothing listens at " + nobody, "credited"},
		{nobody, "users", "either Caddy does not run", "credited"},
		{nobody, "accounts", off, "credited"},
		{nobody, "users credit bob 1 --id a", "--address", "credited"},
		{servedAt(t, always(404, "text/plain", "404 page not found\n")), "users", other + "it answers with status 404", builtWithout},
		{servedAt(t, always(404, "text/html", "<h1>no</h1>")), "keys list", other + "it answers with status 404", "<h1>"},
		{servedAt(t, always(404, "application/json", `{"detail":"Not Found"}`)), "usage", other + "it answers with status 404", builtWithout},
		{servedAt(t, always(200, "text/html", "<h1>hello</h1>")), "users", other + "it answers with status 200 and text/html", "cut short"},
		{servedAt(t, always(200, "", "")), "users credit bob 1", other + "it answers with status 200", "cut short"},
		{servedAt(t, always(502, "text/plain", "bad gateway")), "users", other + "it answers with status 502", builtWithout},
		{secure.Listener.Addr().String(), "users", other + "it answers with status 400", builtWithout},
		{talker(t), "users", other, builtWithout},
		{dropping, "users credit bob 1 --id a", "repeat it with --id a, which credits once", "\x00"},
		{broken, "users credit alice 1 --id a", "out?of order; it may have been credited all the same: repeat it with --id a", "\x00"},
		{broken, "records", "store embedded /store: out?of order", "credited"},
	} {
		_, notes, err := command(test.address, strings.Fields(test.words)...)
		if err == nil || strings.Count(notes, "\n") != 1 || !strings.Contains(notes, test.want) || strings.Contains(notes, test.not) {
			t.Errorf("%s: %v: %q, want one line with %q", test.words, err, notes, test.want)
		}
	}
}

// What tells a Caddy without sub2api from other servers holds for a real one.
func TestCaddyIsKnownByItsAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	for _, listen := range []string{address, "unix//" + t.TempDir() + "/admin.sock"} {
		if testEndpoint.isCaddy(listen) {
			t.Errorf("%s is a Caddy before one listens there", listen)
		}
		gatewaytest.RunAdmin(t, listen)
		if !testEndpoint.isCaddy(listen) {
			t.Errorf("the Caddy at %s is not known for one", listen)
		}
	}
	if _, notes, err := command(address, "users"); err == nil || !strings.Contains(notes, "nothing listens at "+address) {
		t.Errorf("at the address of before: %v %s", err, notes)
	}
}
