package redisstate

import "time"

const (
	// returnedFor is for how long at least it is remembered what was given back. Leases
	// last a minute (scheduler.leaseTTL), so a Redis that goes back in time has few
	// earlier ones that have not expired.
	returnedFor = time.Minute
	// returnedKept bounds how many are remembered, in each of two generations.
	returnedKept = 50_000
)

// returned are the leases that this node gave back lately: two generations, of which
// the older one goes when the younger is old or full. Nothing goes while nothing is put,
// as in an outage. The zero value is empty.
type returned struct {
	young, old map[string]struct{}
	since      time.Time // when the younger began
}

func (r *returned) put(lease string, now time.Time) {
	if r.young == nil || len(r.young) >= returnedKept || now.Sub(r.since) > returnedFor {
		r.young, r.old, r.since = map[string]struct{}{}, r.young, now
	}
	r.young[lease] = struct{}{}
}

// all are those remembered, each once, but for those that are in use again.
func (r *returned) all(inUse func(lease string) bool) (leases []any) {
	for lease := range r.young {
		if !inUse(lease) {
			leases = append(leases, lease)
		}
	}
	for lease := range r.old {
		if _, twice := r.young[lease]; !twice && !inUse(lease) {
			leases = append(leases, lease)
		}
	}
	return leases
}
