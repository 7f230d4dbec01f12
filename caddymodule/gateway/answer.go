package gateway

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

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// answer is an account's answer on its way to the client.
type answer struct {
	x        *exchange
	account  *upstream.Account
	response *http.Response
	ctx      context.Context // of the request to upstream
	cancel   context.CancelCauseFunc
	unlink   func() bool // lets the request to upstream outlive the client's
	guard    *deadline
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

// bodyOf is upstream's body. No encoding was asked for; gzip is undone all the
// same.
func bodyOf(response *http.Response) (io.Reader, error) {
	switch encoding := strings.ToLower(response.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return response.Body, nil
	case "gzip":
		return gzip.NewReader(response.Body)
	default:
		return nil, fmt.Errorf("the answer has the content-encoding %q, which was not asked for", encoding)
	}
}

// read reads upstream's body. With more than most bytes in it, it stops there
// with errTooLarge.
func (a *answer) read(most int64) (_ []byte, err error) {
	if a.x.call.Stream { // else firstLimit holds for all of it
		a.guard.begin(nil, a.idleLimit())
	}
	if a.from, err = bodyOf(a.response); err != nil {
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
		a.guard.alive(a.x.clock.now())
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

func (a *answer) idleLimit() *timeout {
	return &timeout{what: "nothing", option: "idle_timeout", after: a.x.config.IdleTimeout, silence: true}
}

// failure reads an answer that is not a success.
func (a *answer) failure() (*upstream.Failure, error) {
	body, err := a.read(maxErrorBody)
	if err != nil && a.x.ended() {
		return nil, errGone
	}
	return a.refused(body, err), nil
}

// refused makes a Failure of an answer that is not a success, as far as it came: err
// is how reading it ended. One that did not end in time is a time-out, unless its
// status says more.
func (a *answer) refused(body []byte, err error) *upstream.Failure {
	f := anthropic.ReadFailure(a.response.StatusCode, a.response.Header, body, a.x.asked(), time.Now())
	var late *timeout
	if err != nil && errors.As(context.Cause(a.ctx), &late) {
		f.Late = true
		if f.Kind == upstream.Failed {
			f.Status, f.Err = http.StatusGatewayTimeout, late
		}
	}
	return f
}

func (x *exchange) asked() anthropic.Asked {
	return anthropic.Asked{Model: x.model(), Fast: x.call.Fast}
}

// whole relays an answer that is not a stream.
func (a *answer) whole() (*upstream.Failure, error) {
	body, err := a.read(maxAnswer)
	switch {
	case errors.Is(err, errTooLarge):
		return nil, a.large(body)
	case err != nil && a.x.ended():
		if len(body) > 0 {
			a.x.brokeOff(anthropic.EstimateBySize(body, int64(len(body)), a.x.bounds()))
		}
		return nil, errGone
	case err != nil:
		return a.brokenOff(err), nil
	}
	if f := notAMessage(body); f != nil {
		return f, nil
	}
	a.succeeded()
	a.x.record.Status = a.response.StatusCode
	a.x.record.TTFTMS = time.Since(a.x.arrived).Milliseconds()
	if err := a.x.settleWhole(anthropic.ReadUsage(body, a.x.bounds())); err != nil {
		return nil, storeError("recording what an answer used", err)
	}
	if renamer := a.x.renamer(); renamer != nil {
		body = renamer.Body(body)
	}
	header := make(http.Header, 4)
	copyHeader(header, a.response.Header, "Content-Type", prefixMismatch)
	a.x.out.whole(a.response.StatusCode, header, body)
	return nil, nil
}

// notAMessage returns the failure of a success that holds something else than a
// message: an error, or what a proxy or another API says; nil if it is a message.
func notAMessage(body []byte) *upstream.Failure {
	if !gjson.ValidBytes(body) { // cut short, or a page
		return &upstream.Failure{Kind: upstream.Failed, Err: errors.New("the answer is not JSON")}
	}
	kind := gjson.GetBytes(body, "type").Str
	switch {
	case kind == "error", kind != "message" && gjson.GetBytes(body, "error").IsObject():
		return anthropic.ReadError(body)
	case kind != "message" && !gjson.GetBytes(body, "content").IsArray():
		return &upstream.Failure{Kind: upstream.Failed, Err: errors.New("the answer is not a message")}
	}
	return nil
}

// renamer gives the client its own name for the model back; nil where upstream was
// sent the same.
func (x *exchange) renamer() *anthropic.Renamer {
	if x.record.ModelSent == x.call.Model {
		return nil
	}
	return &anthropic.Renamer{Sent: x.record.ModelSent, Asked: x.call.Model}
}

// bounds are what the answer can have used.
func (x *exchange) bounds() anthropic.Bounds {
	facts, _ := x.config.Prices.Facts(x.call.Model)
	return anthropic.Bounds{Body: x.bodySize, Window: facts.MaxInputTokens, MaxTokens: x.call.MaxTokens, Alias: billing.IsAlias(x.call.Model)}
}

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
	f := &upstream.Failure{Kind: upstream.Failed, Err: err}
	var late *timeout
	if errors.As(context.Cause(a.ctx), &late) {
		f.Status, f.Late, f.Err = http.StatusGatewayTimeout, true, late
	}
	return f
}

// succeeded tells the scheduler that the account works.
func (a *answer) succeeded() {
	if a.x.endpoint == scheduler.Messages {
		a.x.runtime.questions.answered(a.account.Name, a.x.model())
	}
	a.x.tell(a.account, a.success(scheduler.Success))
}

// endTrial tells it so as soon as the header is there, where others wait for that.
func (a *answer) endTrial() {
	if a.x.lease.Trial {
		a.x.tell(a.account, a.success(scheduler.Answered))
	}
}

func (a *answer) success(kind scheduler.OutcomeKind) scheduler.Outcome {
	return scheduler.Outcome{
		Kind:     kind,
		Status:   a.response.StatusCode,
		Model:    a.x.model(),
		Fast:     a.x.call.Fast,
		Endpoint: a.x.endpoint,
		Sent:     a.x.sent,
		Windows:  windowReports(anthropic.ReadWindows(a.response.Header)),
	}
}

// answerFailure answers with the failure of the last account: upstream's own words where
// it judged the request, ours where it was about the account.
func (x *exchange) answerFailure(f *upstream.Failure) {
	if e := errUpstream(f); e != nil {
		x.out.fail(e)
		return
	}
	header := make(http.Header, 4)
	copyHeader(header, f.Header, "Content-Type", "Retry-After", "X-Should-Retry")
	if header["Content-Type"] == nil {
		header.Set("Content-Type", "application/json")
	}
	if after := f.RetryAfter; after > longestRetryAfter {
		setRetry(header, after, true)
	}
	body, message := f.Body, f.Message // clients match the words
	if renamer := x.renamer(); renamer != nil {
		body, message = renamer.Error(body), string(renamer.Error([]byte(message)))
	}
	if !x.out.whole(f.Status, header, body) {
		x.out.fail(errPassed(f.Type, message))
	}
}
