package oauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// ask spends the refresh token at the account's token endpoint. An answer with an
// access token is taken, whatever else is odd in it: the refresh token is spent.
func (t *Tokens) ask(ctx context.Context, account *upstream.Account, used *token) (*token, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	fail := func(err error) error {
		text := hide(err.Error(), account, used)
		return fmt.Errorf("refreshing the access token of account %s: %w", account.Name, hidden{text, err})
	}
	r := account.Refresh
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.TokenURL, strings.NewReader(form(r, used).Encode()))
	if err != nil {
		return nil, fail(err)
	}
	// Never sent again over another connection: the first one may have spent the token.
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	client := &http.Client{
		Transport: t.config.Transport(account),
		// A redirect would carry the token to whatever it names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fail(err)
	}
	defer response.Body.Close()
	answer, err := readAnswer(response)
	switch {
	case answer.access == "" && err != nil:
		return nil, fail(fmt.Errorf("reading the answer of %s, status %d: %w", r.TokenURL, answer.status, err))
	case answer.access == "":
		return nil, explain(answer, account, used)
	case !sendable(answer.access):
		return nil, fail(fmt.Errorf("the answer of %s holds an access token that can't be sent", r.TokenURL))
	}
	fresh := &token{Access: answer.access, Refresh: cmp.Or(answer.refresh, used.Refresh)}
	if answer.lifetime > 0 {
		fresh.Expires = time.Now().Add(answer.lifetime).UTC().Truncate(time.Second)
	}
	return fresh, nil
}

// form is the request. The client's id and secret go into it: asking again with
// both in a header would spend the token twice when an answer is lost.
func form(r *upstream.Refresh, used *token) url.Values {
	values := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {used.Refresh}}
	for name, value := range map[string]string{"client_id": r.ClientID, "client_secret": r.ClientSecret} {
		if value != "" {
			values.Set(name, value)
		}
	}
	return values
}

// sendable reports whether a token fits into a header.
func sendable(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// explain makes an error of an answer without an access token; a *RefusedError
// where the endpoint judged the credential.
func explain(a *answer, account *upstream.Account, used *token) error {
	reason := fmt.Sprintf("%s answered %d", account.Refresh.TokenURL, a.status)
	for _, part := range append(a.codes, a.description) {
		// What is hidden is hidden before the text is cut: a cut secret isn't found.
		if part = hide(part, account, used); part != "" {
			reason += " " + strings.ToValidUTF8(part[:min(len(part), 200)], "")
		}
	}
	if a.refused() {
		return &RefusedError{reason}
	}
	if len(a.codes) == 0 {
		reason += " without an access token"
	}
	return fmt.Errorf("refreshing the access token of account %s: %s", account.Name, reason)
}

// hide takes the account's secrets, also as a form writes them, out of a text.
func hide(text string, account *upstream.Account, used *token) string {
	secrets := []string{used.Refresh, used.Access, account.Refresh.Token, account.Secret, account.Refresh.ClientSecret}
	// The longest first: one may be the beginning of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, secret := range secrets {
		if secret != "" {
			pairs = append(pairs, secret, "[hidden]", url.QueryEscape(secret), "[hidden]")
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
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
