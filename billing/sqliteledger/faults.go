package sqliteledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/private"
)

// The names of the files beside the journal's.
const (
	databaseName = "ledger.db"
	lockName     = "lock.db"
)

// besides are what SQLite adds to the name of a database for its other files.
var besides = []string{"-wal", "-shm", "-journal"}

// code is SQLite's primary result code for an error; 0 if it is none of SQLite's.
func code(err error) int {
	if sqliteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		return sqliteErr.Code() & 0xff
	}
	return 0
}

// isLocked reports whether something failed because another program has locked the
// database.
func isLocked(err error) bool { return err != nil && code(err) == sqlite3.SQLITE_BUSY }

// isRefused reports whether an error says that nothing can be written here at
// present.
func isRefused(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM:
		return true
	}
	return errors.Is(err, syscall.ENOSPC) || private.IsRefusal(err)
}

// unwritable makes an ErrUnwritable of an error that isRefused.
func (l *Ledger) unwritable(err error) error {
	if err == nil || errors.Is(err, billing.ErrUnwritable) || !isRefused(err) {
		return err
	}
	return fmt.Errorf("%w: %w", billing.ErrUnwritable, err)
}

// explained is an error with what an operator needs in front.
type explained struct {
	what string
	error
}

func (e *explained) Error() string { return e.what + ": " + e.error.Error() }
func (e *explained) Unwrap() error { return e.error }

// explain adds to SQLite's words what an operator needs, once.
func (l *Ledger) explain(err error) error {
	if _, already := errors.AsType[*explained](err); already {
		return err
	}
	path := filepath.Join(l.dir, databaseName)
	switch code(err) {
	case sqlite3.SQLITE_BUSY:
		return &explained{fmt.Sprintf("another program has locked %s; end it, or its transaction", path), err}
	case sqlite3.SQLITE_NOTADB:
		return &explained{path + " is not a SQLite database; move it away to begin with an empty ledger, or put a backup in its place", err}
	case sqlite3.SQLITE_CORRUPT:
		return &explained{fmt.Sprintf("%s is damaged; put a backup in its place, or what `sqlite3 %[1]s .recover` saves of it", path), err}
	}
	return err
}

// explainOpen is explain for an Open that has failed and has closed the database: it
// has a look at the files, which would end SQLite's locks while it is open.
func (l *Ledger) explainOpen(err error) error {
	switch code(err) {
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_AUTH:
	default:
		return private.Explain(l.explain(err))
	}
	for _, name := range l.files() {
		file, openErr := os.OpenFile(filepath.Join(l.dir, name), os.O_RDWR, 0)
		if errors.Is(openErr, fs.ErrNotExist) {
			continue
		}
		if openErr != nil {
			return fmt.Errorf("%w (%w)", private.Explain(openErr), err)
		}
		_ = file.Close()
	}
	// SQLite makes files beside the database.
	file, openErr := os.CreateTemp(l.dir, "try-*")
	if openErr != nil {
		return fmt.Errorf("%w (%w)", private.Explain(openErr), err)
	}
	return errors.Join(err, file.Close(), os.Remove(file.Name()))
}

// files are the names of the files that SQLite has, or may have.
func (l *Ledger) files() []string {
	names := []string{databaseName, lockName}
	for _, beside := range besides {
		names = append(names, databaseName+beside, lockName+beside)
	}
	return names
}

// warnOfLooseFiles tells the operator of files that others may read, and that this
// process could not change.
func (l *Ledger) warnOfLooseFiles() {
	names := l.files()
	for i := range l.shards {
		names = append(names, l.shards[i].Names()...)
	}
	var loose []string
	for _, name := range names {
		if private.Loose(filepath.Join(l.dir, name)) {
			loose = append(loose, name)
		}
	}
	if len(loose) > 0 {
		l.log.Warn("others than the owner may use files of the ledger, and their modes could not be changed to 0600",
			"directory", l.dir, "files", strings.Join(loose, " "))
	}
}
