// Package statetest is the conformance suite of scheduler.State: what every
// implementation must do alike.
package statetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// Harness says how to run the suite on an implementation.
type Harness struct {
	// New returns an empty State. The suite closes it.
	New func(t *testing.T) scheduler.State
	// Bubble runs one test; nil = just call it. For a State that lives in this
	// process it is synctest.Test.
	Bubble func(t *testing.T, f func(t *testing.T))
	// Advance lets d pass for the State and for this process's timers.
	Advance func(d time.Duration)
	// Settle returns when what was set in motion has come to rest.
	Settle func()
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, part := range []map[string]func(*bench){slotTests, sessionTests, lineTests, accountStateTests, demotionTests, lockTests, stressTests} {
		for name, test := range part {
			t.Run(name, func(t *testing.T) {
				run := func(t *testing.T) {
					s := h.New(t)
					defer s.Close()
					test(&bench{T: t, Harness: h, s: s})
				}
				if h.Bubble == nil {
					run(t)
				} else {
					h.Bubble(t, run)
				}
			})
		}
	}
}

// bench is one test's State and tools.
type bench struct {
	*testing.T
	Harness
	s scheduler.State
	n atomic.Int64
}

const (
	ttl     = time.Minute
	bindTTL = 5 * time.Minute
)

// places makes candidates of equal priority.
func places(limit int, names ...string) *scheduler.Candidates {
	c := &scheduler.Candidates{Pool: "pool"}
	for _, name := range names {
		c.Places = append(c.Places, scheduler.Place{Name: name, Limit: limit})
	}
	return c
}

// ask makes an ask that may wait.
func (b *bench) ask(c *scheduler.Candidates, change ...func(*scheduler.Ask)) *scheduler.Ask {
	a := &scheduler.Ask{
		Lease: fmt.Sprintf("lease-%d", b.n.Add(1)), TTL: ttl, Candidates: c, Model: "m",
		BindTTL: bindTTL, StickyMaxWaiting: 3, MaxWaiting: 100,
	}
	for _, f := range change {
		f(a)
	}
	return a
}

func user(name string) func(*scheduler.Ask)    { return func(a *scheduler.Ask) { a.User = name } }
func session(name string) func(*scheduler.Ask) { return func(a *scheduler.Ask) { a.Session = name } }
func model(name string) func(*scheduler.Ask)   { return func(a *scheduler.Ask) { a.Model = name } }
func exclude(names ...string) func(*scheduler.Ask) {
	return func(a *scheduler.Ask) { a.Exclude = names }
}
func unstick(a *scheduler.Ask) { a.Unstick = true }

func (b *bench) acquire(a *scheduler.Ask) scheduler.Answer {
	b.Helper()
	answer, err := b.s.Acquire(context.Background(), a)
	if err != nil {
		b.Fatalf("Acquire: %v", err)
	}
	return answer
}

// grant acquires a slot and returns its lease.
func (b *bench) grant(place string, a *scheduler.Ask) string {
	b.Helper()
	want := scheduler.Answer{Kind: scheduler.Granted, Place: place}
	if got := where(b.acquire(a)); got != want {
		b.Fatalf("Acquire: got %+v, want %+v", got, want)
	}
	return a.Lease
}

// where is an answer without how the place was chosen, which few tests ask for.
func where(a scheduler.Answer) scheduler.Answer {
	a.Own, a.Last, a.Trial = false, false, false
	return a
}

// wantHow acquires a slot and asserts all of the answer.
func (b *bench) wantHow(want scheduler.Answer, a *scheduler.Ask) string {
	b.Helper()
	want.Kind = scheduler.Granted
	if diff := cmp.Diff(want, b.acquire(a)); diff != "" {
		b.Fatalf("Acquire (-want +got):\n%s", diff)
	}
	return a.Lease
}

func (b *bench) want(want scheduler.Answer, a *scheduler.Ask) {
	b.Helper()
	if diff := cmp.Diff(want, where(b.acquire(a))); diff != "" {
		b.Fatalf("Acquire (-want +got):\n%s", diff)
	}
}

