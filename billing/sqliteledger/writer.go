package sqliteledger

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"
)

// writer is the connection that writes, with its prepared statements.
type writer struct {
	conn
	waits                                                                 time.Duration // for who has locked the database
	first, again                                                          time.Duration // lockWait and lockWaitAgain; none in some tests
	begin, commit, rollback                                               statement
	insert, charge, forgive, setWindows, useKey, addUsage, addUsageByUser statement
}

func openWriter(ctx context.Context, path string, sync bool) (*writer, error) {
	c, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: c, waits: lockWait, first: lockWait, again: lockWaitAgain}
	synchronous, fullfsync := "NORMAL", "OFF" // NORMAL syncs at checkpoints alone; OFF could cost the database
	if sync {
		synchronous, fullfsync = "FULL", "ON" // fullfsync: on macOS, past the disk's own cache
	}
	for _, pragma := range []string{
		"journal_mode = WAL",
		"synchronous = " + synchronous,
		"fullfsync = " + fullfsync,
		"cache_size = -16384", // KiB: where the records of some thousand users go in the indexes
		// Pages that change in every transaction go to the database once in a while.
		"wal_autocheckpoint = 4000",
	} {
		if _, err := w.exec(ctx, "PRAGMA "+pragma); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	err = w.prepareAll(map[*statement]string{&w.begin: "BEGIN IMMEDIATE", &w.commit: "COMMIT", &w.rollback: "ROLLBACK"})
	if err == nil {
		err = w.reach()
	}
	if err != nil && !isLocked(err) {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

const (
	// lockWait is how long a write waits for another program that has locked the
	// database, such as somebody looking in with the sqlite3 tool, and lockWaitAgain
	// while the last one waited in vain: it may be long, and others wait behind.
	lockWait      = 2 * time.Second
	lockWaitAgain = 100 * time.Millisecond
)

// await sets how long writes wait from now on.
func (w *writer) await(wait time.Duration) {
	if w.waits == wait {
		return
	}
	if _, err := w.exec(context.Background(), fmt.Sprintf("PRAGMA busy_timeout = %d", wait.Milliseconds())); err == nil {
		w.waits = wait
	}
}

// took is told how a write went.
func (w *writer) took(err error) {
	if isLocked(err) {
		w.await(w.again)
		return
	}
	w.await(w.first)
}

// reach is an error if nothing can be written at present.
func (w *writer) reach() error {
	err := w.transaction(func() error { return nil })
	w.took(err)
	return err
}

// prepare makes the statements of a batch; the tables must be there.
func (w *writer) prepare() error {
	return w.prepareAll(map[*statement]string{
		&w.insert: insertRecord,
		// A user may be missing where a power failure cost the database more
		// than the journal; the opening balance is credited when declared again.
		&w.charge: `INSERT INTO users (name, number, balance, unlimited) VALUES (?, ?, ?, 0)
			ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance`,
		&w.forgive: `INSERT INTO credits (user, number, kind, id, time, amount) VALUES (?, ?, '` + creditClosing + `', '', ?, ?)
			ON CONFLICT DO UPDATE SET time = excluded.time, amount = CAST(amount + excluded.amount AS INTEGER)`,
		&w.addUsage:       usageTable.addition(),
		&w.addUsageByUser: byUserTable.addition(),
		&w.setWindows:     setWindows,
		&w.useKey:         "UPDATE keys SET last_used = ? WHERE id = ?",
	})
}

func (w *writer) prepareAll(texts map[*statement]string) (err error) {
	for s, text := range texts {
		if *s, err = w.conn.prepare(text); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the statements first: SQLite keeps a connection, and its locks,
// for as long as it has statements.
func (w *writer) Close() error {
	return closeAll(w.conn, &w.begin, &w.commit, &w.rollback, &w.insert, &w.charge, &w.forgive,
		&w.setWindows, &w.useKey, &w.addUsage, &w.addUsageByUser)
}

func closeAll(c conn, statements ...*statement) error {
	var errs []error
	for _, s := range statements {
		if s.Stmt != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(append(errs, c.Close())...)
}

// transaction runs f in a transaction, which leaves nothing behind where it
// returns an error.
func (w *writer) transaction(f func() error) error {
	err := w.begin.run()
	if err == nil {
		err = f()
	}
	if err == nil {
		err = w.commit.run()
	}
	if err != nil {
		w.rollback.run() // fails where SQLite has rolled back already
	}
	return err
}

// lookups is the connection that says whether a record is in the database.
type lookups struct {
	conn
	find statement
}

func openLookups(ctx context.Context, path string) (*lookups, error) {
	c, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	l := &lookups{conn: c}
	if l.find, err = c.prepare("SELECT 1 FROM records WHERE id = ?"); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *lookups) Close() error { return closeAll(l.conn, &l.find) }

func (l *lookups) settled(id string) (bool, error) {
	l.find.args[0].Value = id
	rows, err := l.find.Stmt.(driver.StmtQueryContext).QueryContext(context.Background(), l.find.args)
	if err != nil {
		return false, err
	}
	var row [1]driver.Value
	err = rows.Next(row[:])
	if closeErr := rows.Close(); err == nil {
		err = closeErr
	}
	if err == io.EOF {
		return false, nil
	}
	return err == nil, err
}
