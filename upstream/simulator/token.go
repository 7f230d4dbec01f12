package simulator

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// tokens is the memory of the token endpoint. Any refresh token is good once:
// each refresh spends the one that was sent and hands out a new one, and a
// spent one is refused, as rotation has it.
type tokens struct {
	spent  map[string]bool
	serial int
}

// tokenField reads a parameter of a form or a JSON body.
func tokenField(h http.Header, body []byte, name string) string {
	if strings.Contains(h.Get("Content-Type"), "json") {
		return gjson.GetBytes(body, name).String()
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return ""
	}
	return form.Get(name)
}

func refreshToken(r *http.Request, body []byte) string {
	return tokenField(r.Header, body, "refresh_token")
}

func (x *exchange) refuseToken(reply *Reply) {
	r := &x.request
	no := func(kind, message string) {
		reply.Status, reply.ErrorType, reply.Message = 400, kind, message
	}
	if grant := tokenField(r.Header, r.Body, "grant_type"); grant != "refresh_token" {
		no("unsupported_grant_type", "grant_type must be refresh_token")
		return
	}
	s := x.server
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Credential == "":
		no("invalid_request", "refresh_token is missing")
	case s.tokens.spent[r.Credential]:
		no("invalid_grant", "Refresh token not found or invalid")
	}
}

// tokenDocument spends the refresh token and hands out the next pair.
func (x *exchange) tokenDocument() []byte {
	s := x.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens.spent == nil {
		s.tokens.spent = map[string]bool{}
	}
	s.tokens.spent[x.request.Credential] = true
	s.tokens.serial++
	return fmt.Appendf(nil, `{"token_type":"Bearer","access_token":"sk-ant-oat01-sim-%d","expires_in":%d,"refresh_token":"sk-ant-ort01-sim-%d","scope":"user:inference user:profile"}`,
		s.tokens.serial, s.config.TokenLifetime/time.Second, s.tokens.serial)
}

// tokenError is the error body of RFC 6749.
func tokenError(reply *Reply) []byte {
	kind := reply.ErrorType
	if kind == "" {
		kind = "server_error"
		if reply.Status < 500 {
			kind = "invalid_grant"
		}
	}
	message := reply.Message
	if message == "" {
		message = "The token endpoint refused the request"
	}
	return []byte(`{"error":` + quote(kind) + `,"error_description":` + quote(message) + `}`)
}
