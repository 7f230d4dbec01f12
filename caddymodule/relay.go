package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// messages answers POST /v1/messages: the main job.
func (x *exchange) messages() {
	if !x.readCall() {
		return
	}
	if x.call.Stream {
		x.out.keepAlive(x.keepalive, x.keepaliveAfter)
	}
	ctx, ok := x.open()
	if !ok {
		return
	}
	// Both slots in one step; the account's, once it has answered.
	defer func() {
		x.letGo()
		scheduler.Release(x.slot, x.lease)
	}()
	var err error
	if x.slot, err = x.scheduler.Admit(ctx, x.id, x.key.user.name, x.key.user.concurrency); err != nil {
		x.failPick(err, nil)
		return
	}
	x.slot.OnLost(x.slotLost)
	if x.canPay() {
		x.relay()
	}
}

// relay asks one account after the other, until one answers or none is left.
// Nothing has gone to the client when the next one is asked.
func (x *exchange) relay() {
	demand := x.demand()
	var last *upstream.Failure
	for switches := 0; ; switches++ {
		lease, err := x.scheduler.Pick(x.ctx, demand)
		if err != nil {
			x.failPick(err, last)
			return
		}
		x.lease = lease
		lease.OnLost(x.slotLost)
		if last = x.attempt(lease); last == nil {
			return
		}
		lease.Release()
		switch {
		case !x.elsewhere(last) || switches >= x.maxSwitches:
			x.refuse(last)
			return
		}
		demand.Exclude = append(demand.Exclude, lease.Account.Name)
	}
}

// attempt asks the account of a lease. nil means that the client has its
// answer, or is gone; a failure means that it has nothing yet, and that the
// account is marked.
func (x *exchange) attempt(lease *scheduler.Lease) *upstream.Failure {
	account := lease.Account
	if x.thinkingBlocks == thinkingRetry && lease.Marks&scheduler.StripThinking != 0 {
		x.strip = true
	}
	failure := x.send(account)
	for tries := 0; failure != nil && tries < x.attempts && sameAgain(account, failure); tries++ {
		if !x.pause(failure) {
			return nil
		}
		failure = x.send(account)
	}
	if failure != nil && x.thinkingBlocks == thinkingRetry && !x.strip && anthropic.AboutThinking(failure) && x.call.HasThinking() {
		x.strip = true
		failure = x.send(account)
		if failure == nil || !anthropic.AboutThinking(failure) {
			x.scheduler.MarkSession(context.WithoutCancel(x.ctx), x.demand(), scheduler.StripThinking)
		}
	}
	if failure != nil {
		x.report(account, failure)
	}
	return failure
}

// elsewhere tells whether another account should be asked after a failure.
func (x *exchange) elsewhere(f *upstream.Failure) bool {
	return f.Elsewhere() || x.failoverOn400 && anthropic.AboutFeature(f)
}

// sameAgain tells whether the same account may answer the next time: a 403 that
// a token gets for a moment, or a status that the operator does not count as
// the account's own. What upstream has judged about the request stays judged.
func sameAgain(account *upstream.Account, f *upstream.Failure) bool {
	switch {
	case f.Err != nil || f.Kind == upstream.Refused:
		return false
	case account.Bearer():
		return f.Status == http.StatusForbidden
	}
	return len(account.ErrorCodes) > 0 && !slices.Contains(account.ErrorCodes, f.Status)
}

// longestPause is the longest retry-after that is waited for at an account.
const longestPause = time.Minute

// pause waits before the same account is asked again; false if the request has
// ended meanwhile, which is answered then.
func (x *exchange) pause(f *upstream.Failure) bool {
	wait := x.delay
	if f.RetryAfter > 0 && f.RetryAfter < longestPause {
		wait = f.RetryAfter
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.ctx.Done():
		x.gone()
		x.settleNothing()
		return false
	}
}

// send sends the request to an account once and relays its answer.
func (x *exchange) send(account *upstream.Account) *upstream.Failure {
	return x.withCredential(account, x.sendOnce)
}

