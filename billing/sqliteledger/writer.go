package sqliteledger

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"github.com/sub2api/caddy-sub2api/billing"
)

// maxBatch is the largest number of records in one commit: it bounds how long
// the first of them waits for the others, to about a millisecond.
const maxBatch = 64

// job is a record on its way into the database.
type job struct {
	record billing.Record
	payer  *user // nil where nobody's balance is charged
	done   chan error
	err    error // the record's own, where the rest of the batch is well
}

var jobs = sync.Pool{New: func() any { return &job{done: make(chan error, 1)} }}

// Settle implements billing.Ledger. Where ctx ends before the record is
// written, it returns the context's error and the record may be settled or
// not.
func (l *Ledger) Settle(ctx context.Context, record *billing.Record) error {
	j := jobs.Get().(*job)
	j.record = *record
	j.err = nil
	if err := l.check(j); err != nil {
		jobs.Put(j)
		return fmt.Errorf("settling record %q: %w", record.ID, err)
	}
	if err := l.enqueue(ctx, j); err != nil {
		jobs.Put(j)
		return fmt.Errorf("settling record %q: %w", record.ID, err)
	}
	select {
	case err := <-j.done:
		jobs.Put(j)
		if err != nil {
			return fmt.Errorf("settling record %q: %w", record.ID, err)
		}
		return nil
	case <-ctx.Done(): // the writer still has j, so it doesn't go back
		return fmt.Errorf("settling record %q, which may yet be written: %w", record.ID, ctx.Err())
	}
}

// check refuses what could not be kept, and finds the payer.
func (l *Ledger) check(j *job) error {
	r := &j.record
	j.payer = nil
	switch {
	case l.closed.Load():
		return billing.ErrClosed
	case r.ID == "":
		return fmt.Errorf("it has no id")
	case r.Time.Before(earliest) || r.Time.After(latest):
		return fmt.Errorf("its time %v is outside the years 1678 to 2261", r.Time)
	case r.Billing != billing.PaidFromBalance:
		return nil
	case r.Charged < 0:
		return fmt.Errorf("it charges a negative amount, %s", r.Charged)
	}
	if j.payer = l.user(r.User); j.payer == nil {
		return fmt.Errorf("charging %q: %w", r.User, billing.ErrUnknownUser)
	}
	return nil
}

func (l *Ledger) enqueue(ctx context.Context, j *job) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.queue <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeLoop commits whatever has gathered since the last commit, until the
// queue is closed and empty.
func (l *Ledger) writeLoop() {
	defer close(l.checkpointDue)
	batch := make([]*job, 0, maxBatch)
	for first := range l.queue {
		batch = gather(append(batch[:0], first), l.queue)
		l.writing.Lock()
		l.commit(batch)
		l.writing.Unlock()
		if l.writer.checkpointDue() {
			select {
			case l.checkpointDue <- struct{}{}:
			default:
			}
		}
	}
}

func gather(batch []*job, queue <-chan *job) []*job {
	for len(batch) < maxBatch {
		select {
		case j, open := <-queue:
			if !open {
				return batch
			}
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// commit writes a batch in one transaction, makes the new balances visible
// and lets the callers go. The whole batch fails together.
func (l *Ledger) commit(batch []*job) {
	err := l.writer.transaction(func() error { return l.writer.settle(batch) })
	if err != nil {
		err = fmt.Errorf("writing to the ledger in %s: %w", l.dir, err)
	}
	for _, j := range batch {
		if u := j.payer; u != nil && u.pending {
			u.pending, u.dirty = false, false
			if err == nil {
				u.amount.Store(int64(u.next))
			}
		}
	}
	for _, j := range batch {
		if err != nil {
			j.done <- err
		} else {
			j.done <- j.err
		}
	}
}

// writer is the connection that writes, with its prepared statements.
type writer struct {
	conn
	begin, commit, rollback, insert, setBalance statement
	// pages is about how many pages were written since checkpointDue.
	pages int
}

func openWriter(ctx context.Context, path string, sync bool) (*writer, error) {
	c, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: c}
	synchronous, fullfsync := "NORMAL", "OFF" // NORMAL syncs at checkpoints alone; OFF could cost the database
	if sync {
		synchronous, fullfsync = "FULL", "ON" // fullfsync: on macOS, past the disk's own cache
	}
	for _, pragma := range []string{
		"busy_timeout = 2000", // for somebody looking in with the sqlite3 tool
		"journal_mode = WAL",
		"wal_autocheckpoint = 0",
		fmt.Sprintf("journal_size_limit = %d", walLimit*4096),
		"synchronous = " + synchronous,
		"fullfsync = " + fullfsync,
	} {
		if _, err := w.exec(ctx, "PRAGMA "+pragma); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// prepare makes the statements; the tables must be there.
func (w *writer) prepare() (err error) {
	for _, s := range []struct {
		statement *statement
		text      string
	}{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
		{&w.rollback, "ROLLBACK"},
		{&w.insert, insertRecord},
		{&w.setBalance, "UPDATE users SET balance = ? WHERE name = ?"},
	} {
		if *s.statement, err = w.conn.prepare(s.text); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the statements first: SQLite keeps a connection, and its locks,
// for as long as it has statements.
func (w *writer) Close() error {
	var errs []error
	for _, s := range []statement{w.begin, w.commit, w.rollback, w.insert, w.setBalance} {
		if s.StmtExecContext != nil {
			errs = append(errs, s.StmtExecContext.(driver.Stmt).Close())
		}
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// transaction runs f in a transaction, which leaves nothing behind where it
// returns an error.
func (w *writer) transaction(f func() error) error {
	_, err := w.begin.run()
	if err == nil {
		err = f()
	}
	if err == nil {
		_, err = w.commit.run()
	}
	if err != nil {
		w.rollback.run() // fails where SQLite has rolled back already
	}
	return err
}

// settle inserts the records and charges those that were not there.
func (w *writer) settle(batch []*job) error {
	for _, j := range batch {
		if err := w.insertAndCharge(j); err != nil {
			return err
		}
	}
	w.pages += len(batch) + 4
	for _, j := range batch {
		u := j.payer
		if u == nil || !u.dirty {
			continue
		}
		u.dirty = false
		w.setBalance.args[0].Value = int64(u.next)
		w.setBalance.args[1].Value = j.record.User
		if _, err := w.setBalance.run(); err != nil {
			return err
		}
	}
	return nil
}

// insertAndCharge notes the new balance in the payer. An error that is the
// record's own goes to j.err.
func (w *writer) insertAndCharge(j *job) error {
	u := j.payer
	if u != nil && !u.pending {
		u.next, u.pending = billing.USD(u.amount.Load()), true
	}
	if u != nil && u.next < billing.USD(-1<<63)+j.record.Charged {
		j.err = fmt.Errorf("charging %q %s: their balance %s is at the end of what a ledger can hold",
			j.record.User, j.record.Charged, u.next)
		return nil
	}
	values(w.insert.args, &j.record)
	changed, err := w.insert.run()
	if err != nil {
		return err
	}
	if changed > 0 && u != nil {
		u.next -= j.record.Charged
		u.dirty = true
	}
	return nil
}
