package sqliteledger

import (
	"fmt"
	"math"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// gatherFor and gatherCount are how long, and how many, records gather in
	// the journal before they go to the database. Together they cost about a
	// sixth of what they would cost one by one, and what they change in common, such
	// as a balance, is written once.
	gatherFor   = 3 * time.Second
	gatherCount = 16384
	// maxWaiting is the most records in memory that are not in the database
	// yet; from there on, Settle writes them itself.
	maxWaiting = 32768
	// batchSize is the number of records in one transaction.
	batchSize = 16384
	// retryAfter is how long after a failure the database is tried again.
	retryAfter = time.Second
)

// wake tells flushLoop that the first record has come, or enough of them.
func (l *Ledger) wake() {
	var due chan struct{}
	switch len(l.current.records) {
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
			if l.flush() != nil {
				wait = retryAfter
			}
		}
	}
}

// flush returns once everything that was settled before the call is in the
// database.
func (l *Ledger) flush() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	return l.flushAndTell()
}

// makeRoom flushes if nobody else has, for who waited with mostWaiting records.
func (l *Ledger) makeRoom() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	waiting := l.waiting()
	l.mu.Unlock()
	if waiting < l.mostWaiting {
		return nil
	}
	return l.flushAndTell()
}

// flushAndTell is flushHeld, of which Hold learns whether the database is well.
func (l *Ledger) flushAndTell() error {
	err := l.flushHeld()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.health.flushed(err, l.crowded())
	return err
}

// flushHeld is flush for who holds flushing.
func (l *Ledger) flushHeld() error {
	if err := l.drain(); err != nil { // what an earlier failure left
		return err
	}
	l.lanes.lock()
	l.mu.Lock()
	l.take()
	l.mu.Unlock()
	l.lanes.unlock()
	return l.drain()
}

// drain writes the taken records to the database and empties their file.
func (l *Ledger) drain() error {
	l.writing.Lock()
	err := l.writeTaken()
	l.writing.Unlock()
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.forgetTaken()
	l.mu.Unlock()
	l.spare.reset()
	return nil
}

func (l *Ledger) writeTaken() error {
	if len(l.taken.records) == 0 {
		return nil
	}
	if err := l.write(l.taken.records); err != nil {
		return err
	}
	return l.lanes.emptyOthers()
}

// write brings records into the database, each once. For who holds writing.
func (l *Ledger) write(records []*settled) error {
	for len(records) > 0 {
		var b *batch
		part := records[:min(len(records), batchSize)]
		err := l.writer.transaction(func() (err error) {
			b, err = l.writer.insertRecords(part, l.days, l.location, l.now())
			return err
		})
		if err != nil {
			return fmt.Errorf("writing records to the ledger in %s: %w", l.dir, err)
		}
		b.stored()
		records = records[len(part):]
	}
	return nil
}

// flushRounds is how often exclusively writes what was settled while it wrote.
const flushRounds = 3

// exclusively runs f, which changes what records are counted in, between two
// records: those settled before are in the database, and none is settled until f
// returns. f may use the writer and all that mu guards.
func (l *Ledger) exclusively(f func() error) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	for range flushRounds { // all but the last few, while others settle
		if err := l.flushHeld(); err != nil {
			return err
		}
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.lanes.lock()
	defer l.lanes.unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	l.take()
	if err := l.writeTaken(); err != nil {
		return err
	}
	l.forgetTaken()
	l.spare.reset()
	return f()
}

// replayed is a record that an earlier process had settled, as of now: who paid then
// pays now, since nobody can have been removed meanwhile.
func (l *Ledger) replayed(record *billing.Record) *settled {
	r := &settled{Record: *record}
	if r.Billing == billing.PaidFromBalance && l.people.users[r.User] == nil {
		// A power failure cost the database more than the journal; the opening balance
		// is credited when he is declared again.
		l.people.meet(r.User).number = max(r.UserNumber, 1)
	}
	r.owner, r.isGone = l.people.owner(&r.Record)
	l.enter(r)
	return r
}

// replay writes what an earlier process left in the journal to the database, and
// reports whether there was anything.
func (l *Ledger) replay() (replayed bool, err error) {
	files, err := l.lanes.inOrder()
	if err != nil {
		return false, err
	}
	for _, f := range files {
		if f.Size() == 0 {
			continue
		}
		records, end, err := f.Read(0, math.MaxInt)
		if err != nil {
			return false, fmt.Errorf("reading the journal: %w", err)
		}
		l.log.Info("taking over the records that the last process had not yet written to the ledger's database",
			"directory", l.dir, "records", len(records), "bytes_of_unfinished_record", f.Size()-end)
		left := make([]*settled, len(records))
		for i := range records {
			left[i] = l.replayed(&records[i])
		}
		if err := l.write(left); err != nil {
			return false, err
		}
		if err := f.Empty(); err != nil {
			return false, fmt.Errorf("emptying the journal: %w", err)
		}
		replayed = true
	}
	l.lanes.number()
	return replayed, nil
}
