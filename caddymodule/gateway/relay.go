package gateway

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
func (x *exchange) messages() (err error) {
	if err := x.readCall(); err != nil {
		return err
	}
	if x.call.Stream {
		x.out.keepAlive(x.config.Keepalive, x.config.KeepaliveAfter)
	}
	along, err := x.open()
	if err != nil {
		return err
	}
	// Both slots in one step; the account's, once it has answered.
	defer func() {
		x.settleRest(err)
		x.letGo()
		scheduler.Release(x.slot, x.lease)
	}()
	if x.slot, err = x.gateway.Scheduler.Admit(x.ctx, x.id, x.key.User.Name, x.key.User.Concurrency, along); err != nil {
		return x.notPicked(err, nil)
	}
	x.slot.OnLost(x.slotLost)
	if err := x.hold(); err != nil {
		return err
	}
	return x.relay()
}

// relay asks one account after the other, until one answers or none is left that
// is worth asking. Nothing has gone to the client when the next one is asked.
func (x *exchange) relay() error {
	demand := x.demand()
	var last *upstream.Failure
	var tried tries
	for switches := 0; ; switches++ {
		lease, err := x.gateway.Scheduler.Pick(x.ctx, demand)
		if err != nil {
			return x.notPicked(err, last)
		}
		x.lease = lease
		lease.OnLost(x.slotLost)
		x.noteMove(lease)
		failure, err := x.attempt(lease)
		if failure == nil {
			return err
		}
		last = failure
		lease.Release()
		demand.Exclude = append(demand.Exclude, lease.Account.Name)
		if !x.elsewhere(last) || switches >= x.config.MaxSwitches || tried.enough(lease, last, x.gateway.Scheduler.Others(demand, last.Answer())) {
			return &upstreamError{last}
		}
	}
}

const (
	// sameAnswers is how many accounts are asked that give the same answer.
	sameAnswers = 3
	// lateAnswers is how many are waited for in vain.
	lateAnswers = 2
)

// tries are the accounts that a request has asked so far.
type tries struct {
	late    bool           // one did not answer in time
	answers map[string]int // how many gave the same answer
}

// enough reports whether the answer of the account that was asked last is the
// client's: nothing better is to be had from the others. They may have shown
// that to other requests.
func (t *tries) enough(lease *scheduler.Lease, f *upstream.Failure, others scheduler.Others) bool {
	if t.late {
		return true
	}
	if t.answers == nil {
		t.answers = map[string]int{}
	}
	t.late = f.Late
	t.answers[f.Answer()]++
	if lease.Own && lease.Last {
		return false // it was asked for the session's sake, and says nothing of the others
	}
	most := sameAnswers
	if f.Late {
		most = lateAnswers
	}
	return max(t.answers[f.Answer()], others.Same) >= most || lease.Last && !others.Fresh
}

// attempt asks the account of a lease. A failure means that the client has nothing yet, and
// that the account is marked; without one the request is over, as err says.
func (x *exchange) attempt(lease *scheduler.Lease) (*upstream.Failure, error) {
	account := lease.Account
	if x.config.ThinkingBlocks == ThinkingRetry && lease.Marks&scheduler.StripThinking != 0 {
		x.strip = true
	}
	failure, err := x.send(account)
	for tries := 0; failure != nil && tries < x.config.Attempts && !lease.Last && sameAgain(account, failure); tries++ {
		if err := x.pause(failure); err != nil {
			return nil, err
		}
		failure, err = x.send(account)
	}
	if failure != nil && x.config.ThinkingBlocks == ThinkingRetry && !x.strip && anthropic.AboutThinking(failure) && x.call.HasThinking() {
		x.strip = true
		failure, err = x.send(account)
		if failure == nil || !anthropic.AboutThinking(failure) {
			x.gateway.Scheduler.MarkSession(context.WithoutCancel(x.ctx), x.demand(), scheduler.StripThinking)
		}
	}
	if failure != nil {
		x.report(account, failure)
	}
	return failure, err
}

// elsewhere reports whether another account should be asked after a failure.
func (x *exchange) elsewhere(f *upstream.Failure) bool {
	return f.Elsewhere() || x.config.FailoverOn400 && anthropic.AboutFeature(f)
}

