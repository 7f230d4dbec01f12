package statetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// locker is someone who waits for a lock.
type locker struct {
	b      *bench
	cancel context.CancelCauseFunc
	done   chan struct{}
	unlock func()
	err    error
}

func (b *bench) lock(name string, ttl time.Duration) *locker {
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &locker{b: b, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.unlock, l.err = b.s.Lock(ctx, name, ttl)
	}()
	b.Cleanup(func() { cancel(nil) })
	b.Settle()
	return l
}

func (l *locker) over() bool {
	l.b.Settle()
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *locker) holds() {
	l.b.Helper()
	if !l.over() || l.err != nil {
		l.b.Fatalf("does not hold the lock: error %v", l.err)
	}
}

func (l *locker) waits() {
	l.b.Helper()
	if l.over() {
		l.b.Fatalf("does not wait for the lock: error %v", l.err)
	}
}

func (l *locker) fails(want error) {
	l.b.Helper()
	if !l.over() || l.err != want {
		l.b.Fatalf("got error %v, want %v", l.err, want)
	}
}

var lockTests = map[string]func(*bench){
	"one holder at a time": func(b *bench) {
		first := b.lock("a", ttl)
		first.holds()
		second := b.lock("a", ttl)
		second.waits()
		b.lock("b", ttl).holds()
		first.unlock()
		b.Advance(time.Second)
		second.holds()
		third := b.lock("a", ttl)
		first.unlock() // the lock is another's by now
		b.Advance(time.Second)
		third.waits()
	},
	"a dead holder's lock is free after its time": func(b *bench) {
		dead := b.lock("a", 10*time.Second)
		dead.holds()
		next := b.lock("a", ttl)
		b.Advance(8 * time.Second)
		next.waits()
		b.Advance(3 * time.Second)
		next.holds()
		last := b.lock("a", ttl)
		dead.unlock()
		b.Advance(time.Second)
		last.waits()
		next.unlock()
		b.Advance(time.Second)
		last.holds()
	},
	"the wait for a lock ends with its context": func(b *bench) {
		holder := b.lock("a", ttl)
		holder.holds()
		cause := errors.New("gone")
		gone, patient := b.lock("a", ttl), b.lock("a", ttl)
		gone.cancel(cause)
		b.Advance(time.Second)
		gone.fails(cause)
		holder.unlock()
		b.Advance(time.Second)
		patient.holds()
		patient.unlock()
		late, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		if _, err := b.s.Lock(late, "a", ttl); err != cause {
			b.Errorf("a free lock was given to a dead context: %v", err)
		}
		b.lock("a", ttl).holds()
	},
	"closing ends the wait for a lock": func(b *bench) {
		b.lock("a", ttl).holds()
		w := b.lock("a", ttl)
		w.waits()
		b.s.Close()
		b.Advance(time.Second)
		w.fails(scheduler.ErrClosed)
		if _, err := b.s.Lock(context.Background(), "c", ttl); err != scheduler.ErrClosed {
			b.Errorf("locking a closed state: %v", err)
		}
	},
	"a lock excludes": func(b *bench) {
		const goroutines, rounds = 8, 20
		var inside, most atomic.Int64
		var total int // guarded by the lock
		var all sync.WaitGroup
		for range goroutines {
			all.Go(func() {
				for range rounds {
					unlock, err := b.s.Lock(context.Background(), "a", ttl)
					if err != nil {
						b.Error(err)
						return
					}
					if n := inside.Add(1); n > most.Load() {
						most.Store(n)
					}
					total++
					inside.Add(-1)
					unlock()
				}
			})
		}
		all.Wait()
		if most.Load() != 1 || total != goroutines*rounds {
			b.Errorf("%d at once, %d in all", most.Load(), total)
		}
	},
}
