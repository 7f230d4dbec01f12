package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/internal/modelname"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// statusClientGone is what access logs say of a client that left before its
// answer, as nginx does.
const statusClientGone = 499

// busyRetryAfter is when a client that found every line full may try again.
const busyRetryAfter = 5 * time.Second

// exchange is one request and its answer.
type exchange struct {
	gateway *Gateway
	config  *Config  // of gateway
	runtime *Runtime // the same
	r       *http.Request
	path    string            // the API's, without a platform's prefix
	force   upstream.Platform // by the path; "" = none
	id      string            // request-id of the answer, and id of the record
	arrived time.Time
	clock   stopwatch
	key     *Key
	group   *Group // nil without one
	out     *downstream

	// ctx ends when the client leaves or the gateway shuts down.
	ctx    context.Context
	cancel context.CancelCauseFunc
	unhook func() bool

	call        anthropic.Call
	endpoint    scheduler.Endpoint
	bodySize    int64
	sent        time.Time // when the request last went to an account
	secret      string    // that it had then
	session     string
	shared      bool             // the users of the group share its account
	strip       bool             // thinking blocks are to be left out
	slot        *scheduler.Lease // of the user
	lease       *scheduler.Lease // of the account asked last
	ledger      billing.Ledger
	holdRequest *billing.HoldRequest // nil in simple mode
	ahead       heldAhead            // nil once it was called, or if nothing was asked ahead
	payer       billing.Payer
	held        bool // money is, or was, set aside
	record      billing.Record
	used        *anthropic.Reading // of an answer that did not come whole; nil = nothing
	closed      bool               // the record was settled, or could not be
	settled     bool
}

func newExchange(g *Gateway, w http.ResponseWriter, r *http.Request, path string, force upstream.Platform) *exchange {
	x := &exchange{gateway: g, config: g.Config, runtime: g.runtime, r: r, path: path, force: force, id: newRequestID(), arrived: time.Now()}
	x.clock = stopwatch{x.arrived}
	x.out = newDownstream(w, x.id, x.clock)
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	x.unhook = context.AfterFunc(g.runtime.Context, func() { x.cancel(errShutdown) })
	return x
}

// end lets go of what the exchange holds. The answer is complete.
func (x *exchange) end() {
	x.out.end()
	x.unhook()
	x.cancel(nil)
}

func newRequestID() string {
	id, err := uuid.NewV7()
	if err != nil { // no randomness to be had
		panic(err)
	}
	return "req_" + strings.ReplaceAll(id.String(), "-", "")
}

// conclude answers a request that ended in an error, nil for one that has its answer. It
// is the one place that answers with errors.
func (x *exchange) conclude(err error) {
	if err == nil {
		return // before what errors.As needs is allocated
	}
	var refusal *apiError
	var failed *upstreamError
	var step *stepError
	switch {
	case errors.As(err, &refusal):
		x.out.fail(refusal)
	case errors.As(err, &failed):
		x.answerFailure(failed.failure)
	case errors.Is(err, errCutShort):
		panic(http.ErrAbortHandler)
	case errors.Is(err, errGone), x.ended():
		x.answerEnded()
	case errors.As(err, &step) && step.ofStore && x.storeMayRecover(step.err):
		x.gateway.logger.Error("a request failed for want of the store", "doing", step.doing, "request_id", x.id, "error", step.err)
		x.out.fail(errStore())
	default:
		x.gateway.logger.Error("a request failed inside the gateway", "request_id", x.id, "error", err)
		x.out.fail(errInternal())
	}
}

// answerEnded answers a request that has ended from this side.
func (x *exchange) answerEnded() {
	if c := cutBy(x.ctx); c != nil {
		x.out.fail(errEnded(c.why))
		return
	}
	x.out.gone()
}

// statusOf is the status for the record of a request whose answer had not begun when it
// ended in an error.
func (x *exchange) statusOf(err error) int {
	var refusal *apiError
	var failed *upstreamError
	switch {
	case errors.As(err, &refusal):
		return refusal.status
	case errors.As(err, &failed):
		if e := errUpstream(failed.failure); e != nil {
			return e.status
		}
		return failed.failure.Status
	case cutBy(x.ctx) != nil:
		return http.StatusServiceUnavailable
	case x.ended():
		return statusClientGone
	}
	return http.StatusInternalServerError
}

// storeMayRecover reports whether what the store failed for passes: it is out of reach, or
// others share it.
func (x *exchange) storeMayRecover(err error) bool {
	return x.config.Storage.Outage() != store.OutageFails || errors.Is(err, scheduler.ErrUnavailable) || errors.Is(err, billing.ErrUnwritable)
}

