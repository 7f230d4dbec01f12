package redisstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// askForRights is how often a node that may not listen asks again.
const askForRights = 10 * time.Second

var errReleased = errors.New("the place in line was given up")

// waiter is an ask in line.
type waiter struct {
	ask     scheduler.Ask
	awaited bool
	until   time.Time // an ask that nobody awaits is forgotten then
	heard   time.Time // when Redis was last told that it is awaited
	epoch   int       // of the State that it is in line at; see State.epoch
	// again wakes who awaits: the State in force is another.
	again chan struct{} // holds one
	// done is closed when answer and err are set.
	done   chan struct{}
	over   bool
	answer scheduler.Answer
	err    error
}

func (w *waiter) end(answer scheduler.Answer, err error) {
	if !w.over {
		w.over, w.answer, w.err = true, answer, err
		close(w.done)
	}
}

// wake has who awaits the ask look which State is in force.
func (w *waiter) wake() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// earlyAnswer is one that was here before the answer that its ask is in line.
type earlyAnswer struct {
	message
	at time.Time
}

// message is the answer to an ask in line, as the scripts send it.
type message struct {
	Lease string          `json:"lease"`
	Place string          `json:"place"`
	Moved bool            `json:"moved"`
	Own   bool            `json:"own"`
	Last  bool            `json:"last"`
	Trial bool            `json:"trial"`
	Marks scheduler.Marks `json:"marks"`
	Out   bool            `json:"out"`
	Till  string          `json:"till"` // nanoseconds since 1970
}

func (m *message) answer() scheduler.Answer {
	if m.Out {
		return scheduler.Answer{Kind: scheduler.Out, Until: instant(m.Till)}
	}
	return scheduler.Answer{
		Kind: scheduler.Granted, Place: m.Place, Moved: m.Moved, Marks: m.Marks, Own: m.Own, Last: m.Last, Trial: m.Trial,
	}
}

// wait has an ask that is in line waited for.
func (s *State) wait(ask *scheduler.Ask, sent time.Time, epoch int) {
	w := &waiter{
		ask: *ask, until: sent.Add(ask.TTL), heard: sent, epoch: epoch,
		again: make(chan struct{}, 1), done: make(chan struct{}),
	}
	w.ask.Exclude, w.ask.Along = append([]string(nil), ask.Exclude...), nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[ask.Lease] = w
	s.deliverEarly(w)
}

// deliverEarly gives an ask its answer if that was here before. s.mu is held.
func (s *State) deliverEarly(w *waiter) {
	if m, ok := s.early[w.ask.Lease]; ok {
		delete(s.early, w.ask.Lease)
		s.take(w, &m.message)
	}
}

// take has a message from Redis delivered, if Redis is where the ask is in line. If
// this node serves by itself by now, Redis hears that the slot is given back. s.mu is
// held.
func (s *State) take(w *waiter, m *message) {
	switch {
	case s.local != nil:
		if len(s.unreleased) < maxUnreleased {
			s.unreleased[m.Lease] = struct{}{}
		}
	case w != nil && w.epoch == s.epoch:
		s.deliver(w, m)
	default:
		s.early[m.Lease] = earlyAnswer{*m, s.now()}
	}
}

// deliver gives an ask its answer. s.mu is held.
func (s *State) deliver(w *waiter, m *message) {
	if w.over {
		return
	}
	if !m.Out {
		until := w.heard.Add(w.ask.TTL)
		if !s.now().Before(until) { // the slot may be another's by now: the next heartbeat tells
			return
		}
		s.held[m.Lease] = &holding{place: m.Place, until: until}
		if w.ask.Session != "" {
			s.sessions.put(w.ask.Session, sighting{m.Place, s.now().Add(w.ask.BindTTL)})
		}
	}
	w.end(m.answer(), nil)
}

// Await implements scheduler.State.
func (s *State) Await(ctx context.Context, lease string) (scheduler.Answer, error) {
	s.mu.Lock()
	w := s.waiters[lease]
	closed := s.closed
	if w != nil {
		w.awaited = true
	}
	s.mu.Unlock()
	switch {
	case closed:
		return scheduler.Answer{}, scheduler.ErrClosed
	case w == nil:
		return scheduler.Answer{}, fmt.Errorf("awaiting slot: lease %q is not in line", lease)
	}
	answer, err := s.await(ctx, w)
	s.mu.Lock()
	delete(s.waiters, lease)
	s.mu.Unlock()
	if err != nil && !errors.Is(err, scheduler.ErrClosed) {
		_ = s.Release(ctx, lease)
	}
	return answer, err
}