func (x *exchange) sendOnce(account *upstream.Account, secret string) *upstream.Failure {
	if !x.slot.Held() || !x.lease.Held() {
		x.slotLost()
		x.gone()
		x.settleNothing()
		return nil
	}
	// The request to upstream may outlive the client's, to be drained.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(x.ctx))
	defer cancel(nil)
	unlink := context.AfterFunc(x.ctx, func() { cancel(context.Cause(x.ctx)) })
	defer unlink()
	guard := newWatch(cancel, x.clock)
	defer guard.stop()
	guard.begin(&timeout{"no response header", "header_timeout", x.headerTimeout}, nil)

	x.record.Attempts++
	x.record.Account, x.record.Platform = account.Name, string(account.Platform)
	x.record.ModelSent = x.call.Sent(account)
	response, err := x.runtime.transports.For(account).RoundTrip(
		anthropic.Prepare(ctx, &x.call, account, secret, x.options(account)))
	if err != nil {
		if x.gone() {
			x.settleNothing()
			return nil
		}
		return unreachable(ctx, err)
	}
	defer response.Body.Close()
	x.record.UpstreamRequestID = response.Header.Get("Request-Id")
	a := &answer{exchange: x, account: account, response: response, ctx: ctx, cancel: cancel, unlink: unlink, guard: guard}
	switch {
	case response.StatusCode/100 != 2:
		return a.failure()
	case isEventStream(response.Header):
		return a.stream()
	}
	return a.whole()
}

// unreachable makes a Failure of a request that got no answer.
func unreachable(ctx context.Context, err error) *upstream.Failure {
	f := &upstream.Failure{Kind: upstream.Unreachable, Err: err}
	var late *timeout
	if errors.As(context.Cause(ctx), &late) {
		f.Status, f.Err = http.StatusGatewayTimeout, late
	}
	return f
}

// report tells the scheduler what a failure means for the account.
func (x *exchange) report(account *upstream.Account, f *upstream.Failure) {
	outcome := scheduler.Outcome{
		Kind:       outcomes[f.Kind],
		Status:     f.Status,
		Model:      x.call.Model,
		Reset:      f.Reset,
		RetryAfter: f.RetryAfter,
		Family:     f.Family,
		Fast:       f.Fast,
		Reason:     f.Error(),
		Window:     windowReport(f.Window),
	}
	if x.logErrors > 0 && len(f.Body) > 0 {
		x.logger.Warn("upstream error", "account", account.Name, "request_id", x.id, "status", f.Status,
			"body", strings.ToValidUTF8(string(f.Body[:min(int64(len(f.Body)), x.logErrors)]), ""))
	}
	if outcome.Kind == 0 {
		return
	}
	x.logger.Warn("an account failed a request", "account", account.Name, "request_id", x.id, "error", f)
	x.tell(account, outcome)
}

func (x *exchange) tell(account *upstream.Account, outcome scheduler.Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), settleTimeout)
	defer cancel()
	if _, err := x.scheduler.Report(ctx, account.Name, outcome); err != nil {
		x.logger.Error("an account's state could not be kept", "account", account.Name, "error", err)
	}
}

// outcomes are the failures that say something of the account.
var outcomes = map[upstream.FailureKind]scheduler.OutcomeKind{
	upstream.Unauthorized: scheduler.Unauthorized,
	upstream.Forbidden:    scheduler.Forbidden,
	upstream.RateLimited:  scheduler.RateLimited,
	upstream.Burst:        scheduler.Burst,
	upstream.SpendLimit:   scheduler.SpendLimit,
	upstream.CreditGone:   scheduler.CreditGone,
	upstream.Overloaded:   scheduler.Overloaded,
	upstream.ServerFault:  scheduler.ServerFault,
	upstream.Unreachable:  scheduler.ServerFault,
}

func windowReport(w *upstream.Window) *scheduler.WindowReport {
	return (*scheduler.WindowReport)(w)
}

// failPick answers a request that got no slot: with the failure of the last
// account that was asked, where there was one.
func (x *exchange) failPick(err error, last *upstream.Failure) {
	var out *scheduler.OutError
	switch {
	case x.gone():
		if x.record.Attempts > 0 {
			x.settleNothing()
		}
	case last != nil:
		x.refuse(last)
	case errors.Is(err, scheduler.ErrNoAccount):
		x.fail(noAccount(x.force, x.call.Model))
	case errors.Is(err, scheduler.ErrUnavailable):
		x.failStore("choosing an account", err)
	case errors.Is(err, scheduler.ErrFull):
		x.fail(&apiError{
			status: http.StatusTooManyRequests, kind: rateLimitError, retryAfter: busyRetryAfter,
			message: "too many requests are in flight; try again",
		})
	case errors.As(err, &out):
		x.fail(&apiError{
			status: http.StatusServiceUnavailable, kind: overloadedError,
			message: "every account that serves this model is out for now; try again", retryAfter: untilBack(out.Until),
		})
	default:
		x.internal("choosing an account", err)
	}
}

// untilBack is the retry-after for a time; one that is not known is a minute.
func untilBack(at time.Time) time.Duration {
	if at.IsZero() {
		return time.Minute
	}
	return max(time.Second, time.Until(at))
}
