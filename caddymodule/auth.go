package caddymodule

import (
	"crypto/sha256"
	"net/http"
	"strings"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// authenticate finds the gateway key of a request. Keys are compared by their
// digests, so that the time it takes tells nothing of a key.
func (g *gateway) authenticate(r *http.Request) (*key, *apiError) {
	text := gatewayKey(r.Header)
	if text == "" {
		return nil, &apiError{
			status: http.StatusUnauthorized, kind: authenticationError, final: true,
			message: "no gateway key: send one as x-api-key or as Authorization: Bearer",
		}
	}
	found := g.keys[sha256.Sum256([]byte(text))]
	if found == nil {
		return nil, &apiError{
			status: http.StatusUnauthorized, kind: authenticationError, final: true,
			message: "invalid gateway key",
		}
	}
	return found, nil
}

// gatewayKey reads the key from the first of the headers that clients use.
func gatewayKey(header http.Header) string {
	if key := header.Get("X-Api-Key"); key != "" {
		return key
	}
	if scheme, key, ok := strings.Cut(header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		if key = strings.TrimSpace(key); key != "" {
			return key
		}
	}
	return header.Get("X-Goog-Api-Key")
}

// chooseGroup picks the first of the key's groups that can serve the model. A
// key without groups may use every account; the group is nil then.
func (g *gateway) chooseGroup(k *key, force upstream.Platform, model string) (*group, *apiError) {
	if len(k.groups) == 0 {
		if g.scheduler.Serves("", force, model) {
			return nil, nil
		}
	}
	for _, group := range k.groups {
		if g.scheduler.Serves(group.name, force, model) {
			return group, nil
		}
	}
	return nil, noAccount(force, model)
}

func noAccount(force upstream.Platform, model string) *apiError {
	message := "no account that this key may use serves the model " + shorten(model)
	if force != "" {
		message += " on the platform " + string(force)
	}
	return &apiError{status: http.StatusBadRequest, kind: invalidRequestError, message: message, final: true}
}

// shorten bounds a client's text for a message.
func shorten(text string) string {
	const most = 100
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
