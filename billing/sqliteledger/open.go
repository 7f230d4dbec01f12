package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/private"
)

// Options of a Ledger. The zero value is usable.
type Options struct {
	// Logger is told what goes wrong in the background. Default: nobody.
	Logger *slog.Logger
	// Sync has every commit synced to disk before Settle returns, so that
	// records survive a power failure. Without, they survive the end of the
	// process, kill -9 included, and a power failure may cost the last of them,
	// but never the database.
	Sync bool
	// LockWait is how long Open waits for a process that holds the directory
	// to let go. Default: 3 s.
	LockWait time.Duration
	// Location is where days begin, at midnight: those of windows, of Usage and of
	// Prune. Days that were summed up in another one stay as they were. Default: UTC.
	Location *time.Location

	now func() time.Time // time.Now but in tests
}

// Open opens the ledger in dir, which is made, with mode 0700, where it
// doesn't exist; the files in it get mode 0600. ErrUnwritable where nothing can be
// written there. While another program has locked the database against writing it
// opens all the same, and what is settled waits in the journal; unless there is
// nothing to be read either, or tables to be brought up to date. One process at a time may hold a directory; the operating
// system ends its hold with the process, however that ends.
func Open(ctx context.Context, dir string, opts Options) (_ *Ledger, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.LockWait == 0 {
		opts.LockWait = 3 * time.Second
	}
	if opts.Location == nil {
		opts.Location = time.UTC
	}
	if opts.now == nil {
		opts.now = time.Now
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("ledger directory: %w", err)
	}
	l := &Ledger{
		dir: dir, log: opts.Logger, sync: opts.Sync, location: opts.Location, now: opts.now,
		mostWaiting: maxWaiting, mostLocked: maxLocked,
		current: newPending(), taken: newPending(), spare: newPending(),
		holds:  make(map[string]hold),
		health: health{dir: dir, log: opts.Logger},
		begun:  make(chan struct{}, 1), full: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			closeErr := l.closeFiles()
			err = l.unwritable(errors.Join(l.explainOpen(err), closeErr))
		}
	}()
	if err := private.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("ledger directory: %w", err)
	}
	if l.lock, err = lock(ctx, dir, opts.LockWait); err != nil {
		return nil, err
	}
	if err := l.openDatabase(ctx, filepath.Join(dir, databaseName), opts); err != nil {
		return nil, fmt.Errorf("ledger in %s: %w", dir, err)
	}
	l.warnOfLooseFiles()
	l.loops.Go(l.flushLoop)
	return l, nil
}

// lock takes the directory for this process. It is an open transaction on an
// empty database of its own, rather than SQLite's exclusive mode on the
// ledger's, because that mode allows no second connection: and Settle
// and exports read while records are written.
func lock(ctx context.Context, dir string, wait time.Duration) (*conn, error) {
	c, err := connect(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("locking the ledger directory %s: %w", dir, err)
	}
	_, err = c.exec(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", max(wait.Milliseconds(), 0)))
	if err == nil {
		_, err = c.exec(ctx, "BEGIN EXCLUSIVE")
	}
	if err == nil {
		return &c, nil
	}
	if isLocked(err) {
		err = fmt.Errorf("the ledger directory %s is held by another process, and still was after %v: "+
			"stop that process, or if it is the server whose configuration should change, use `caddy reload`", dir, wait)
	} else {
		err = fmt.Errorf("locking the ledger directory %s: %w", dir, err)
	}
	return nil, errors.Join(err, c.Close())
}

func (l *Ledger) openDatabase(ctx context.Context, path string, opts Options) error {
	var err error
	if l.writer, err = openWriter(ctx, path, opts.Sync); err != nil {
		return err
	}
	if err := migrate(ctx, l.writer, l.now(), l.log); err != nil {
		return err
	}
	// On a file that may only be read, SQLite begins transactions all the same.
	if _, err := l.writer.exec(ctx, "DELETE FROM users WHERE 0"); err != nil && !isLocked(err) {
		return err
	}
	if err := l.writer.prepare(); err != nil {
		return err
	}
	if l.shards, err = openShards(l.dir, opts.Sync); err != nil {
		return err
	}
	if opts.Sync {
		if err := private.SyncDirectory(l.dir); err != nil {
			return err
		}
	}
	if l.lookups, err = openLookups(ctx, path); err != nil {
		return err
	}
	connector, err := newConnector(path)
	if err != nil {
		return err
	}
	l.reader = sql.OpenDB(connector)
	l.reader.SetMaxOpenConns(4)
	if err := l.openCalendar(ctx); err != nil {
		return err
	}
	if err := l.loadSettling(ctx); err != nil {
		return err
	}
	if err := l.load(ctx); err != nil {
		return err
	}
	if l.seen, err = newSeen(ctx, l.reader); err != nil {
		return err
	}
	return l.takeOver()
}