// sameAgain reports whether the same account may answer the next time: a 403 that
// a token gets for a moment, or a status that the operator does not count as
// the account's own. What upstream has judged about the request stays judged.
func sameAgain(account *upstream.Account, f *upstream.Failure) bool {
	switch {
	case f.Err != nil, f.Paid, f.Header.Get("X-Should-Retry") == "false":
		return false
	case f.Status == http.StatusBadRequest, f.Status == http.StatusNotFound,
		f.Status == http.StatusRequestEntityTooLarge, f.Status == http.StatusUnprocessableEntity:
		return false
	case account.Bearer():
		return f.Status == http.StatusForbidden
	}
	return len(account.ErrorCodes) > 0 && !slices.Contains(account.ErrorCodes, f.Status)
}

// longestPause is the longest retry-after that is waited for at an account.
const longestPause = time.Minute

// pause waits before the same account is asked again.
func (x *exchange) pause(f *upstream.Failure) error {
	wait := x.config.Delay
	if f.RetryAfter > 0 && f.RetryAfter < longestPause {
		wait = f.RetryAfter
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-x.ctx.Done():
		return errGone
	}
}

// send sends the request to an account once and relays its answer.
func (x *exchange) send(account *upstream.Account) (*upstream.Failure, error) {
	return x.withCredential(account, x.sendOnce)
}

// mayBePaid is how long upstream may have worked on an answer that is not
// streamed before the request is not sent again when it breaks off: the account
// may have to pay for it.
const mayBePaid = 30 * time.Second

func (x *exchange) sendOnce(account *upstream.Account, secret string) (failure *upstream.Failure, err error) {
	if !x.slot.Held() || !x.lease.Held() {
		x.slotLost()
		return nil, errGone
	}
	defer func() { x.mayHavePaid(failure) }()
	// The request to upstream may outlive the client's, to be drained.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(x.ctx))
	defer cancel(nil)
	unlink := context.AfterFunc(x.ctx, func() { cancel(context.Cause(x.ctx)) })
	defer unlink()
	guard := newDeadline(cancel, x.clock)
	defer guard.stop()
	guard.begin(x.firstLimit(), nil)

	x.record.Attempts++
	x.record.Account, x.record.Platform = account.Name, string(account.Platform)
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
	x.record.UpstreamRequestID = response.Header.Get("Request-Id")
	a := &answer{x: x, account: account, response: response, ctx: ctx, cancel: cancel, unlink: unlink, guard: guard}
	switch {
	case response.StatusCode/100 != 2:
		return a.failure()
	case x.call.Stream != isEventStream(response.Header):
		return a.brokenOff(errors.New("the answer is " + response.Header.Get("Content-Type") + ", which was not asked for")), nil
	}
	a.endTrial()
	if x.call.Stream {
		x.out.answering(x.runtime.hooks.AnsweringAfter)
		return a.stream()
	}
	return a.whole()
}

// firstLimit is how long an account may take: for the header of a stream, or for
// all of another answer.
func (x *exchange) firstLimit() *timeout {
	if x.call.Stream {
		return &timeout{what: "no response header", option: "header_timeout", after: x.config.HeaderTimeout, silence: true}
	}
	return &timeout{what: "no whole answer", option: "answer_timeout", after: x.config.AnswerTimeout, silence: true}
}

// mayHavePaid marks the failure of an answer that is not streamed and that upstream may
// have worked on for too long to be asked for again.
func (x *exchange) mayHavePaid(f *upstream.Failure) {
	if f == nil || x.call.Stream || f.Kind == upstream.Unreachable {
		return
	}
	noAnswer := f.Err != nil || f.Type == "" && isGatewayError(f.Status)
	f.Paid = f.Late || noAnswer && time.Since(x.sent) > x.runtime.hooks.PaidAfter
}

// isGatewayError reports whether a status becomes a 502 or 504 for the client: one
// that says neither what is wrong with the request nor when it may be sent again.
func isGatewayError(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity,
		http.StatusTooManyRequests, statusOverloaded:
		return false
	}
	return true
}

// unreachable makes a Failure of a request that got no answer.
func unreachable(ctx context.Context, err error) *upstream.Failure {
	var late *timeout
	if errors.As(context.Cause(ctx), &late) {
		return &upstream.Failure{Kind: upstream.Failed, Status: http.StatusGatewayTimeout, Late: true, Err: late}
	}
	var connect *upstream.ConnectError
	if errors.As(err, &connect) {
		return &upstream.Failure{Kind: upstream.Unreachable, Err: err}
	}
	return &upstream.Failure{Kind: upstream.Failed, Err: err}
}

