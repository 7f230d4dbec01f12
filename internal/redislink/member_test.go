package redislink

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// member notes what it is told.
type member struct {
	name string
	told *told
	// regain, if it is set, is what Regain does.
	regain func(ctx context.Context) error
}

type told struct {
	mu    sync.Mutex
	lines []string
}

func (t *told) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
}

func (t *told) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := t.lines
	t.lines = nil
	return lines
}

func (m *member) Lost() { m.told.add(m.name + " lost") }

func (m *member) Regain(ctx context.Context) error {
	m.told.add(m.name + " regain")
	m.told.mu.Lock()
	regain := m.regain
	m.told.mu.Unlock()
	if regain != nil {
		return regain(ctx)
	}
	return nil
}

// then has Regain do something from here on.
func (m *member) then(regain func(ctx context.Context) error) {
	m.told.mu.Lock()
	defer m.told.mu.Unlock()
	m.regain = regain
}

// fails returns a Regain that fails.
func fails(why string) func(context.Context) error {
	return func(context.Context) error { return errors.New(why) }
}

func TestMembersHearOfAnOutage(t *testing.T) {
	inBubble(t, func(b *bench) {
		var told told
		want := func(lines ...string) {
			t.Helper()
			if got := told.take(); !slices.Equal(got, lines) {
				t.Errorf("told %q, want %q", got, lines)
			}
		}
		first, second := &member{name: "first", told: &told}, &member{name: "second", told: &told}
		b.Join(first)
		b.Join(second)
		time.Sleep(time.Minute)
		want()
		b.lose()
		synctest.Wait()
		want("first lost", "second lost")
		third := &member{name: "third", told: &told}
		b.Join(third) // in the midst of it
		second.then(fails("WRONGTYPE"))
		b.server.SetError("")
		time.Sleep(600 * time.Millisecond)
		want("first regain", "second regain", "first regain", "second regain")
		if !b.isDown() {
			t.Error("it is up, though a member is not right with it")
		}
		b.wantLines(1, 0, 1)
		second.then(fails("another"))
		time.Sleep(250 * time.Millisecond)
		want("first regain", "second regain")
		b.wantLines(1, 0, 2)
		fourth := &member{name: "fourth", told: &told}
		third.then(func(context.Context) error { // while others are told
			b.Join(fourth)
			b.Leave(first)
			if !b.isDown() {
				t.Error("it counts as up before all are right with it")
			}
			return nil
		})
		second.then(nil)
		time.Sleep(250 * time.Millisecond)
		want("first regain", "second regain", "third regain", "fourth regain")
		b.wantLines(1, 1, 2)
		b.Leave(second)
		b.Leave(second)
		b.lose()
		synctest.Wait()
		want("third lost", "fourth lost")
	})
}

// TestMembersSpeakToRedisBeforeItIsBack, and an outage among them is the same one.
func TestMembersSpeakToRedisBeforeItIsBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		var told told
		m := &member{name: "a", told: &told, regain: func(context.Context) error {
			b.server.SetError("LOADING again")
			defer b.server.SetError("")
			return b.ping()
		}}
		b.Join(m)
		b.lose()
		b.server.SetError("")
		time.Sleep(600 * time.Millisecond)
		b.wantLines(1, 0, 1)
		m.then(func(context.Context) error { return b.ping() })
		time.Sleep(300 * time.Millisecond)
		b.wantLines(1, 1, 1)
	})
}

// TestCloseInEveryPhase: it ends the loop, and nothing is logged from then on. The
// bubble ends only if all goroutines have.
func TestCloseInEveryPhase(t *testing.T) {
	var told told
	for name, phase := range map[string]func(b *bench){
		"before anything was sent": func(*bench) {},
		"while Redis is up":        func(b *bench) { _ = b.ping() },
		"when it has just gone":    func(b *bench) { b.lose() },
		"while it is gone":         func(b *bench) { b.lose(); time.Sleep(100 * time.Millisecond) },
		"while it is probed": func(b *bench) {
			b.lose()
			b.set(far(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }), nil)
			time.Sleep(300 * time.Millisecond)
		},
		"while a member regains": func(b *bench) {
			b.Join(&member{name: "a", told: &told, regain: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
			b.lose()
			b.server.SetError("")
			time.Sleep(300 * time.Millisecond)
		},
		"while it is suspect": func(b *bench) {
			b.set(nil, func(next func() error) error { time.Sleep(2 * time.Second); return context.DeadlineExceeded })
			_ = b.ping()
			time.Sleep(time.Second)
		},
		"when it is back": func(b *bench) { b.lose(); b.server.SetError(""); time.Sleep(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				phase(b)
				b.mu.Lock()
				before := b.log.Len()
				b.mu.Unlock()
				began := time.Now()
				b.Close()
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
				b.server.SetError("LOADING Redis is loading the dataset in memory")
				_ = b.ping()
				b.server.SetError("")
				time.Sleep(time.Minute)
				b.mu.Lock()
				defer b.mu.Unlock()
				if b.log.Len() != before {
					t.Errorf("logged after the end:\n%s", b.log.String()[before:])
				}
			})
		})
	}
}
