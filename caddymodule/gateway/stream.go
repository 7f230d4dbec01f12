package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
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
func (a *answer) stream() (*upstream.Failure, error) {
	from, err := bodyOf(a.response)
	if err != nil {
		return a.brokenOff(err), nil
	}
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	s := &stream{a: a, x: a.x, from: from, buffer: buffer[:], renamer: a.x.renamer()}
	s.meter.KeepModel = billing.IsAlias(a.x.call.Model)
	if a.x.config.StreamTimeout > 0 {
		a.guard.bound(&timeout{what: "no end of the answer", option: "stream_timeout", after: a.x.config.StreamTimeout})
	}
	a.guard.begin(&timeout{what: "no content", option: "first_event_timeout", after: a.x.config.FirstEventTimeout, silence: true}, a.idleLimit())
	rest, failure := s.awaitContent()
	switch {
	case failure != nil && a.x.ended():
		if s.meter.Reported() { // it was kept back, and is paid for all the same
			a.x.brokeOff(s.reading())
		}
		return nil, errGone
	case failure != nil:
		return failure, nil
	}
	// From here on the answer is this account's, whatever comes.
	if a.x.config.Drain > 0 {
		defer s.outliveClient()()
	}
	return nil, s.finish(s.relay(rest))
}

// outliveClient lets upstream's stream go on when the client leaves, for as
// long as it may be drained. What it returns ends that.
func (s *stream) outliveClient() func() {
	s.a.unlink()
	unhook := context.AfterFunc(s.x.runtime.Context, func() { s.a.cancel(errShutdown) })
	s.x.lease.OnLost(func() { s.a.cancel(errSlotLost) })
	unwatch := context.AfterFunc(s.x.ctx, func() {
		if s.x.clientLeft() {
			s.a.guard.begin(&timeout{what: "no end of the answer", option: "on_disconnect drain", after: s.x.config.Drain}, s.a.idleLimit())
		}
	})
	return func() {
		unwatch()
		unhook()
	}
}

// stream is an event stream on its way.
type stream struct {
	a        *answer
	x        *exchange // of a
	from     io.Reader
	buffer   []byte
	meter    anthropic.Meter
	renamer  *anthropic.Renamer // nil where the model is not renamed
	renamed  []byte
	heard    time.Duration // when the last bytes came, on the clock
	listened time.Duration // how long upstream was listened to, all in all
	ending   bool          // the answer is whole, and the stream's end is awaited
	over     bool          // nothing more comes
	left     bool          // the client is gone, and the stream is drained

	// Until the content has begun, the goroutine that reads and a timer share what
	// is kept back.
	mu      sync.Mutex
	held    []byte
	between bool // held ends between two events
	begun   bool
	failed  bool
}

// emptyHold is how long a block that began empty is kept back: an upstream that is
// overloaded says so at once, and hidden thinking says nothing for minutes.
const emptyHold = 2 * time.Second

// awaitContent reads until the content has begun, and returns what of it has not
// gone out yet.
func (s *stream) awaitContent() (rest []byte, failure *upstream.Failure) {
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		p, err := s.next()
		rest, failure, done := s.keepBack(p, err)
		if done {
			return rest, failure
		}
		if timer == nil && s.meter.Opened() {
			s.a.guard.begin(nil, s.a.idleLimit())
			timer = time.AfterFunc(emptyHold, s.letGo)
		}
	}
}

// keepBack keeps back what was read, unless the content has begun, or never will.
func (s *stream) keepBack(p []byte, err error) (rest []byte, failure *upstream.Failure, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return p, nil, true
	}
	s.held = append(s.held, p...)
	s.between = s.meter.AtBoundary()
	switch {
	case s.meter.Begun():
		s.begin()
		return s.held, nil, true
	case s.meter.Failure() != nil:
		failure = s.meter.Failure()
	case err == io.EOF:
		failure = s.a.brokenOff(errors.New("the stream ended before its content"))
	case err != nil:
		failure = s.a.brokenOff(err)
	case len(s.held) > maxHeld:
		failure = s.a.brokenOff(fmt.Errorf("the stream's content did not begin within %d bytes", maxHeld))
	}
	s.failed = failure != nil
	return nil, failure, s.failed
}

