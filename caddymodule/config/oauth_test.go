package config

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestSettingsHoldTheRefresh(t *testing.T) {
	key := strings.Repeat("k", 32)
	t.Setenv("STORE_KEY", base64.StdEncoding.EncodeToString([]byte(key)))
	t.Setenv("REFRESH", "refresh-of-the-environment")
	t.Setenv("EXPIRES", "1796083200")
	t.Setenv("HOST", "example.com")
	s := mustSettings(t, configured(t, `
	encryption_key {env.STORE_KEY}
	account max {
		oauth {
			access_token a
			refresh_token {env.REFRESH}
			expires_at {env.EXPIRES}
			token_url https://{env.HOST}/token/
			client_id c
			client_secret s
		}
	}
	account fixed {
		oauth {
			access_token b
		}
	}
	user alice`))
	if string(s.EncryptionKey) != key {
		t.Errorf("encryption key %q", s.EncryptionKey)
	}
	want := &upstream.Refresh{
		Token: "refresh-of-the-environment", ExpiresAt: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
		TokenURL: "https://example.com/token/", ClientID: "c", ClientSecret: "s",
	}
	if diff := cmp.Diff(want, s.Accounts[0].Refresh); diff != "" {
		t.Errorf("refresh (-want +got):\n%s", diff)
	}
	if got := s.Accounts[1].Refresh; got != nil {
		t.Errorf("an account without a refresh token has %+v", got)
	}
}

func TestSettingsRefuseARefreshThatResolvesBadly(t *testing.T) {
	t.Setenv("SUB2API_TEST_EMPTY", "")
	t.Setenv("SPACED", "DO-NOT-SHOW it")
	t.Setenv("BAD", "ftp://example.com")
	withOAuth := func(lines string) string {
		return "account max {\noauth {\naccess_token a\n" + lines + "\n}\n}\nuser alice"
	}
	const refresh, endpoint, client = "refresh_token r\n", "token_url https://example.com/token\n", "client_id c\n"
	for name, test := range map[string]struct{ body, want string }{
		"unset refresh token":  {withOAuth("refresh_token {env.SUB2API_TEST_EMPTY}\n" + endpoint + client), "account max: oauth: refresh_token: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty"},
		"spaced refresh token": {withOAuth("refresh_token {env.SPACED}\n" + endpoint + client), "account max: oauth: refresh_token: has a space"},
		"unset expiry":         {withOAuth(refresh + endpoint + client + "expires_at {env.SUB2API_TEST_EMPTY}"), "account max: oauth: expires_at: evaluated placeholder"},
		"no expiry":            {withOAuth(refresh + endpoint + client + "expires_at {env.SPACED}"), "account max: oauth: expires_at: is not a time"},
		"token_url":            {withOAuth(refresh + client + "token_url {env.BAD}"), "account max: oauth: token_url: ftp://example.com is neither http nor https"},
		"unset client":         {withOAuth(refresh + endpoint + "client_id {env.SUB2API_TEST_EMPTY}"), "account max: oauth: client_id: evaluated placeholder"},
		"spaced client secret": {withOAuth(refresh + endpoint + client + "client_secret {env.SPACED}"), "account max: oauth: client_secret: has a space"},
		"unset encryption key": {"encryption_key {env.SUB2API_TEST_EMPTY}\n" + minimal, "encryption_key: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty"},
		"bad encryption key":   {"encryption_key {env.SPACED}\n" + minimal, "encryption_key: is not 32 bytes in base64 or hexadecimal"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := configured(t, test.body).Build()
			wantError(t, err, test.want)
		})
	}
}

func TestParseExpiresAt(t *testing.T) {
	want := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{"2026-12-01T00:00:00Z", "2026-12-01T01:00:00+01:00", "1796083200", "2026-12-01"} {
		if got, err := parseExpiresAt(text, time.UTC); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "1796083200000", "2026-12-32", "soon"} {
		if got, err := parseExpiresAt(text, time.UTC); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
