package sqliteledger

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// shard is a journal that one Settle at a time writes to. There are several, so that
// hardly any waits for another's write: who waits while all cores are busy waits for
// a core too, which takes a hundred times as long as the write.
//
// A shard is locked before Ledger.mu. Who swaps the files locks all shards, so that what
// is pending is what all the Current files hold, and nothing else.
type shard struct {
	mu sync.Mutex
	*journal.Journal
}

type shards []*shard

// leastLanes is more than the cores of a small machine: who writes needs none.
// mostLanes bounds the files, two for each shard.
const (
	leastShards = 4
	mostShards  = 16
)

// openLanes opens as many shards as there are cores, and those of an earlier process
// that had more. With sync there is one, whose callers share what they wait for.
func openShards(dir string, sync bool) (ls shards, err error) {
	count := min(max(runtime.GOMAXPROCS(0), leastShards), mostShards)
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
		ls = append(ls, &shard{Journal: j})
	}
	return ls, nil
}

func (ls shards) Close() error {
	ls.lock()
	defer ls.unlock()
	var errs []error
	for _, shard := range ls {
		errs = append(errs, shard.Close())
	}
	return errors.Join(errs...)
}

// locked gives a shard that is the caller's until it unlocks it: one that is free,
// if any is.
func (ls shards) locked() *shard {
	if free := ls.tryLocked(); free != nil {
		return free
	}
	ls[0].mu.Lock()
	return ls[0]
}

// tryLocked is locked where a shard is free, and nil otherwise.
func (ls shards) tryLocked() *shard {
	for _, shard := range ls {
		if shard.mu.TryLock() {
			return shard
		}
	}
	return nil
}

func (ls shards) lock() {
	for _, shard := range ls {
		shard.mu.Lock()
	}
}

func (ls shards) unlock() {
	for _, shard := range ls {
		shard.mu.Unlock()
	}
}

// swap is for who has all shards locked.
func (ls shards) swap() {
	for _, shard := range ls {
		shard.Swap()
	}
}

// emptyOthers forgets the records of the files that take no new ones.
func (ls shards) emptyOthers() error {
	for _, shard := range ls {
		if shard.Other.Size() == 0 {
			continue
		}
		if err := shard.Other.Empty(); err != nil {
			return fmt.Errorf("emptying the journal: %w", err)
		}
	}
	return nil
}

// resume makes the shards go on where an earlier process left them, and gives the
// files of each kind in the order in which they were begun.
func (ls shards) resume() (currents, others []*journal.File, err error) {
	journals := make([]*journal.Journal, len(ls))
	for i, shard := range ls {
		journals[i] = shard.Journal
	}
	return journal.Resume(journals)
}
