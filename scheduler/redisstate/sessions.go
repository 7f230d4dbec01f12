package redisstate

import (
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// sessionsKept is how many sessions a generation holds: where the node saw them
// last, about 200 bytes each.
const sessionsKept = 1 << 16

// sessions remembers where this node saw sessions, for when Redis has forgotten
// or is out of reach: two generations, of which the older one goes when the
// younger is full. The zero value is empty.
type sessions struct {
	young, old map[string]sighting
}

type sighting struct {
	place string
	until time.Time // when the binding ends
}

func (ss *sessions) put(session string, at sighting) {
	if ss.young == nil || len(ss.young) >= sessionsKept {
		ss.young, ss.old = map[string]sighting{}, ss.young
	}
	ss.young[session] = at
}

func (ss *sessions) get(session string, now time.Time) string {
	at, ok := ss.young[session]
	if !ok {
		at = ss.old[session]
	}
	if now.Before(at.until) {
		return at.place
	}
	return ""
}

// saw notes where the ask's session is now.
func (s *State) saw(ask *scheduler.Ask, place string) {
	if ask.Session == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions.put(ask.Session, sighting{place, s.now().Add(ask.BindTTL)})
}

// seen is where the ask's session was last, as this node knows; "" = nowhere.
func (s *State) seen(ask *scheduler.Ask) string {
	if ask.Session == "" || ask.Unstick {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions.get(ask.Session, s.now())
}

// binder is a fallback that can be told of sessions.
type binder interface {
	Bind(session, place string, ttl time.Duration)
}

// bindAll tells the fallback of all sessions seen. s.mu is held.
func (ss *sessions) bindAll(b binder, now time.Time) {
	for _, generation := range []map[string]sighting{ss.old, ss.young} {
		for session, at := range generation {
			if ttl := at.until.Sub(now); ttl > 0 {
				b.Bind(session, at.place, ttl)
			}
		}
	}
}
