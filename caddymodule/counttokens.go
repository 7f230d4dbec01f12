package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// countTokens answers POST /v1/messages/count_tokens: one attempt, without a
// slot, a session or a record. Its failures are the request's, not the
// account's, but for those that say that the account can't be used.
func (x *exchange) countTokens() {
	if !x.readCall() {
		return
	}
	account, err := x.scheduler.Choose(x.demand())
	if err != nil {
		x.failPick(err, nil)
		return
	}
	if account.Platform == upstream.Antigravity {
		x.answerJSON(map[string]int{"input_tokens": 100})
		return
	}
	if failure := x.withCredential(account, x.count); failure != nil {
		if errors.Is(failure.Err, scheduler.ErrUnavailable) {
			x.storeFailed("reading an access token", failure.Err)
			return
		}
		if failure.Status == http.StatusUnauthorized || failure.Status == http.StatusTooManyRequests {
			x.report(account, failure)
		}
		x.answerFailure(failure)
	}
}

// count asks an account for the count and relays its answer. nil means that the
// client has it, or is gone.
func (x *exchange) count(account *upstream.Account, secret string) *upstream.Failure {
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	guard := newWatch(cancel, x.clock)
	defer guard.stop()
	guard.begin(&timeout{"no response header", "header_timeout", x.headerTimeout}, nil)
	response, err := x.runtime.transports.For(account).RoundTrip(
		anthropic.Prepare(ctx, &x.call, account, secret, x.options(account)))
	if err != nil {
		if x.gone() {
			return nil
		}
		return unreachable(ctx, err)
	}
	defer response.Body.Close()
	a := &answer{exchange: x, account: account, response: response, ctx: ctx, guard: guard}
	body, err := a.read(maxErrorBody)
	switch {
	case err != nil && x.gone():
		return nil
	case response.StatusCode/100 != 2:
		return anthropic.ReadFailure(response.StatusCode, response.Header, body, x.call.Fast, time.Now())
	case err != nil:
		return a.brokenOff(err)
	}
	header := make(http.Header, 2)
	copyHeader(header, response.Header, "Content-Type")
	x.out.whole(response.StatusCode, header, body)
	return nil
}
