package upstream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Refresh is how an OAuth 2.0 access token is refreshed.
type Refresh struct {
	// Token is the refresh token.
	Token string
	// ExpiresAt is when the account's Secret, the access token, expires; zero =
	// not known.
	ExpiresAt time.Time
	// TokenURL is the token endpoint.
	TokenURL string
	ClientID string
	// ClientSecret is "" for a public client.
	ClientSecret string
}

// Fingerprint tells credentials apart without showing them: SHA-256, in
// hexadecimal, of all values that decide whether upstream accepts the account.
func (a *Account) Fingerprint() string {
	values := []string{a.Kind.String(), a.Secret}
	if r := a.Refresh; r != nil {
		values = append(values, r.Token, r.TokenURL, r.ClientID, r.ClientSecret)
	}
	return Digest(values...)
}

// Digest is the SHA-256, in hexadecimal, of a list of texts. Lists that differ
// have different digests.
func Digest(values ...string) string {
	h := sha256.New()
	for _, value := range values {
		fmt.Fprintf(h, "%d:%s", len(value), value)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Conceal takes the account's secrets, as the config has them, out of a text.
func (a *Account) Conceal(text string) string {
	text = concealed(text, a.Secret)
	if a.Refresh != nil {
		text = concealed(concealed(text, a.Refresh.Token), a.Refresh.ClientSecret)
	}
	return text
}

// concealment stands in the place of a secret.
const concealment = "[secret]"

func concealed(text, secret string) string {
	if secret == "" {
		return text
	}
	return strings.ReplaceAll(text, secret, concealment)
}
