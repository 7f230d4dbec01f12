package upstream

import "slices"

// ConnectionHeaders are those that the HTTP client sets by itself, or that belong to one
// connection: setting them or passing them on would do nothing, or harm. In canonical
// form.
var ConnectionHeaders = []string{
	"Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// CredentialHeaders are those that carry the client's own credentials, in canonical form.
var CredentialHeaders = []string{"Authorization", "Cookie", "Proxy-Authorization", "X-Api-Key", "X-Goog-Api-Key"}

// NeverPasses reports whether a header of a client, in canonical form, goes to no account,
// whatever the config lets through.
func NeverPasses(name string) bool {
	return slices.Contains(ConnectionHeaders, name) || slices.Contains(CredentialHeaders, name)
}
