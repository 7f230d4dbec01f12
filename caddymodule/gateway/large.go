package gateway

import (
	"io"
	"net/http"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// tailSize is how much of the end of a large answer is held back until it is on
// record: its usage, and the bytes that complete it, are in there.
const tailSize = 64 << 10

// large relays a non-streaming answer that is too large to be held, of which
// body has been read. From here on it is the client's; where it breaks off, the
// connection is cut, since half of a JSON text can't say that it failed.
func (a *answer) large(body []byte) error {
	header := make(http.Header, 4)
	copyHeader(header, a.response.Header, "Content-Type", prefixMismatch)
	a.x.record.Status = a.response.StatusCode
	a.x.record.TTFTMS = time.Since(a.x.arrived).Milliseconds()
	a.x.out.begin(a.response.StatusCode, header) // nothing has gone out: keepalive is for streams
	a.succeeded()
	used, known := anthropic.ReadHeadUsage(body, a.x.bounds()) // in case it comes first
	renamer := a.x.renamer()
	if renamer != nil {
		body = renamer.Body(body)
	}
	a.x.call.Drop()
	relayed := int64(0)
	buffer := make([]byte, bufferSize)
	for {
		if over := len(body) - tailSize; over > 0 {
			if a.x.out.chunk(body[:over]) != nil {
				a.x.record.Status = statusClientGone
				a.brokeOffLarge(body, relayed)
				return errGone
			}
			relayed += int64(over)
			body = append(body[:0], body[over:]...)
		}
		n, err := a.from.Read(buffer)
		a.guard.alive(a.x.clock.now())
		body = append(body, buffer[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			if a.x.clientLeft() {
				a.x.record.Status = statusClientGone
			} else {
				a.x.report(a.account, a.brokenOff(err))
			}
			a.brokeOffLarge(body, relayed)
			return errCutShort
		}
	}
	if found, ok := anthropic.ReadTailUsage(body, a.x.bounds()); ok {
		used, known = found, true
	}
	if !known {
		used = anthropic.EstimateBySize(body, relayed+int64(len(body)), a.x.bounds())
	}
	if err := a.x.settleWhole(used); err != nil {
		a.x.gateway.logger.Error("an answer is cut short: its record could not be kept", "request_id", a.x.id, "error", err)
		return errCutShort
	}
	if renamer != nil {
		body = renamer.Tail(body)
	}
	a.x.out.chunk(body)
	return nil
}

// brokeOffLarge notes what a large answer used that broke off, by its size alone.
func (a *answer) brokeOffLarge(rest []byte, relayed int64) {
	a.x.brokeOff(anthropic.EstimateBySize(rest, relayed+int64(len(rest)), a.x.bounds()))
}
