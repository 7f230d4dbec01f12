package caddymodule

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// timeout is the cause of a request to upstream that was ended for its silence.
type timeout struct {
	what   string // what did not come
	option string // the option that sets the limit
	after  time.Duration
}

func (t *timeout) Error() string {
	return fmt.Sprintf("upstream sent %s within %s (%s)", t.what, t.after, t.option)
}

// watch ends a request to upstream that takes too long: by a limit on the
// phase at hand, and by a limit on silence. Signs of life don't touch its
// timer: it looks back at the last one when it fires.
type watch struct {
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	until time.Time // end of the phase; zero = no limit
	phase *timeout
	idle  *timeout // limit on silence; nil = none
	heard time.Time
}

func newWatch(cancel context.CancelCauseFunc) *watch { return &watch{cancel: cancel} }

// begin starts a phase, in place of the one before. phase and idle may be nil,
// for no limit.
func (w *watch) begin(phase, idle *timeout) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = time.Now()
	w.phase, w.idle, w.until = phase, idle, time.Time{}
	if phase != nil {
		w.until = w.heard.Add(phase.after)
	}
	w.set(w.heard)
}

// alive tells that upstream was heard.
func (w *watch) alive() {
	w.mu.Lock()
	w.heard = time.Now()
	w.mu.Unlock()
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase, w.idle = nil, nil
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *watch) onTimer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	switch {
	case w.phase != nil && !now.Before(w.until):
		w.cancel(w.phase)
	case w.idle != nil && now.Sub(w.heard) >= w.idle.after:
		w.cancel(w.idle)
	default:
		w.set(now)
	}
}

// set makes the timer fire at the next limit.
func (w *watch) set(now time.Time) {
	var next time.Duration
	switch {
	case w.phase != nil && w.idle != nil:
		next = min(w.until.Sub(now), w.heard.Add(w.idle.after).Sub(now))
	case w.phase != nil:
		next = w.until.Sub(now)
	case w.idle != nil:
		next = w.heard.Add(w.idle.after).Sub(now)
	default:
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(next, w.onTimer)
		return
	}
	w.timer.Reset(next)
}
