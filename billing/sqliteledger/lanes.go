package sqliteledger

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// lane is a journal that one Settle at a time writes to. There are several, so that
// hardly any waits for another's write: who waits while all cores are busy waits for
// a core too, which takes a hundred times as long as the write.
//
// A lane is locked before Ledger.mu. Who swaps the files locks all lanes, so that what
// is gathering is what all the Current files hold, and nothing else.
type lane struct {
	mu sync.Mutex
	*journal.Journal
}

type lanes []*lane

// leastLanes is more than the cores of a small machine: who writes needs none.
// mostLanes bounds the files, two for each lane.
const (
	leastLanes = 4
	mostLanes  = 16
)

// openLanes opens as many lanes as there are cores, and those of an earlier process
// that had more. With sync there is one, whose callers share what they wait for.
func openLanes(dir string, sync bool) (ls lanes, err error) {
	count := min(max(runtime.GOMAXPROCS(0), leastLanes), mostLanes)
	if sync {
		count = 1
	}
	left, err := journal.Count(dir)
	if err != nil {
		return nil, err
	}
	for i := range max(count, left) {
		j, err := journal.Open(dir, i)
		if err != nil {
			return nil, errors.Join(err, ls.Close())
		}
		ls = append(ls, &lane{Journal: j})
	}
	return ls, nil
}

func (ls lanes) Close() error {
	ls.lock()
	defer ls.unlock()
	var errs []error
	for _, lane := range ls {
		errs = append(errs, lane.Close())
	}
	return errors.Join(errs...)
}

// locked gives a lane that is the caller's until it unlocks it: one that is free,
// if any is.
func (ls lanes) locked() *lane {
	if free := ls.tryLocked(); free != nil {
		return free
	}
	ls[0].mu.Lock()
	return ls[0]
}

// tryLocked is locked where a lane is free, and nil otherwise.
func (ls lanes) tryLocked() *lane {
	for _, lane := range ls {
		if lane.mu.TryLock() {
			return lane
		}
	}
	return nil
}

func (ls lanes) lock() {
	for _, lane := range ls {
		lane.mu.Lock()
	}
}

func (ls lanes) unlock() {
	for _, lane := range ls {
		lane.mu.Unlock()
	}
}

// swap is for who has all lanes locked.
func (ls lanes) swap() {
	for _, lane := range ls {
		lane.Swap()
	}
}

// emptyOthers forgets the records of the files that take no new ones.
func (ls lanes) emptyOthers() error {
	for _, lane := range ls {
		if lane.Other.Size() == 0 {
			continue
		}
		if err := lane.Other.Empty(); err != nil {
			return fmt.Errorf("emptying the journal: %w", err)
		}
	}
	return nil
}

// resume makes the lanes go on where an earlier process left them, and gives the
// files of each kind in the order in which they were begun.
func (ls lanes) resume() (currents, others []*journal.File, err error) {
	journals := make([]*journal.Journal, len(ls))
	for i, lane := range ls {
		journals[i] = lane.Journal
	}
	return journal.Resume(journals)
}
