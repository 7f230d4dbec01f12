package redisledger

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

const (
	// mostProcesses bounds how many processes share a spool.
	mostProcesses = 1024
	refusedName   = "refused"
	// takenName is a file that is there while all that a directory has was taken by
	// Redis, and nobody has it open.
	takenName = "taken"
	// keptFor is how long the spool keeps what Redis has taken, at least: a minute, and
	// the time in which it is noticed that Redis lost it.
	keptFor = time.Minute + 10*time.Second
	// leastRetryWait and mostRetryWait are how long Redis is not asked again for
	// records that it refused: twice as long each time.
	leastRetryWait = time.Second
	mostRetryWait  = 10 * time.Minute
	// failureTTL is for how long the spool is taken to be broken before it is tried
	// again, and trySize how many bytes it must then take.
	failureTTL = time.Second
	trySize    = 64 << 10
)

// errHeld: another process has the lock.
var errHeld = errors.New("held by another process")

// spool is the records that Redis may not have, and those that it has taken in the
// last minute, of this process, in the first subdirectory of dir, counted from 0, that
// no other process holds. What processes left that have ended, it takes over.
type spool struct {
	dir      string
	sync     bool
	log      *slog.Logger
	snapshot *snapshot

	// draining is held by who brings records to Redis. Locked before mu.
	draining sync.Mutex

	// mu is held by who appends records or swaps the files.
	mu     sync.Mutex
	own    *directory // nil until it is open
	closed bool
	// failure is why no record could be kept at last, at failedAt; nil if it could.
	failure  error
	failedAt time.Time
}

// directory is a subdirectory of a spool, which this process has locked.
type directory struct {
	path string
	lock io.Closer
	// current takes new records since begun; other has those of before.
	current, other *spoolFile
	begun          time.Time
	// refused are the records that Redis will not take: at first, perhaps, for it has
	// lost its data, and another node is about to declare the users. It is asked once
	// more at each start, whenever users were declared here, and at retryAt, which is
	// retryWait after the last time; both are guarded by draining.
	refused   *journal.File
	retryAt   time.Time
	retryWait time.Duration
}

// spoolFile is a file of records, of which Redis may lack those from missing to until;
// missing is -1 if it has all.
type spoolFile struct {
	*journal.File
	missing, until int64
	// inherited is up to where Redis may have had the records before.
	inherited int64
}

func (f *spoolFile) miss(from, to int64) {
	if f.missing < 0 {
		f.missing, f.until = from, to
	}
	f.missing, f.until = min(f.missing, from), max(f.until, to)
}

// place is where a record is.
type place struct {
	file  *spoolFile
	start int64
	stop  int64
	end   journal.Position
}

func newSpool(options Options, s *snapshot) *spool {
	dir := options.Spool
	if absolute, err := filepath.Abs(dir); err == nil { // it shall not follow a change of the working directory
		dir = absolute
	}
	return &spool{dir: dir, sync: options.Sync, log: options.Logger, snapshot: s}
}

// keep returns once the record is safe from the end of the process.
func (s *spool) keep(r *billing.Record) (place, error) {
	frame, err := journal.AppendFrame(nil, r)
	if err != nil {
		return place{}, err
	}
	return s.keepFrame(frame)
}

// keepFrame is keep, of a record's frame.
func (s *spool) keepFrame(frame []byte) (_ place, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return place{}, s.tried(err)
	}
	at := place{file: s.own.current, start: s.own.current.Size()}
	if at.end, err = at.file.Append(frame); err != nil {
		err = s.tried(err)
	}
	at.stop = at.file.Size()
	return at, err
}

// undo forgets a record that was refused, unless others came after it: then Redis is
// asked for it once more when the spool is read again.
func (s *spool) undo(at place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.file != nil && at.file == s.own.current && at.file.Size() == at.stop {
		_ = at.file.Cut(at.start)
	}
}

// miss takes note that Redis did not take a record that is kept, and returns once it
// is as safe as it must be.
func (s *spool) miss(at place, r *billing.Record) error {
	if s.sync {
		if err := at.end.Sync(); err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.tried(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at.file.miss(at.start, at.stop)
	s.snapshot.miss(r)
	return nil
}

// missAll takes note that Redis may lack any of the last minute's records.
func (s *spool) missAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		for _, f := range []*spoolFile{s.own.current, s.own.other} {
			f.inherited = f.Size()
			f.miss(0, f.Size())
		}
	}
}

// check is an error if the spool takes no records.
func (s *spool) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil && time.Since(s.failedAt) < failureTTL {
		return s.failure
	}
	err := s.open()
	if err == nil && s.failure != nil {
		err = s.own.current.Probe(trySize, s.sync)
	}
	if err != nil || s.failure != nil {
		_ = s.tried(err)
	}
	return err
}

// tried takes note of whether the spool takes records, and returns err. Once it took
// none, no record that happens to fit shows that it does again, but check. mu is held.
func (s *spool) tried(err error) error {
	switch {
	case err != nil && s.failure == nil && !s.closed:
		s.log.Error("the spool takes no records, so no request is let through while Redis is out of reach too: see whether the disk is full or broken; "+
			"nothing that was settled is lost", "spool", s.dir, "error", err)
	case err == nil && s.failure != nil:
		s.log.Info("the spool takes records again", "spool", s.dir)
	}
	s.failure, s.failedAt = err, time.Now()
	return err
}

