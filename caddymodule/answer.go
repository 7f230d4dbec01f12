package caddymodule

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// answer is an account's answer on its way to the client.
type answer struct {
	*exchange
	account  *upstream.Account
	response *http.Response
	ctx      context.Context // of the request to upstream
	cancel   context.CancelCauseFunc
	unlink   func() bool // lets the request to upstream outlive the client's
	guard    *watch
	from     io.Reader // upstream's body, opened by read
}

// Limits of what is held in memory of an answer.
const (
	maxErrorBody = 1 << 20
	// maxAnswer bounds the answer that is held whole, so that another account can
	// be asked when it breaks off. The largest output of today's models, 128,000
	// tokens, is under 1 MiB; results of server tools add more. A larger one is
	// relayed as it comes.
	maxAnswer = 4 << 20
)

var errTooLarge = errors.New("the answer is too large to be held")

func isEventStream(header http.Header) bool {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// body is upstream's body. No encoding was asked for; gzip is undone all the
// same.
func (a *answer) body() (io.Reader, error) {
	switch encoding := strings.ToLower(a.response.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return a.response.Body, nil
	case "gzip":
		return gzip.NewReader(a.response.Body)
	default:
		return nil, fmt.Errorf("the answer has the content-encoding %q, which was not asked for", encoding)
	}
}

// read reads upstream's body. With more than most bytes in it, it stops there
// with errTooLarge.
func (a *answer) read(most int64) (_ []byte, err error) {
	a.guard.begin(nil, a.idleLimit())
	if a.from, err = a.body(); err != nil {
		return nil, err
	}
	var body []byte
	if size := a.response.ContentLength; size > 0 {
		body = make([]byte, 0, min(size+1, firstRead))
	} else {
		body = make([]byte, 0, 4<<10)
	}
	for {
		n, err := a.from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		a.guard.alive(a.clock.now())
		switch {
		case err == io.EOF:
			return body, nil
		case err != nil:
			return body, err
		case int64(len(body)) > most:
			return body, errTooLarge
		case len(body) == cap(body):
			body = append(body, 0)[:len(body)]
		}
	}
}

func (a *answer) idleLimit() *timeout { return &timeout{"nothing", "idle_timeout", a.idleTimeout} }

// failure reads an answer that is not a success.
func (a *answer) failure() *upstream.Failure {
	body, err := a.read(maxErrorBody)
	if err != nil && a.gone() {
		a.settleNothing()
		return nil
	}
	return anthropic.ReadFailure(a.response.StatusCode, a.response.Header, body, a.call.Fast, time.Now())
}

// whole relays an answer that is not a stream.
func (a *answer) whole() *upstream.Failure {
	body, err := a.read(maxAnswer)
	if errors.Is(err, errTooLarge) {
		a.large(body)
		return nil
	}
	if err != nil {
		if a.gone() {
			a.settleNothing()
			return nil
		}
		return a.brokenOff(err)
	}
	switch {
	case !gjson.ValidBytes(body): // cut short, or a proxy's page: nothing was counted
		return a.brokenOff(errors.New("the answer is not JSON"))
	case gjson.GetBytes(body, "type").Str == "error":
		return anthropic.ReadError(body)
	}
	a.succeeded()
	usage := anthropic.ReadUsage(body, a.bounds()).Usage
	a.record.Status = a.response.StatusCode
	a.record.TTFTMS = time.Since(a.arrived).Milliseconds()
	if err := a.settleLast(usage); err != nil {
		a.storeFailed("recording what an answer used", err)
		return nil
	}
	if sent := a.record.ModelSent; sent != a.call.Model {
		body = (&anthropic.Renamer{Sent: sent, Asked: a.call.Model}).Body(body)
	}
	header := make(http.Header, 4)
	copyHeader(header, a.response.Header, "Content-Type", prefixMismatch)
	if !a.out.whole(a.response.StatusCode, header, body) {
		a.fail(&apiError{kind: serverError, message: "upstream did not stream its answer"})
	}
	return nil
}

// bounds is what is known of what the answer can have used.
func (a *answer) bounds() anthropic.Bounds { return anthropic.Bounds{MaxTokens: a.call.MaxTokens} }

// prefixMismatch tells Claude Code that thinking blocks were dropped.
const prefixMismatch = "Anthropic-Thinking-Prefix-Mismatch"

func copyHeader(to, from http.Header, names ...string) {
	for _, name := range names {
		if values := from[name]; len(values) > 0 {
			to[name] = values
		}
	}
}

// brokenOff makes a Failure of an answer that began and did not end as it
// should.
func (a *answer) brokenOff(err error) *upstream.Failure {
	f := &upstream.Failure{Kind: upstream.ServerFault, Err: err}
	var late *timeout
	if errors.As(context.Cause(a.ctx), &late) {
		f.Status, f.Err = http.StatusGatewayTimeout, late
	}
	return f
}

// succeeded tells the scheduler that the account works.
func (a *answer) succeeded() {
	a.tell(a.account, scheduler.Outcome{
		Kind:   scheduler.Success,
		Status: a.response.StatusCode,
		Model:  a.call.Model,
		Fast:   a.call.Fast,
		Window: windowReport(anthropic.ReadWindow(a.response.Header)),
	})
}

// refuse answers with the failure of the last account: upstream's own words
// where it judged the request, ours where it was about the account.
func (x *exchange) refuse(f *upstream.Failure) {
	x.record.Status = x.answerFailure(f)
	x.settleNothing()
}

func (x *exchange) answerFailure(f *upstream.Failure) (status int) {
	e := &apiError{status: http.StatusBadGateway, kind: serverError, message: "the upstream service failed; try again"}
	switch {
	case f.Kind == upstream.CreditGone, f.Kind == upstream.Unauthorized, f.Kind == upstream.Forbidden:
		e.message, e.final = "the upstream account of this request can't be used at present", true
	case f.Kind == upstream.Unreachable && f.Status == 0:
		e.message = "the upstream service could not be reached; try again"
	case f.Status == http.StatusBadRequest, f.Status == http.StatusNotFound,
		f.Status == http.StatusRequestEntityTooLarge, f.Status == http.StatusUnprocessableEntity:
		return x.passFailure(f)
	case f.Status == http.StatusTooManyRequests:
		e.status, e.kind, e.message = f.Status, rateLimitError, "the upstream rate limit is reached; try again later"
		e.retryAfter = f.RetryAfter
		if !f.Reset.IsZero() {
			e.retryAfter = untilBack(f.Reset)
		}
	case f.Status == statusOverloaded:
		e.status, e.kind, e.message = f.Status, overloadedError, "the upstream service is overloaded; try again"
	case f.Status == http.StatusGatewayTimeout:
		e.status, e.kind, e.message = f.Status, timeoutError, "the upstream service took too long to answer; try again"
	}
	x.fail(e)
	return e.status
}

// passFailure answers with upstream's own body and status: clients match the
// words.
func (x *exchange) passFailure(f *upstream.Failure) (status int) {
	header := make(http.Header, 4)
	copyHeader(header, f.Header, "Content-Type", "Retry-After", "X-Should-Retry")
	if header["Content-Type"] == nil {
		header.Set("Content-Type", "application/json")
	}
	if after := f.RetryAfter; after > longestRetryAfter {
		setRetry(header, after, true)
	}
	if !x.out.whole(f.Status, header, f.Body) {
		kind := f.Type
		if kind == "" {
			kind = invalidRequestError
		}
		x.fail(&apiError{kind: kind, message: f.Message})
	}
	return f.Status
}