// report tells the scheduler what a failure means for the account, and has the
// account asked by the gateway itself where it may be in error.
func (x *exchange) report(account *upstream.Account, f *upstream.Failure) {
	f.Conceal(x.secret)
	if x.config.LogErrors > 0 && len(f.Body) > 0 {
		x.gateway.logger.Warn("upstream error", "account", account.Name, "request_id", x.id, "status", f.Status,
			"body", strings.ToValidUTF8(string(f.Body[:min(int64(len(f.Body)), x.config.LogErrors)]), ""))
	}
	outcome := x.outcome(f)
	if outcome.Kind == 0 {
		return
	}
	x.gateway.logger.Warn("an account failed a request", "account", account.Name, "request_id", x.id, "error", f)
	outcome.Served = x.runtime.questions.served(account.Name)
	x.tell(account, outcome)
	if outcome.Kind == scheduler.Denied && x.gateway.Scheduler.Counts(account.Name, &outcome) {
		x.runtime.questions.ask(x.gateway, account, x.model())
	}
}

// outcome is what a failure of the request means to the scheduler.
func (x *exchange) outcome(f *upstream.Failure) scheduler.Outcome {
	o := outcomeOf(f)
	o.Model, o.Fast, o.Endpoint, o.Sent = x.model(), x.call.Fast, x.endpoint, x.sent
	return o
}

func outcomeOf(f *upstream.Failure) scheduler.Outcome {
	o := scheduler.Outcome{
		Kind:       outcomes[f.Kind],
		Answer:     f.Answer(),
		RetryAfter: f.RetryAfter,
		RetryNow:   f.RetryNow,
		Reason:     f.Error(),
		Windows:    windowReports(f.Windows),
	}
	if f.Err == nil {
		o.Status = f.Status
	}
	return o
}

func (x *exchange) tell(account *upstream.Account, outcome scheduler.Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), settleTimeout)
	defer cancel()
	if _, err := x.gateway.Scheduler.Report(ctx, account.Name, outcome); err != nil {
		x.gateway.logger.Error("an account's state could not be kept", "account", account.Name, "error", err)
	}
}

// outcomes are the failures that say something of the account.
var outcomes = map[upstream.FailureKind]scheduler.OutcomeKind{
	upstream.Unauthorized: scheduler.Denied,
	upstream.Denied:       scheduler.Denied,
	upstream.Limited:      scheduler.Limited,
	upstream.SpendLimit:   scheduler.SpendLimit,
	upstream.Throttled:    scheduler.Throttled,
	upstream.Failed:       scheduler.Failed,
	upstream.Absent:       scheduler.Absent,
	upstream.Unreachable:  scheduler.Unreachable,
}

func windowReports(windows []upstream.Window) []scheduler.WindowReport {
	if windows == nil {
		return nil
	}
	reports := make([]scheduler.WindowReport, len(windows))
	for i, w := range windows {
		reports[i] = scheduler.WindowReport(w)
	}
	return reports
}

// notPicked is why a request got no slot. Where an account was asked before, its failure
// is the answer.
func (x *exchange) notPicked(err error, last *upstream.Failure) error {
	var out *scheduler.OutError
	switch {
	case x.ended():
		return errGone
	case last != nil:
		return &upstreamError{last}
	case errors.Is(err, scheduler.ErrNoAccount):
		return errNoAccount(x.force, x.call.Model)
	case errors.Is(err, scheduler.ErrFull):
		return errBusy()
	case errors.As(err, &out):
		return errAllOut(out.Until)
	}
	return &stepError{"choosing an account", err, errors.Is(err, scheduler.ErrUnavailable)}
}

// noteMove logs and counts that a session has left its account: what is in the
// prompt cache there, and thinking that is bound to the account, is lost to it.
func (x *exchange) noteMove(lease *scheduler.Lease) {
	if !lease.Moved {
		return
	}
	sessionMoves.WithLabelValues(x.groupName()).Inc()
	x.gateway.logger.Info("a session moved to another account", "account", lease.Account.Name, "request_id", x.id, "session", x.session)
}
