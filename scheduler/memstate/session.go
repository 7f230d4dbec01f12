package memstate

import (
	"context"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// maxSessions bounds what clients can make the process remember, at about
// 300 bytes each. Past it some session is forgotten for each new one.
const maxSessions = 1 << 20

type session struct {
	key string
	// place that the session is bound to; nil = only marks are known.
	place   *place
	marks   scheduler.Marks
	expires instant
	alarm   alarm
}

// ring is called when the session may have expired.
func (b *session) ring(s *State, now instant) {
	if b.expires > now {
		s.alarms.set(&b.alarm, b, b.expires, now)
		return
	}
	delete(s.sessions, b.key)
}

// bound returns the candidate that the ask's session is bound to, nil if none.
func (s *State) bound(ask *scheduler.Ask, set *set, now time.Time) *member {
	if ask.Session == "" {
		return nil
	}
	b := s.sessions[ask.Session]
	if b == nil || b.place == nil || b.expires <= s.instant(now) {
		return nil
	}
	return set.find(b.place)
}

// bind binds a session to a place and tells what it was before.
func (s *State) bind(key string, p *place, ttl time.Duration, now instant) (moved bool, marks scheduler.Marks) {
	b := s.session(key, ttl, now)
	moved = b.place != nil && b.place != p
	b.place = p
	return moved, b.marks
}

// remembered returns the marks of a session, which live on for ttl.
func (s *State) remembered(key string, ttl time.Duration, now instant) scheduler.Marks {
	b := s.sessions[key]
	if b == nil || b.expires <= now {
		return 0
	}
	return s.session(key, ttl, now).marks
}

// Bind binds a session to a place, as it was bound elsewhere.
func (s *State) Bind(key, place string, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.bind(key, s.place(place), ttl, s.instant(s.now()))
	}
}

// Mark implements scheduler.State.
func (s *State) Mark(_ context.Context, key string, marks scheduler.Marks, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return scheduler.ErrClosed
	}
	s.session(key, ttl, s.instant(s.now())).marks |= marks
	return nil
}

// session finds or makes a session that lives for ttl from now.
func (s *State) session(key string, ttl time.Duration, now instant) *session {
	b := s.sessions[key]
	if b == nil {
		s.makeRoom()
		b = &session{key: key}
		s.sessions[key] = b
	} else if b.expires <= now {
		b.place, b.marks = nil, 0
	}
	b.expires = now + instant(ttl)
	// A later end needs no new alarm: this one looks at expires.
	if !b.alarm.isSet() || b.expires < b.alarm.at {
		s.alarms.set(&b.alarm, b, b.expires, now)
	}
	return b
}

func (s *State) makeRoom() {
	if len(s.sessions) < s.maxSessions {
		return
	}
	for key, b := range s.sessions {
		delete(s.sessions, key)
		s.alarms.unset(&b.alarm)
		return
	}
}
