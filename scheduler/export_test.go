package scheduler

// CachedSets is how many candidate sets are remembered.
func (s *Scheduler) CachedSets() int {
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	return max(len(s.catalog.sets), len(s.catalog.interned))
}
