package gateway

import (
	"errors"
	"net/http"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

// withCredential calls send with the secret that is in force for the account.
// Where that is an access token that upstream no longer accepts, it is
// refreshed, and the request sent once more, before the 401 counts.
func (x *exchange) withCredential(account *upstream.Account, send func(*upstream.Account, string) (*upstream.Failure, error)) (*upstream.Failure, error) {
	if account.Refresh == nil {
		return send(account, account.Secret)
	}
	if _, err := x.gateway.Ledger(x.ctx); err != nil { // the tokens are in the store
		return x.noCredential(err)
	}
	tokens := x.runtime.tokens
	secret, err := tokens.Access(x.ctx, account)
	if err != nil {
		return x.noCredential(err)
	}
	failure, err := send(account, secret)
	if failure == nil || failure.Kind != upstream.Unauthorized {
		return failure, err
	}
	x.gateway.logger.Info("upstream refused an access token; it is refreshed", "account", account.Name, "request_id", x.id)
	if secret, err = tokens.Refresh(x.ctx, account, secret); err != nil {
		return x.noCredential(err)
	}
	return send(account, secret)
}

// noCredential makes a Failure of an account that has no access token that works. Only a
// refused refresh token is the account's fault.
func (x *exchange) noCredential(err error) (*upstream.Failure, error) {
	var refused *oauth.RefusedError
	switch {
	case x.ended():
		return nil, errGone
	case errors.As(err, &refused):
		// The account is in error by now: see Runtime.refused.
		return &upstream.Failure{Status: http.StatusUnauthorized, Err: err}, nil
	case errors.Is(err, errTokenStore), errors.Is(err, scheduler.ErrUnavailable):
		// Another account may have a token; this one has done nothing wrong.
		return &upstream.Failure{Err: err}, nil
	}
	return &upstream.Failure{Kind: upstream.Failed, Err: err}, nil
}