// letGo ends the wait for the first content of a block that began empty.
func (s *stream) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun || s.failed {
		return
	}
	s.begin()
	held := s.held
	if s.renamer != nil {
		held = s.renamer.Stream(nil, held)
	}
	s.x.out.write(held, s.between, s.x.clock.now()) // where it fails, the next one does
}

// begin makes the answer this account's. s.mu is held.
func (s *stream) begin() {
	s.begun = true
	s.a.guard.begin(nil, s.a.idleLimit())
	s.x.record.TTFTMS = time.Since(s.x.arrived).Milliseconds()
	s.x.call.Drop()
	s.a.succeeded()
	s.x.record.Status = http.StatusOK
	s.x.out.header(prefixMismatch, s.a.response.Header.Get(prefixMismatch))
}

// next reads once, and has the meter look at what came; it returns what belongs to
// the answer. The meter goes first: what completes an answer must be on record
// before it goes out.
func (s *stream) next() ([]byte, error) {
	before := s.x.clock.now()
	n, err := s.from.Read(s.buffer)
	s.heard = s.x.clock.now()
	s.listened += s.heard - before
	s.a.guard.alive(s.heard)
	n = s.meter.Feed(s.buffer[:n], s.listened)
	if err != nil {
		s.meter.Finish()
		s.over = true
	}
	return s.buffer[:n], err
}

// reading is what the answer has used, if it ends now.
func (s *stream) reading() anthropic.Reading { return s.meter.Reading(s.listened, s.x.bounds()) }

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
		if s.x.clientLeft() {
			s.left = true
			s.x.record.Status = statusClientGone
		}
		if s.meter.Done() && !s.x.closed {
			if err := s.x.settleWhole(s.reading()); err != nil {
				s.x.gateway.logger.Error("an answer is cut short: its record could not be kept", "request_id", s.x.id, "error", err)
				return errUnsettled
			}
		}
		if failure := s.meter.Failure(); failure != nil {
			s.reportEnd(failure)
		}
		if s.renamer != nil {
			p = s.rename(p)
		}
		if len(p) > 0 && !s.left && s.x.out.write(p, s.meter.AtBoundary(), s.heard) != nil {
			s.left = true
			s.x.record.Status = statusClientGone
			if s.x.config.Drain == 0 {
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
			s.a.guard.begin(&timeout{what: "no end after message_stop", option: "fixed", after: endGrace}, nil)
		}
		p, err = s.next()
	}
}

// reportEnd reports upstream's error event in the middle of an answer, before it
// reaches the client, which may come back at once.
func (s *stream) reportEnd(failure *upstream.Failure) {
	if failure.Kind != upstream.Refused {
		failure.Kind = upstream.Failed
	}
	s.x.report(s.a.account, failure)
}

func (s *stream) rename(p []byte) []byte {
	s.renamed = s.renamer.Stream(s.renamed[:0], p)
	if s.over {
		s.renamed = s.renamer.Rest(s.renamed)
	}
	return s.renamed
}

// finish returns how the client hears that its stream broke off, if it has to, and notes
// what the answer used.
func (s *stream) finish(err error) error {
	if err == nil {
		return nil
	}
	var failure *upstream.Failure
	var late *timeout
	ours := errStreamBroken()
	switch {
	case s.left:
		ours = nil
	case errors.As(err, new(*upstream.Failure)):
		// Upstream's own error event has gone out as it is, and is reported. It ends the
		// answer: a client that leaves upon it has left nothing.
		ours = nil
	case errors.As(context.Cause(s.a.ctx), &late):
		ours = errStreamSilent()
		failure = s.a.brokenOff(late)
	case cutBy(s.x.ctx) != nil:
		ours = errStreamEnded(cutBy(s.x.ctx).why)
	case errors.Is(err, errUnsettled):
		ours = errNotRecorded()
	case s.x.clientLeft():
		s.x.record.Status = statusClientGone
		ours = nil
	default:
		failure = s.a.brokenOff(err)
	}
	if failure != nil {
		s.x.report(s.a.account, failure)
	}
	s.x.brokeOff(s.reading())
	if ours == nil {
		return nil
	}
	ours.seal = s.meter.Seal()
	return ours
}
