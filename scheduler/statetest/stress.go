package statetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var stressTests = map[string]func(*bench){
	"the limit is exact, and nothing is left over": stress,
}

// stress has many users at few slots, some of them impatient, while account states
// come and go.
func stress(b *bench) {
	const holders, rounds, seed = 40, 60, 7
	limits := []int{1, 2, 3, 5}
	names := []string{"a", "b", "c", "d"}
	sets := []*scheduler.Candidates{places(0, names...), places(0, names[:2]...), places(0, names[1:3]...), places(0, names[3])}
	for _, set := range sets {
		for i := range set.Places {
			for j, name := range names {
				if set.Places[i].Name == name {
					set.Places[i].Limit = limits[j]
				}
			}
		}
	}
	inFlight := map[string]*atomic.Int64{}
	limit := map[string]int64{}
	for i, name := range names {
		inFlight[name], limit[name] = new(atomic.Int64), int64(limits[i])
	}

	var granted, refused atomic.Int64
	var wg sync.WaitGroup
	for h := range holders {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(h)))
			for range rounds {
				ask := b.ask(sets[rng.IntN(len(sets))], user(fmt.Sprint(h%7)), model(fmt.Sprint(rng.IntN(2))))
				if rng.IntN(2) == 0 {
					ask.Session = fmt.Sprint(rng.IntN(20))
				}
				ask.Unstick = rng.IntN(4) == 0
				place := b.slot(ask, rng)
				if place == "" {
					refused.Add(1)
					continue
				}
				granted.Add(1)
				if n := inFlight[place].Add(1); n > limit[place] {
					b.Errorf("%d in flight at %s, limit %d", n, place, limit[place])
				}
				if rng.IntN(3) > 0 {
					runtime.Gosched()
				}
				inFlight[place].Add(-1)
				b.release(ask.Lease)
			}
		})
	}
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 1000))
		for range 200 {
			place := names[rng.IntN(len(names))]
			b.limit(place, []string{"", "0", "1"}[rng.IntN(3)], time.Hour)
			runtime.Gosched()
			b.change(place, (*scheduler.AccountState).Reset)
		}
	})
	wg.Wait()
	if granted.Load() == 0 || refused.Load() == 0 {
		b.Errorf("%d granted, %d refused: the test tests too little", granted.Load(), refused.Load())
	}
	b.Settle()
	all := places(0, names...)
	for i, name := range names {
		b.load(name, 0, 0)
		all.Places[i].Limit = limits[i]
	}
	for range 1 + 2 + 3 + 5 {
		if got := b.acquire(b.ask(all)); got.Kind != scheduler.Granted {
			b.Fatalf("all was released, and yet %+v", got)
		}
	}
	if got := b.acquire(b.ask(all)); got.Kind != scheduler.Queued {
		b.Fatalf("all is in use, and yet %+v", got)
	}
}

// slot gets a slot, perhaps after a wait, perhaps losing patience: then "".
func (b *bench) slot(ask *scheduler.Ask, rng *rand.Rand) (place string) {
	answer, err := b.s.Acquire(context.Background(), ask)
	if err == nil && answer.Kind == scheduler.Queued {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if rng.IntN(4) == 0 {
			go cancel()
		}
		answer, err = b.s.Await(ctx, ask.Lease)
		if ctx.Err() != nil && err != nil {
			return ""
		}
	}
	if err != nil {
		b.Errorf("no slot: %v", err)
		return ""
	}
	if answer.Kind != scheduler.Granted {
		return ""
	}
	return answer.Place
}
