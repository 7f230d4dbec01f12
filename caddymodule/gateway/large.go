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
func (a *answer) large(body []byte) {
	header := make(http.Header, 4)
	copyHeader(header, a.response.Header, "Content-Type", prefixMismatch)
	a.record.Status = a.response.StatusCode
	a.record.TTFTMS = time.Since(a.arrived).Milliseconds()
	if !a.out.begin(a.response.StatusCode, header) {
		a.fail(errNotStreamed())
		a.settleLarge(body, 0)
		return
	}
	a.succeeded()
	used, known := anthropic.ReadHeadUsage(body, a.bounds()) // in case it comes first
	renamer := a.renamer()
	if renamer != nil {
		body = renamer.Body(body)
	}
	a.call.Drop()
	relayed := int64(0)
	buffer := make([]byte, bufferSize)
	for {
		if over := len(body) - tailSize; over > 0 {
			if a.out.chunk(body[:over]) != nil {
				a.record.Status = statusClientGone
				a.settleLarge(body, relayed)
				return
			}
			relayed += int64(over)
			body = append(body[:0], body[over:]...)
		}
		n, err := a.from.Read(buffer)
		a.guard.alive(a.clock.now())
		body = append(body, buffer[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			if a.clientLeft() {
				a.record.Status = statusClientGone
			} else {
				a.report(a.account, a.brokenOff(err))
			}
			a.settleLarge(body, relayed)
			panic(http.ErrAbortHandler)
		}
	}
	if found, ok := anthropic.ReadTailUsage(body, a.bounds()); ok {
		used, known = found, true
	}
	if !known {
		used = anthropic.EstimateBySize(body, relayed+int64(len(body)), a.bounds())
	}
	if err := a.settle(used); err != nil {
		a.logger.Error("an answer is cut short: its record could not be kept", "request_id", a.id, "error", err)
		panic(http.ErrAbortHandler)
	}
	if renamer != nil {
		body = renamer.Tail(body)
	}
	a.out.chunk(body)
}

// settleLarge settles a large answer that broke off, by its size alone.
func (a *answer) settleLarge(rest []byte, relayed int64) {
	a.settleBroken(anthropic.EstimateBySize(rest, relayed+int64(len(rest)), a.bounds()))
}
