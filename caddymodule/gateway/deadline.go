package gateway

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// timeout is the cause of a request to upstream that was ended for its silence.
type timeout struct {
	what   string // what did not come
	option string // the option that sets the limit
	after  time.Duration
	// silence: upstream was to be heard, so that its connection may be dead.
	silence bool
}

// Timeout reports whether the connection is to be suspected; see
// upstream.Transports.
func (t *timeout) Timeout() bool { return t.silence }

func (t *timeout) Error() string {
	return fmt.Sprintf("upstream sent %s within %s (%s)", t.what, t.after, t.option)
}

// deadline ends a request to upstream that takes too long: by a limit on the
// phase at hand, and by a limit on silence. Signs of life don't touch its
// timer: it looks back at the last one when it fires.
type deadline struct {
	cancel context.CancelCauseFunc
	clock  stopwatch
	heard  atomic.Int64 // on the clock

	mu    sync.Mutex
	ended bool
	timer *time.Timer
	until time.Duration // end of the phase, on the clock
	phase *timeout      // limit on the phase; nil = none
	idle  *timeout      // limit on silence; nil = none
	end   time.Duration // of all phases from here on, on the clock
	total *timeout      // limit on them; nil = none
}

// stopwatch counts from the arrival of a request.
type stopwatch struct{ start time.Time }

func (c stopwatch) now() time.Duration { return time.Since(c.start) }

func newDeadline(cancel context.CancelCauseFunc, clock stopwatch) *deadline {
	return &deadline{cancel: cancel, clock: clock}
}

// begin starts a phase, in place of the one before. phase and idle may be nil,
// for no limit.
func (w *deadline) begin(phase, idle *timeout) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	now := w.clock.now()
	w.alive(now)
	w.phase, w.idle = phase, idle
	if phase != nil {
		w.until = now + phase.after
	}
	w.set(now)
}

// bound limits all that is to come; nil is no limit.
func (w *deadline) bound(total *timeout) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || total == nil {
		return
	}
	now := w.clock.now()
	w.total, w.end = total, now+total.after
	w.set(now)
}

// alive tells that upstream was heard at that time.
func (w *deadline) alive(now time.Duration) { w.heard.Store(int64(now)) }

func (w *deadline) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended, w.phase, w.idle, w.total = true, nil, nil, nil
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *deadline) onTimer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.now()
	switch {
	case w.total != nil && now >= w.end:
		w.cancel(w.total)
	case w.phase != nil && now >= w.until:
		w.cancel(w.phase)
	case w.idle != nil && now >= w.silentUntil():
		w.cancel(w.idle)
	default:
		w.set(now)
	}
}

// silentUntil is when the silence will have lasted too long.
func (w *deadline) silentUntil() time.Duration { return time.Duration(w.heard.Load()) + w.idle.after }

// set makes the timer fire at the next limit.
func (w *deadline) set(now time.Duration) {
	next := time.Duration(math.MaxInt64)
	if w.phase != nil {
		next = w.until
	}
	if w.idle != nil {
		next = min(next, w.silentUntil())
	}
	if w.total != nil {
		next = min(next, w.end)
	}
	if next == math.MaxInt64 {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(next-now, w.onTimer)
		return
	}
	w.timer.Reset(next - now)
}
