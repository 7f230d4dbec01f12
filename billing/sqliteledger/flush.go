package sqliteledger

import (
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// flushEvery and flushCount are how long, and how many, records gather in
	// the journal before they go to the database. Together they cost about a
	// sixth of what they would cost one by one, and what they change in common, such
	// as a balance, is written once.
	flushEvery = 3 * time.Second
	flushCount = 16384
	// maxWaiting is the most records in memory that are not in the database
	// yet; from there on, Settle writes them itself.
	maxWaiting = 32768
	// maxLocked is the same while another program has locked the database: what
	// comes in two minutes at 4,000 records a second, or in an hour at 130. They
	// take some 350 MB of memory, and 140 MB of the journal's disk.
	maxLocked = 1 << 19
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
	case flushCount:
		due = l.full
	default:
		return
	}
	select {
	case due <- struct{}{}:
	default:
	}
}

// flushLater has flushLoop write what waits, though no record has come.
func (l *Ledger) flushLater() {
	select {
	case l.begun <- struct{}{}:
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
		for wait := flushEvery; wait > 0; {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-l.full:
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
	return l.unwritable(l.flushAndTell())
}

// makeRoom flushes if nobody else has, for who waited with mostWaiting records. While
// another program has the database, there is room up to mostLocked.
func (l *Ledger) makeRoom() error {
	if l.hasRoom() {
		return nil
	}
	l.flushing.Lock()
	defer l.flushing.Unlock()
	if l.hasRoom() {
		return nil
	}
	err := l.flushAndTell()
	if isLocked(err) {
		if l.hasRoom() {
			return nil
		}
		return fmt.Errorf("%d records wait in the journal, which is as many as may: %w", l.mostLocked, err)
	}
	return err
}

func (l *Ledger) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.health.isLocked {
		return l.waiting() < l.mostLocked
	}
	return l.waiting() < l.mostWaiting
}

// flushAndTell is flushHeld, of which Hold learns whether the database is well.
func (l *Ledger) flushAndTell() error {
	err := l.flushHeld()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.health.flushed(err)
	l.health.judge(l.crowded(), time.Now())
	return err
}

// flushHeld is flush for who holds flushing.
func (l *Ledger) flushHeld() error { return l.explain(l.flushOnce()) }

func (l *Ledger) flushOnce() error {
	if err := l.drain(); err != nil { // what an earlier failure left
		return err
	}
	l.shards.lock()
	l.mu.Lock()
	l.rotate()
	l.mu.Unlock()
	l.shards.unlock()
	return l.drain()
}

// drain writes the taken records to the database and empties their file.
func (l *Ledger) drain() error {
	l.writing.Lock()
	err := l.writeTaken(func() { // who waits goes next, if he has waited for a millisecond
		l.writing.Unlock()
		l.writing.Lock()
	})
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

// writeTaken is for who holds writing. It calls pause between two transactions.
func (l *Ledger) writeTaken(pause func()) error {
	if err := l.writeDeclared(); err != nil {
		return err
	}
	if err := l.write(l.taken.records, pause); err != nil {
		return err
	}
	return l.shards.emptyOthers()
}

// write brings records into the database, each once. For who holds writing.
func (l *Ledger) write(records []*settled, pause func()) error {
	for count := len(records); len(records) > 0; {
		if len(records) < count {
			pause()
		}
		var b *batch
		part := records[:min(len(records), batchSize)]
		err := l.writer.transaction(func() (err error) {
			b, err = l.writer.insertRecords(part, l.days, l.location, l.now())
			return err
		})
		l.writer.took(err)
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
	return l.unwritable(l.explain(l.exclusivelyHeld(f)))
}

// exclusivelyHeld is exclusively for who holds flushing.
func (l *Ledger) exclusivelyHeld(f func() error) (err error) {
	for range flushRounds { // all but the last few, while others settle
		if err := l.flushHeld(); err != nil {
			return err
		}
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	// Who has locked the database is waited for here, while others settle, and not
	// below.
	if err := l.writer.reach(); err != nil {
		return err
	}
	l.writer.await(l.writer.again)
	defer func() { l.writer.took(err) }()
	l.shards.lock()
	defer l.shards.unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	l.rotate()
	if err := l.writeTaken(func() {}); err != nil {
		return err
	}
	l.forgetTaken()
	l.spare.reset()
	return f()
}
