package gatewaytest

import (
	"io"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// AdminAddress finds an admin endpoint as Caddy's own commands do.
func AdminAddress(given, config, adapter string) (string, error) {
	return caddycmd.DetermineAdminAPIAddress(given, nil, config, adapter)
}

// AdminRequest asks one as they do.
func AdminRequest(address, method, uri string, body io.Reader) (*http.Response, error) {
	return caddycmd.AdminAPIRequest(address, method, uri, nil, body)
}

// RunAdmin runs a Caddy in this process that has an admin endpoint and nothing else,
// until the test ends.
func RunAdmin(t testing.TB, listen string) {
	t.Helper()
	if err := caddy.Run(&caddy.Config{Admin: &caddy.AdminConfig{Listen: listen, Config: &caddy.ConfigSettings{Persist: new(false)}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}

// Directive has the words of a block as a Caddyfile gives them to the directive.
func Directive(t testing.TB, block string) *caddyfile.Dispenser {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte("sub2api {\n"+block+"\n}"), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	return caddyfile.NewDispenser(tokens)
}
