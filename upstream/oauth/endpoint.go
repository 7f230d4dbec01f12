package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// ask spends the refresh token at the account's token endpoint. The client's id
// and secret go into the form: trying both ways, as the library does by itself,
// would spend the token twice when an answer is lost.
func (t *Tokens) ask(ctx context.Context, account *upstream.Account, used *token) (*token, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r := account.Refresh
	client := &http.Client{
		Transport: t.config.Transport(account),
		// A redirect would carry the token to whatever it names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	config := oauth2.Config{
		ClientID: r.ClientID, ClientSecret: r.ClientSecret,
		Endpoint: oauth2.Endpoint{TokenURL: r.TokenURL, AuthStyle: oauth2.AuthStyleInParams},
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	answer, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: used.Refresh}).Token()
	if err != nil {
		return nil, explain(err, account, used)
	}
	if !sendable(answer.AccessToken) {
		return nil, fmt.Errorf("refreshing the access token of account %s: the answer of %s holds an access token that can't be sent", account.Name, r.TokenURL)
	}
	fresh := &token{Access: answer.AccessToken, Refresh: answer.RefreshToken}
	if !answer.Expiry.IsZero() {
		fresh.Expires = answer.Expiry.UTC().Truncate(time.Second)
	}
	return fresh, nil
}

// sendable tells whether a token fits into a header.
func sendable(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// passing are the error codes of RFC 6749 that say nothing of the credential.
var passing = []string{"server_error", "temporarily_unavailable", "slow_down"}

// explain makes an error that shows no secret; a *RefusedError where the
// endpoint judged the credential.
func explain(err error, account *upstream.Account, used *token) error {
	hide := strings.NewReplacer(pairs(used.Refresh, used.Access, account.Refresh.Token, account.Secret, account.Refresh.ClientSecret)...)
	var answer *oauth2.RetrieveError
	if !errors.As(err, &answer) {
		return fmt.Errorf("refreshing the access token of account %s: %w", account.Name, hidden{hide.Replace(err.Error()), err})
	}
	status := answer.Response.StatusCode
	reason := fmt.Sprintf("%s answered %d", account.Refresh.TokenURL, status)
	for _, part := range []string{answer.ErrorCode, answer.ErrorDescription} {
		if part != "" {
			reason += " " + strings.ToValidUTF8(part[:min(len(part), 200)], "")
		}
	}
	reason = hide.Replace(reason)
	judged := status == http.StatusBadRequest || status == http.StatusUnauthorized ||
		status < 300 && answer.ErrorCode != ""
	if judged && !slices.Contains(passing, answer.ErrorCode) {
		return &RefusedError{reason}
	}
	return fmt.Errorf("refreshing the access token of account %s: %s", account.Name, reason)
}

// pairs are secrets and what to show in their place.
func pairs(secrets ...string) (out []string) {
	for _, secret := range secrets {
		if secret != "" {
			out = append(out, secret, "[hidden]")
		}
	}
	return out
}

// hidden is an error with another text.
type hidden struct {
	text string
	err  error
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.err }

func (t *Tokens) load(ctx context.Context, account *upstream.Account) (*token, error) {
	document, err := t.config.Store.Load(ctx, keyOf(account).document())
	if err == nil && document == nil {
		return nil, nil
	}
	stored := new(token)
	if err == nil {
		if err = json.Unmarshal(document, stored); err != nil {
			err = errors.New("the document is damaged; move it away to begin again with the config's tokens")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the tokens of account %s: %w", account.Name, err)
	}
	return stored, nil
}

// save stores a new token. It does so even when the refresh has run out of
// time: the token before it is spent.
func (t *Tokens) save(account *upstream.Account, e *entry, fresh *token) error {
	e.unsaved = fresh
	document, err := json.Marshal(fresh)
	if err != nil {
		return err // strings and a time: it can't fail
	}
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	if err := t.config.Store.Save(ctx, keyOf(account).document(), document); err != nil {
		return fmt.Errorf("storing the new tokens of account %s, which are not used before that: %w", account.Name, err)
	}
	e.unsaved = nil
	return nil
}
