package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// bufferSize is how much of a stream is read at once, as in net/http's copy
// loops.
const bufferSize = 32 << 10

// endGrace is how long a stream may stay open after message_stop. Reading to its
// end lets the connection be used again; waiting for long would hold the slot,
// and the client.
const endGrace = 2 * time.Second

// maxHeld bounds what is kept back of a stream whose content has not begun: a
// message_start has under 2 kB, a ping 36 bytes.
const maxHeld = 1 << 20

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// stream relays an event stream. Nothing goes to the client before the content
// has begun; until then any failure is one for another account.
func (a *answer) stream() *upstream.Failure {
	from, err := a.body()
	if err != nil {
		return a.brokenOff(err)
	}
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	s := &stream{answer: a, from: from, buffer: buffer[:]}
	if sent := a.record.ModelSent; sent != a.call.Model {
		s.renamer = &anthropic.Renamer{Sent: sent, Asked: a.call.Model}
	}
	a.guard.begin(&timeout{"no content", "first_event_timeout", a.firstEventTimeout}, a.idleLimit())
	held, failure := s.awaitContent()
	switch {
	case failure != nil && a.gone():
		a.settleNothing()
		return nil
	case failure != nil:
		return failure
	}
	// From here on the answer is this account's, whatever comes.
	a.guard.begin(nil, a.idleLimit())
	a.record.TTFTMS = time.Since(a.arrived).Milliseconds()
	a.call.Drop()
	a.succeeded()
	a.record.Status = 200
	a.out.header(prefixMismatch, a.response.Header.Get(prefixMismatch))
	if a.drain > 0 {
		defer s.outliveClient()()
	}
	s.finish(s.relay(held))
	return nil
}

// outliveClient lets upstream's stream go on when the client leaves, for as
// long as it may be drained. What it returns ends that.
func (s *stream) outliveClient() func() {
	s.unlink()
	unhook := context.AfterFunc(s.runtime.ctx, func() { s.cancel(errShutdown) })
	s.lease.OnLost(func() { s.cancel(errSlotLost) })
	unwatch := context.AfterFunc(s.exchange.ctx, func() {
		if s.clientLeft() {
			s.guard.begin(&timeout{"no end of the answer", "on_disconnect drain", s.drain}, s.idleLimit())
		}
	})
	return func() {
		unwatch()
		unhook()
	}
}

// stream is an event stream on its way.
type stream struct {
	*answer
	from    io.Reader
	buffer  []byte
	meter   anthropic.Meter
	renamer *anthropic.Renamer // nil where the model is not renamed
	renamed []byte
	heard   time.Duration // when the last bytes came, on the clock
	ending  bool          // the answer is whole, and the stream's end is awaited
	over    bool          // nothing more comes
	left    bool          // the client is gone, and the stream is drained
}

// awaitContent reads until the content begins and returns all that came.
func (s *stream) awaitContent() ([]byte, *upstream.Failure) {
	var held []byte
	for !s.meter.Begun() {
		p, err := s.next()
		held = append(held, p...)
		switch {
		case s.meter.Begun():
		case s.meter.Failure() != nil:
			return nil, s.meter.Failure()
		case err == io.EOF:
			return nil, s.brokenOff(errors.New("the stream ended before its content"))
		case err != nil:
			return nil, s.brokenOff(err)
		case len(held) > maxHeld:
			return nil, s.brokenOff(fmt.Errorf("the stream's content did not begin within %d bytes", maxHeld))
		}
	}
	return held, nil
}

// next reads once, and has the meter look at what came. The meter goes first:
// what completes an answer must be on record before it goes out.
func (s *stream) next() ([]byte, error) {
	n, err := s.from.Read(s.buffer)
	s.heard = s.clock.now()
	s.guard.alive(s.heard)
	n = s.meter.Feed(s.buffer[:n], s.heard) // what comes after the answer is dropped
	if err != nil {
		s.meter.Finish()
		s.over = true
	}
	return s.buffer[:n], err
}

// How a relayed stream ended.
var (
	errClientGone = errors.New("the client is gone")
	errUnsettled  = errors.New("what the answer used could not be recorded")
	errTruncated  = errors.New("the stream ended in the middle")
)

// relay sends p and all that follows: one read, one write, one flush. nil
// means that the answer is whole.
func (s *stream) relay(p []byte) error {
	var err error
	for {
		if s.clientLeft() {
			s.left = true
			s.record.Status = statusClientGone
		}
		if s.meter.Done() && !s.settled {
			if err := s.settleLast(s.meter.Reading(s.heard, s.bounds()).Usage); err != nil {
				s.logger.Error("an answer is cut short: its record could not be kept", "request_id", s.id, "error", err)
				return errUnsettled
			}
		}
		if s.renamer != nil {
			p = s.rename(p)
		}
		if len(p) > 0 && !s.left && s.out.write(p, s.meter.AtBoundary(), s.heard) != nil {
			s.left = true
			s.record.Status = statusClientGone
			if s.drain == 0 {
				return errClientGone
			}
		}
		switch {
		case s.meter.Failure() != nil:
			return s.meter.Failure()
		case s.over && s.meter.Whole():
			return nil
		case err == io.EOF:
			return errTruncated
		case err != nil:
			return err
		}
		if s.meter.Whole() && !s.ending {
			s.ending = true
			s.guard.begin(&timeout{what: "no end after message_stop", option: "fixed", after: endGrace}, nil)
		}
		p, err = s.next()
	}
}

func (s *stream) rename(p []byte) []byte {
	s.renamed = s.renamer.Stream(s.renamed[:0], p)
	if s.over {
		s.renamed = s.renamer.Rest(s.renamed)
	}
	return s.renamed
}

// finish ends the client's stream and settles what has not been settled.
func (s *stream) finish(err error) {
	var failure *upstream.Failure
	var late *timeout
	// The status is for a stream of which nothing has gone out.
	ours := &apiError{status: http.StatusServiceUnavailable, retryAfter: openRetry, kind: serverError, message: "the upstream service broke off its answer"}
	switch {
	case err == nil:
		return
	case s.left:
		ours = nil
	case errors.As(err, &failure):
		// Upstream's own error event has gone out as it is. It ends the answer: a
		// client that leaves upon it has left nothing.
		ours = nil
		failure.Kind = upstream.ServerFault
	case errors.As(context.Cause(s.ctx), &late):
		ours.kind, ours.message = timeoutError, "the upstream service fell silent in the middle of its answer"
		failure = s.brokenOff(late)
	case cutBy(s.exchange.ctx) != nil:
		ours.kind, ours.message = overloadedError, cutBy(s.exchange.ctx).why+"; try again"
	case errors.Is(err, errUnsettled):
		ours.message = "the gateway could not record this answer; its log says why, under this request_id"
	case s.clientLeft():
		s.record.Status = statusClientGone
		ours = nil
	default:
		failure = s.brokenOff(err)
	}
	if failure != nil {
		s.report(s.account, failure)
	}
	if !s.settled {
		s.settleBroken()
	}
	if ours != nil {
		s.out.fail(ours, s.meter.Seal())
	}
}

// settleBroken settles an answer that broke off, with what is known of it.
func (s *stream) settleBroken() {
	used := s.meter.Reading(s.clock.now(), s.bounds())
	if err := s.settle(used.Usage, used.Estimated); err != nil {
		s.logger.Error("the record of an answer that broke off could not be kept", "request_id", s.id, "error", err)
	}
}
