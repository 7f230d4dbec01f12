package sqliteledger

import (
	"fmt"
	"math"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

const (
	// gatherFor and gatherCount are how long, and how many, records gather in
	// the journal before they go to the database. Together they cost about a
	// sixth of what they would cost one by one.
	gatherFor   = 200 * time.Millisecond
	gatherCount = 512
	// maxPending is the most records in memory that are not in the database
	// yet; from there on, Settle writes them itself.
	maxPending = 8192
	// batchSize is the number of records in one transaction.
	batchSize = 256
	// retryAfter is how long after a failure the database is tried again.
	retryAfter = time.Second
)

// wake tells flushLoop that the queue has its first record, or enough of them.
func (l *Ledger) wake() {
	var due chan struct{}
	switch len(l.queue) {
	case 1:
		due = l.begun
	case gatherCount:
		due = l.gathered
	default:
		return
	}
	select {
	case due <- struct{}{}:
	default:
	}
}

// flushLoop writes what has gathered to the database, until quit is closed.
func (l *Ledger) flushLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.begun:
		case <-l.quit:
			return
		}
		for wait := gatherFor; wait > 0; {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-l.gathered:
			case <-l.quit:
				return
			}
			wait = 0
			if err := l.flush(); err != nil {
				wait = retryAfter
				l.log.Error("the ledger's database takes no records; they are safe in its journal, and tried again",
					"directory", l.dir, "error", err, "retry_after", wait)
			}
		}
	}
}

// flush returns once everything that was settled before the call is in the
// database.
func (l *Ledger) flush() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	if err := l.drain(); err != nil { // what an earlier failure left
		return err
	}
	l.mu.Lock()
	l.taken, l.queue = l.queue, l.taken
	l.journal.Swap()
	l.mu.Unlock()
	return l.drain()
}

// drain writes the taken records to the database and empties their file.
func (l *Ledger) drain() error {
	if len(l.taken) == 0 {
		return nil
	}
	if err := l.write(l.taken); err != nil {
		return err
	}
	if err := l.journal.Other.Empty(); err != nil {
		return fmt.Errorf("emptying the journal in %s: %w", l.dir, err)
	}
	l.mu.Lock()
	for i := range l.taken {
		delete(l.pending, l.taken[i].ID)
	}
	l.mu.Unlock()
	clear(l.taken) // lets go of the texts
	l.taken = l.taken[:0]
	return nil
}

// write brings records into the database, each once.
func (l *Ledger) write(records []billing.Record) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for len(records) > 0 {
		batch := records[:min(len(records), batchSize)]
		if err := l.writer.transaction(func() error { return l.writer.insertAndCharge(batch) }); err != nil {
			return fmt.Errorf("writing records to the ledger in %s: %w", l.dir, err)
		}
		records = records[len(batch):]
	}
	return nil
}

// replay writes what an earlier process left in the journal to the database.
func (l *Ledger) replay() error {
	for _, f := range []*journal.File{l.journal.Current, l.journal.Other} {
		if f.Size() == 0 {
			continue
		}
		records, end, err := f.Read(0, math.MaxInt)
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		l.log.Info("taking over the records that the last process had not yet written to the ledger's database",
			"directory", l.dir, "records", len(records), "bytes_of_unfinished_record", f.Size()-end)
		if err := l.write(records); err != nil {
			return err
		}
		if err := f.Empty(); err != nil {
			return fmt.Errorf("emptying the journal: %w", err)
		}
	}
	return nil
}