// open locks a subdirectory for this process, if it has none yet, and counts what
// an earlier one left there. mu is held.
func (s *spool) open() error {
	if s.closed {
		return billing.ErrClosed
	}
	for n := 0; s.own == nil; n++ {
		if n == mostProcesses {
			return fmt.Errorf("%d processes hold it already", n)
		}
		d, err := s.openDirectory(filepath.Join(s.dir, strconv.Itoa(n)))
		if errors.Is(err, errHeld) {
			continue
		}
		if err != nil {
			return err
		}
		s.own = d
		if err := s.load(d); err != nil {
			return err
		}
	}
	return nil
}

// load counts what the directory has, and cuts off what an earlier process could not
// finish writing.
func (s *spool) load(d *directory) error {
	wasTaken := os.Remove(filepath.Join(d.path, takenName)) == nil
	for _, f := range []*spoolFile{d.current, d.other} {
		count, err := walk(f.File, func(r *billing.Record) error {
			if !wasTaken {
				s.snapshot.miss(r)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.path, err)
		}
		if count > 0 {
			f.miss(0, f.Size())
			f.inherited = f.Size()
			s.log.Info("Redis is told again of the records that an earlier process left in the spool", "directory", d.path, "records", count)
		}
	}
	return nil
}

// openDirectory locks a subdirectory, which is made where it doesn't exist;
// errHeld if another process has it.
func (s *spool) openDirectory(path string) (_ *directory, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	d := &directory{path: path, begun: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.lock, err = lockFile(filepath.Join(path, "lock")); err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	for name, file := range map[string]**spoolFile{"journal-0": &d.current, "journal-1": &d.other} {
		f, err := journal.OpenFile(filepath.Join(path, name))
		if err != nil {
			return nil, err
		}
		*file = &spoolFile{File: f, missing: -1}
	}
	if d.refused, err = journal.OpenFile(filepath.Join(path, refusedName)); err != nil {
		return nil, err
	}
	if s.sync {
		return d, errors.Join(journal.SyncDirectory(path), journal.SyncDirectory(s.dir))
	}
	return d, nil
}

// adopt opens the spool, and takes over what processes left that have ended.
func (s *spool) adopt() error {
	s.mu.Lock()
	err := s.open()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(s.dir, entry.Name())
		if _, err := strconv.ParseUint(entry.Name(), 10, 16); err != nil || path == s.own.path || !hasAny(path) {
			continue
		}
		d, err := s.openDirectory(path)
		if errors.Is(err, errHeld) {
			continue
		}
		if err == nil {
			err = errors.Join(s.takeOver(d), d.close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hasAny reports whether there is anything in the files of a subdirectory, without
// locking it.
func hasAny(path string) bool {
	for _, name := range []string{"journal-0", "journal-1", refusedName} {
		if info, err := os.Stat(filepath.Join(path, name)); err == nil && info.Size() > 0 {
			return true
		}
	}
	return false
}

// takeOver makes the records of another directory this process's.
func (s *spool) takeOver(d *directory) error {
	files := []*journal.File{d.current.File, d.other.File, d.refused}
	s.mu.Lock()
	to := s.own.current
	to.inherited = math.MaxInt64 // from now on, for Redis may be told of them before all are here
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		to.inherited = to.Size()
	}()
	total := 0
	for _, f := range files {
		count, err := walk(f, func(r *billing.Record) error {
			at, err := s.keep(r)
			if err != nil {
				return err
			}
			return s.miss(at, r)
		})
		if err != nil {
			return fmt.Errorf("taking over the records of %s: %w", d.path, err)
		}
		if total += count; count > 0 {
			if err := f.Empty(); err != nil {
				return fmt.Errorf("emptying %s: %w", d.path, err)
			}
		}
	}
	s.log.Info("taking over records that an earlier process left in the spool", "directory", d.path, "records", total)
	return nil
}

// walk calls each with the file's records, and cuts off what follows them.
func walk(f *journal.File, each func(*billing.Record) error) (count int, err error) {
	for from := int64(0); ; {
		records, end, err := f.Read(from, f.Size(), drainBatch)
		if err != nil {
			return count, err
		}
		if len(records) == 0 {
			return count, f.Cut(end)
		}
		for i := range records {
			if err := each(&records[i]); err != nil {
				return count, err
			}
		}
		count, from = count+len(records), end
	}
}

// rotate forgets what Redis has had for long enough.
func (s *spool) rotate() error {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.own
	if d == nil || s.closed || time.Since(d.begun) < keptFor || d.current.missing >= 0 || d.other.missing >= 0 {
		return nil
	}
	d.begun, d.other.inherited = time.Now(), 0
	if d.other.Size() > 0 {
		if err := d.other.Empty(); err != nil {
			return fmt.Errorf("emptying a journal in %s: %w", d.path, err)
		}
	}
	d.current, d.other = d.other, d.current
	return nil
}

// close lets go of the directory.
func (s *spool) close() error {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.own == nil {
		return nil
	}
	var err error
	if s.own.current.missing < 0 && s.own.other.missing < 0 {
		err = os.WriteFile(filepath.Join(s.own.path, takenName), nil, 0o600)
	}
	return errors.Join(err, s.own.close())
}

// close closes what is open, the lock last.
func (d *directory) close() error {
	var errs []error
	for _, f := range []*spoolFile{d.current, d.other} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if d.refused != nil {
		errs = append(errs, d.refused.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}
