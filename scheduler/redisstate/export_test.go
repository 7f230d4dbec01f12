package redisstate

import "time"

// Skew lets d pass for the State, as far as Redis's time goes.
func (s *State) Skew(d time.Duration) { s.skew.Add(d.Milliseconds()) }

// Beat has the State do at once what it does twice a second.
func (s *State) Beat() {
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

// Changing reports whether another State is about to come into force.
func (s *State) Changing() bool {
	if s.gate.TryRLock() {
		s.gate.RUnlock()
		return false
	}
	return true
}

// Awaits reports whether somebody awaits an ask in line.
func (s *State) Awaits(lease string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiters[lease] != nil && s.waiters[lease].awaited
}