func (b *bench) release(lease string) {
	b.Helper()
	if err := b.s.Release(context.Background(), lease); err != nil {
		b.Fatalf("Release: %v", err)
	}
}

func (b *bench) change(place string, f func(*scheduler.AccountState)) {
	b.Helper()
	if _, err := b.s.Change(context.Background(), place, f); err != nil {
		b.Fatalf("Change: %v", err)
	}
}

// limit keeps a place out for d, for all models or those of a family.
func (b *bench) limit(place, family string, d time.Duration) {
	b.Helper()
	b.change(place, func(st *scheduler.AccountState) {
		st.Limits = []scheduler.Limit{{Claim: "5h", Family: family, Until: time.Now().Add(d)}}
	})
}

// demote puts a place last for d, for all requests or those of a model.
func (b *bench) demote(place, model string, d time.Duration, change ...func(*scheduler.Demotion)) {
	b.Helper()
	demotion := scheduler.Demotion{Model: model, Until: time.Now().Add(d)}
	for _, f := range change {
		f(&demotion)
	}
	b.change(place, func(st *scheduler.AccountState) { st.Demotions = append(st.Demotions, demotion) })
}

func (b *bench) load(place string, inUse, waiting int) {
	b.Helper()
	got, err := b.s.Load(context.Background(), place)
	if err != nil {
		b.Fatalf("Load: %v", err)
	}
	if got.InUse != inUse || got.Waiting != waiting {
		b.Fatalf("load of %s: %d in use, %d waiting; want %d, %d", place, got.InUse, got.Waiting, inUse, waiting)
	}
}

// waiter is an ask in line.
type waiter struct {
	b      *bench
	lease  string
	cancel context.CancelCauseFunc
	done   chan struct{}
	answer scheduler.Answer
	err    error
}

// line puts an ask in line and awaits it.
func (b *bench) line(a *scheduler.Ask) *waiter {
	b.Helper()
	if got := b.acquire(a); got.Kind != scheduler.Queued {
		b.Fatalf("Acquire: got %+v, want Queued", got)
	}
	return b.await(a.Lease)
}

func (b *bench) await(lease string) *waiter {
	ctx, cancel := context.WithCancelCause(context.Background())
	w := &waiter{b: b, lease: lease, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.answer, w.err = b.s.Await(ctx, lease)
	}()
	b.Cleanup(func() { cancel(nil) })
	return w
}

// waits asserts that the ask is in line still.
func (w *waiter) waits() {
	w.b.Helper()
	w.b.Settle()
	select {
	case <-w.done:
		w.b.Fatalf("%s is in line no more: %+v, %v", w.lease, w.answer, w.err)
	default:
	}
}

// gets asserts the answer, and that it has come.
func (w *waiter) gets(want scheduler.Answer) {
	w.b.Helper()
	w.b.Settle()
	select {
	case <-w.done:
	default:
		w.b.Fatalf("%s is in line still, want %+v", w.lease, want)
	}
	if w.err != nil {
		w.b.Fatalf("Await: %v", w.err)
	}
	if diff := cmp.Diff(want, where(w.answer)); diff != "" {
		w.b.Fatalf("Await (-want +got):\n%s", diff)
	}
}

// getsHow asserts that the ask was granted a slot, and all of the answer.
func (w *waiter) getsHow(want scheduler.Answer) {
	w.b.Helper()
	w.granted(want.Place)
	want.Kind = scheduler.Granted
	if diff := cmp.Diff(want, w.answer); diff != "" {
		w.b.Fatalf("Await (-want +got):\n%s", diff)
	}
}

func (w *waiter) granted(place string) {
	w.b.Helper()
	w.gets(scheduler.Answer{Kind: scheduler.Granted, Place: place})
}

// fails asserts that the wait ended with an error.
func (w *waiter) fails(want error) {
	w.b.Helper()
	w.b.Settle()
	select {
	case <-w.done:
	default:
		w.b.Fatalf("%s is in line still, want error %v", w.lease, want)
	}
	if w.err != want {
		w.b.Fatalf("Await: got error %v, want %v", w.err, want)
	}
}
