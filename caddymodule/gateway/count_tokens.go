package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// countTokens answers POST /v1/messages/count_tokens: one account is asked,
// without a slot, a session or a record.
func (x *exchange) countTokens() error {
	x.endpoint = scheduler.CountTokens
	if err := x.readCall(); err != nil {
		return err
	}
	account, err := x.gateway.Scheduler.PickWithoutSlot(x.demand())
	if err != nil {
		return x.notPicked(err, nil)
	}
	if account.Platform == upstream.Antigravity {
		return x.answerJSON(map[string]int{"input_tokens": 100})
	}
	failure, err := x.withCredential(account, x.count)
	switch {
	case failure == nil:
		return err
	case errors.Is(failure.Err, scheduler.ErrUnavailable):
		return storeError("reading an access token", failure.Err)
	}
	x.report(account, failure)
	return &upstreamError{failure}
}

// count asks an account for the count and relays its answer.
func (x *exchange) count(account *upstream.Account, secret string) (*upstream.Failure, error) {
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	guard := newDeadline(cancel, x.clock)
	defer guard.stop()
	guard.begin(&timeout{what: "no whole answer", option: "header_timeout", after: x.config.HeaderTimeout, silence: true}, nil)
	x.record.ModelSent = x.call.Sent(account)
	x.sent, x.secret = time.Now(), secret
	response, err := x.runtime.transports.For(account).RoundTrip(
		anthropic.Prepare(ctx, &x.call, account, secret, x.options(account)))
	switch {
	case err != nil && x.ended():
		return nil, errGone
	case err != nil:
		return unreachable(ctx, err), nil
	}
	defer response.Body.Close()
	a := &answer{x: x, account: account, response: response, ctx: ctx, guard: guard}
	body, err := a.read(maxErrorBody)
	switch {
	case err != nil && x.ended():
		return nil, errGone
	case response.StatusCode/100 != 2:
		return a.refused(body, err), nil
	case err != nil:
		return a.brokenOff(err), nil
	case !gjson.ValidBytes(body) || gjson.GetBytes(body, "input_tokens").Type != gjson.Number:
		if gjson.GetBytes(body, "error").IsObject() {
			return anthropic.ReadError(body), nil
		}
		return a.brokenOff(errors.New("the answer is not a count of tokens")), nil
	}
	a.succeeded()
	header := make(http.Header, 2)
	copyHeader(header, response.Header, "Content-Type")
	x.out.whole(response.StatusCode, header, body)
	return nil, nil
}
