package redisstate

import "time"

// Skew lets d pass for the State, as far as Redis's time goes.
func (s *State) Skew(d time.Duration) { s.skew.Add(d.Milliseconds()) }

// Beat has the State do at once what it does twice a second.
func (s *State) Heartbeat() {
	s.tick()
	s.mu.Lock()
	var names []string
	for name := range s.unlocked {
		names = append(names, name)
	}
	s.mu.Unlock()
	for _, name := range names {
		s.wakeLockers(name)
	}
}

// Hear has the State hear a message of Redis.
func (s *State) Hear(payload string) { s.hear(payload) }

// Stall has no other State be put in force until release is called.
func (s *State) Stall() (release func()) {
	s.gate.RLock()
	return s.gate.RUnlock
}

// IsChanging reports whether another State is about to be in force.
func (s *State) IsChanging() bool {
	if s.gate.TryRLock() {
		s.gate.RUnlock()
		return false
	}
	return true
}

// IsAwaited reports whether somebody waits for an ask in line.
func (s *State) IsAwaited(lease string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters[lease]
	return w != nil && w.awaited
}