// await waits in the State in force, whichever that is in the course of time.
func (s *State) await(ctx context.Context, w *waiter) (scheduler.Answer, error) {
	for {
		s.gate.RLock()
		local, epoch := s.local, s.epoch
		s.gate.RUnlock()
		// What was in line at another State gets no answer from it from here on, but may
		// have one, which the State in force knows of.
		isOver, of := s.see(w)
		switch {
		case isOver:
			return w.answer, w.err
		case s.isClosed():
			return scheduler.Answer{}, scheduler.ErrClosed
		case of != epoch:
			answer, err := s.putBack(ctx, w)
			if err != nil || answer.Kind != scheduler.Queued {
				return answer, err
			}
		case local != nil:
			answer, err := local.Await(ctx, w.ask.Lease)
			if err == nil && answer.Kind == scheduler.Granted {
				s.hold(w.ask.Lease, answer.Place, w.ask.TTL, s.now())
				s.saw(&w.ask, answer.Place)
			}
			if !errors.Is(err, scheduler.ErrClosed) {
				return answer, err
			}
		default:
			select {
			case <-w.done:
				return w.answer, w.err
			case <-ctx.Done():
				return scheduler.Answer{}, context.Cause(ctx)
			case <-s.ctx.Done():
			case <-w.again:
			}
		}
	}
}

// see reports whether an ask has its answer, and otherwise at which State it is in line.
func (s *State) see(w *waiter) (isOver bool, epoch int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.over, w.epoch
}

// putBack puts an ask that was in line once to the State in force. It was let
// into line, so a line is not too long for it.
func (s *State) putBack(ctx context.Context, w *waiter) (scheduler.Answer, error) {
	ask := w.ask
	ask.MaxWaiting = math.MaxInt32
	sent := s.now()
	answer, epoch, err := s.ask(ctx, &ask)
	s.mu.Lock()
	w.heard, w.epoch = sent, epoch
	if err == nil && answer.Kind == scheduler.Queued {
		s.deliverEarly(w)
	}
	s.mu.Unlock()
	return answer, err
}

// listen hears the messages to this node.
func (s *State) listen() {
	for s.ctx.Err() == nil {
		s.hearUntilDenied()
		s.pause(askForRights)
	}
}

// hearUntilDenied returns when Redis does not let this node listen, or at the end.
func (s *State) hearUntilDenied() {
	mine, unlocked := s.prefix+"node:"+s.options.Node, s.prefix+"unlocked"
	channel := s.link.Client().Subscribe(s.ctx, mine, unlocked)
	defer channel.Close()
	unlink := context.AfterFunc(s.ctx, func() { channel.Close() }) // which ends the reading
	defer unlink()
	for s.ctx.Err() == nil {
		received, err := channel.ReceiveTimeout(s.ctx, 5*heartbeatEvery)
		switch m := received.(type) {
		case *redis.Message:
			if m.Channel == unlocked {
				s.wakeLockers(m.Payload)
			} else {
				s.hear(m.Payload)
			}
		case *redis.Subscription:
			s.doubt() // the connection is new: the one before may have missed something
		}
		if err == nil {
			continue
		}
		if redis.IsPermissionError(err) {
			s.deny(err)
			return
		}
		if redislink.IsTimeout(err) {
			err = channel.Ping(s.ctx)
		}
		if err != nil {
			s.pause(heartbeatEvery / 5)
		}
	}
}

// deny logs once that Redis does not let this node listen.
func (s *State) deny(why error) {
	s.mu.Lock()
	denied := s.denied
	s.denied = true
	s.mu.Unlock()
	if !denied && s.ctx.Err() == nil {
		s.options.Logger.Warn("Redis does not let this node listen to its channels; those in line hear of their slots up to half a second later. "+
			"Give its user the channels, as with ACL SETUSER … &{"+s.options.Namespace+"}:*", "error", why)
	}
}

// pause waits for d, or the end.
func (s *State) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// hear takes in the answer to an ask.
func (s *State) hear(payload string) {
	var m message
	if json.Unmarshal([]byte(payload), &m) != nil {
		return // not from our scripts
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(s.waiters[m.Lease], &m)
}