// cut is why the gateway ends a request from its own side.
type cut struct{ why string }

func (c *cut) Error() string { return c.why }

var (
	// errShutdown ends the relays that outlive the server's grace period.
	errShutdown = &cut{"the gateway is shutting down"}
	// errSlotLost ends those of a process that was frozen for so long that their
	// slots may be others' by now.
	errSlotLost = &cut{"the gateway stood still for too long to keep this request's place"}
)

// cutBy is why the gateway ended a request from its own side; nil if it did not.
func cutBy(ctx context.Context) (c *cut) {
	errors.As(context.Cause(ctx), &c)
	return c
}

// slotLost ends the request, whose slot is no longer its own.
func (x *exchange) slotLost() { x.cancel(errSlotLost) }

// clientLeft reports whether the client has gone away.
func (x *exchange) clientLeft() bool { return x.ctx.Err() != nil && cutBy(x.ctx) == nil }

// ended reports whether the request has ended from this side: the client left, or the
// gateway is shutting down.
func (x *exchange) ended() bool { return x.ctx.Err() != nil }

// readCall reads the request, whole and before any waiting: only then is it
// noticed when the client leaves. It finds the group that serves it, and its
// session.
func (x *exchange) readCall() (err error) {
	if encoding := x.r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return errCompressed()
	}
	body, err := x.readBody()
	switch {
	case err == nil:
	case x.tooLarge(err):
		return errBodyTooLarge(x.config.MaxBody)
	case x.ended():
		return errGone
	default:
		return invalid("the request body could not be read whole")
	}
	request, err := anthropic.ParseRequest(body)
	if err != nil {
		return invalid(err.Error())
	}
	x.bodySize = int64(len(body))
	x.call = anthropic.Call{Path: x.path, RawQuery: x.r.URL.RawQuery, Header: x.r.Header, Request: request}
	if x.group, err = x.gateway.chooseGroup(x.key, x.force, x.call.Model); err != nil {
		return err
	}
	var byContent bool
	x.session, byContent = x.call.Session(x.r.Header, x.key.ID, x.contentSession())
	x.shared = byContent && x.contentSession() == anthropic.Cacheable
	return nil
}

// firstRead bounds the memory that a request is given before it has sent that
// much: a length is easily claimed.
const firstRead = 512 << 10

func (x *exchange) readBody() ([]byte, error) {
	if x.r.ContentLength > x.config.MaxBody {
		return nil, &http.MaxBytesError{Limit: x.config.MaxBody}
	}
	from := http.MaxBytesReader(nil, x.r.Body, x.config.MaxBody)
	size := int64(4 << 10)
	if x.r.ContentLength > 0 {
		size = min(x.r.ContentLength+1, firstRead) // + 1 to read EOF without growing
	}
	body := make([]byte, 0, size)
	for {
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, err
		case len(body) == cap(body):
			body = append(body, 0)[:len(body)]
		}
	}
}

// tooLarge reports whether reading a body failed for its size, by our limit or by
// one of the server in front of us.
func (x *exchange) tooLarge(err error) bool {
	var limit *http.MaxBytesError
	return errors.As(err, &limit) || x.runtime.hooks.IsTooLarge(err)
}

// demand is what the request needs of an account.
func (x *exchange) demand() scheduler.Demand {
	d := scheduler.Demand{
		Request: x.id,
		User:    x.key.User.Name,
		Force:   x.force,
		Model:   x.model(),
		Fast:    x.call.Fast,
		Session: x.session,
		Shared:  x.shared,

		Endpoint: x.endpoint,
	}
	if x.group != nil {
		d.Group = x.group.Name
	}
	return d
}

// model is the model that the request asks for, as accounts and marks know it.
func (x *exchange) model() string { return modelname.Base(x.call.Model) }

// options say how the request is prepared for an account.
func (x *exchange) options(account *upstream.Account) anthropic.Options {
	options := anthropic.Options{
		InjectSystem: x.config.InjectSystem == InjectSystemAll ||
			x.config.InjectSystem == InjectSystemOAuth && x.gateway.Scheduler.HoldsBearer(x.groupName(), x.force),
		StripThinking: x.config.ThinkingBlocks == ThinkingStrip || x.strip,
		InjectBeta:    x.config.InjectBeta,
		Allow:         x.gateway.allow,
	}
	if x.config.Identity && account.Bearer() {
		options.Identity = x.runtime.identities.See(account.Name, account.AccountUUID, x.r.Header)
	}
	return options
}

func (x *exchange) groupName() string {
	if x.group == nil {
		return ""
	}
	return x.group.Name
}
