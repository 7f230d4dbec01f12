package memstate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// TestInvariants drives a State through any sequence of calls and looks inside
// after each: the counts add up, nobody waits for what is free, and nothing is
// kept for asks that have gone.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var broken error
		var panicked any
		synctest.Test(t, func(*testing.T) {
			defer func() { panicked = recover() }()
			broken = checkAnySequence(rt)
		})
		if panicked != nil { // rapid's own
			panic(panicked)
		}
		if broken != nil {
			rt.Fatal(broken)
		}
	})
}

func checkAnySequence(t *rapid.T) error {
	s := New()
	defer s.Close()
	d := &driver{t: t, s: s}
	for i := range 3 {
		set := &scheduler.Candidates{Pool: fmt.Sprint("pool", i/2)}
		for j := range 3 - i { // the last set is a single place
			set.Places = append(set.Places, scheduler.Place{Name: fmt.Sprint("place", i+j), Limit: 1 + (i+j)%2})
		}
		d.sets = append(d.sets, set)
	}
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		d.step()
		synctest.Wait()
		if err := s.check(); err != nil {
			return err
		}
	}
	for _, lease := range d.leases {
		_ = s.Release(context.Background(), lease)
	}
	if len(s.leases) > 0 || len(s.active) > 0 || len(s.pools) > 0 {
		return fmt.Errorf("left over: %d leases, %d lines, %d pools", len(s.leases), len(s.active), len(s.pools))
	}
	return s.check()
}

type driver struct {
	t      *rapid.T
	s      *State
	sets   []*scheduler.Candidates
	leases []string
}

func (d *driver) step() {
	t, ctx := d.t, context.Background()
	place := fmt.Sprint("place", rapid.IntRange(0, 2).Draw(t, "place"))
	models := rapid.SampledFrom([]string{"", "x", "y"})
	switch rapid.SampledFrom([]string{"acquire", "acquire", "release", "limit", "reset", "wait"}).Draw(t, "step") {
	case "acquire":
		ask := &scheduler.Ask{
			Lease: fmt.Sprint("lease", len(d.leases)), TTL: time.Minute, Candidates: rapid.SampledFrom(d.sets).Draw(t, "set"),
			Model: models.Draw(t, "model"), User: rapid.SampledFrom([]string{"u", "v"}).Draw(t, "user"),
			Session: rapid.SampledFrom([]string{"", "s"}).Draw(t, "session"), BindTTL: time.Hour,
			StickyMaxWaiting: 1, MaxWaiting: 3,
		}
		if rapid.IntRange(0, 3).Draw(t, "exclude") == 0 {
			ask.Exclude = []string{place}
		}
		awaited := rapid.Bool().Draw(t, "awaited")
		// Nothing else happens at the same moment, so that a run can be repeated.
		patience := time.Duration(rapid.IntRange(1, 200).Draw(t, "patience"))*time.Second + time.Duration(len(d.leases)+1)
		d.leases = append(d.leases, ask.Lease)
		answer, err := d.s.Acquire(ctx, ask)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Kind == scheduler.Queued && awaited {
			bounded, cancel := context.WithTimeout(ctx, patience)
			go func() { defer cancel(); _, _ = d.s.Await(bounded, ask.Lease) }()
		}
	case "release":
		if len(d.leases) > 0 {
			_ = d.s.Release(ctx, rapid.SampledFrom(d.leases).Draw(t, "lease"))
		}
	case "limit":
		limit := scheduler.Limit{Claim: "5h", Family: models.Draw(t, "limited"), Until: time.Now().Add(30 * time.Second)}
		_, _ = d.s.Change(ctx, place, func(st *scheduler.AccountState) { st.Limits = append(st.Limits, limit) })
	case "reset":
		_, _ = d.s.Change(ctx, place, (*scheduler.AccountState).Reset)
	case "wait":
		time.Sleep(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
	}
}

func (s *State) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	inUse, waiting := map[*place]int{}, map[*place]int{}
	for id, l := range s.leases {
		switch {
		case l.place == nil:
		case !l.inLine():
			inUse[l.place]++
			if l.expires <= s.instant(now) {
				return fmt.Errorf("%s has expired", id)
			}
		default:
			waiting[l.place]++
			if ok, _ := l.wait.set.serves(&l.wait.ask, now); !ok {
				return fmt.Errorf("%s waits and has no usable candidate", id)
			}
		}
		if !l.alarm.isSet() {
			return fmt.Errorf("%s would never expire", id)
		}
	}
	for _, p := range s.places {
		if p.inUse != inUse[p] || p.waiting != waiting[p] {
			return fmt.Errorf("%s: %d in use, %d waiting; counted %d, %d", p.name, p.inUse, p.waiting, inUse[p], waiting[p])
		}
		if limit := 1 + int(p.name[len(p.name)-1]-'0')%2; p.inUse > limit {
			return fmt.Errorf("%s: %d in use, limit %d", p.name, p.inUse, limit)
		}
		if l, _, _ := s.next(p, now); l != nil {
			return fmt.Errorf("%s is free and %s waits", p.name, l.id)
		}
		if p.probe != nil && s.leases[p.probe.id] != p.probe {
			return fmt.Errorf("%s: a probe that has gone", p.name)
		}
	}
	for i, a := range s.alarms.heap {
		if a.pos != i+1 || i > 0 && s.alarms.heap[(i-1)/2].at > a.at {
			return fmt.Errorf("the heap of alarms is broken at %d", i)
		}
	}
	if len(s.alarms.heap) > 0 && (s.alarms.next == 0 || s.alarms.next > max(s.alarms.heap[0].at, s.instant(now)+1)) {
		return errors.New("the timer will ring too late")
	}
	return nil
}
