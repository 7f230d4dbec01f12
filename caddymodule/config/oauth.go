package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func checkEncryptionKey(text string) error {
	found, err := placeholders(text)
	if err == nil && !found {
		_, err = store.ParseEncryptionKey(text)
	}
	return err
}

func (h *Config) resolveEncryptionKey() ([]byte, error) {
	if h.EncryptionKey == "" {
		return nil, nil
	}
	text, err := resolve(h.EncryptionKey)
	if err != nil {
		return nil, err
	}
	return store.ParseEncryptionKey(text)
}

// check checks the block. What only a refresh needs stands with a refresh token.
func (o *OAuth) check(at position) error {
	if err := at.secret("access_token", o.AccessToken); err != nil {
		return err
	}
	if o.RefreshToken == "" {
		for _, field := range o.refreshFields() {
			if *field.text != "" {
				return at.errorf(field.word, "is for refreshing the access token; add a line `refresh_token {env.NAME}`, or leave it out")
			}
		}
		return nil
	}
	if err := at.secret("refresh_token", o.RefreshToken); err != nil {
		return err
	}
	for _, field := range o.refreshFields() {
		if *field.text == "" {
			if field.missing != "" {
				return at.errorf("", "has a refresh_token and no %s; %s", field.word, field.missing)
			}
			continue
		}
		found, err := placeholders(*field.text)
		if err == nil && !found {
			err = field.parse(*field.text)
		}
		if err != nil {
			return at.errorf(field.word, "%w", err)
		}
	}
	return nil
}

// refreshField is a word that only means something with a refresh token.
type refreshField struct {
	word string
	text *string
	// missing is what to do where the word is required; "" = it is not.
	missing string
	parse   func(string) error
}

func (o *OAuth) refreshFields() []refreshField {
	return []refreshField{
		{"expires_at", &o.ExpiresAt, "", func(text string) error {
			_, err := parseExpiresAt(text, time.UTC)
			return err
		}},
		{"token_url", &o.TokenURL, "write the URL of the provider's OAuth 2.0 token endpoint", func(text string) error {
			_, err := parseBaseURL(text)
			return err
		}},
		{"client_id", &o.ClientID, "write the id of the client that the tokens were issued to", credentialText},
		{"client_secret", &o.ClientSecret, "", credentialText},
	}
}

// build resolves a block that was checked, but for the access token; nil where
// there is nothing to refresh with.
func (o *OAuth) build(zone *time.Location) (*upstream.Refresh, error) {
	if o == nil || o.RefreshToken == "" {
		return nil, nil
	}
	resolved := *o
	fields := append(resolved.refreshFields(), refreshField{"refresh_token", &resolved.RefreshToken, "", credentialText})
	for _, field := range fields {
		if *field.text == "" {
			continue
		}
		text, err := resolve(*field.text)
		if err == nil {
			err = field.parse(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field.word, err)
		}
		*field.text = text
	}
	refresh := &upstream.Refresh{
		Token: resolved.RefreshToken, TokenURL: resolved.TokenURL, ClientID: resolved.ClientID, ClientSecret: resolved.ClientSecret,
	}
	if resolved.ExpiresAt != "" {
		refresh.ExpiresAt, _ = parseExpiresAt(resolved.ExpiresAt, zone) // parsed before
	}
	return refresh, nil
}

// latestExpiry tells unix seconds from milliseconds, which some tools write.
const latestExpiry = 1 << 36 // the year 4147

// parseExpiresAt reads unix seconds, or what parseMoment does.
func parseExpiresAt(text string, zone *time.Location) (time.Time, error) {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		if seconds <= 0 || seconds > latestExpiry {
			return time.Time{}, errors.New("is not a time in unix seconds; if it is in milliseconds, leave out the last three digits")
		}
		return time.Unix(seconds, 0).UTC(), nil
	}
	at, err := ParseMoment(text, zone)
	if err != nil || at.IsZero() {
		return time.Time{}, errors.New("is not a time; write it as 2026-12-01T00:00:00Z, as a date, or in unix seconds")
	}
	return at, nil
}
