package redisledger

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/internal/private"
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
// no other process holds. What processes left that have ended, it adopts: where they
// are, since a copy would be there twice for whoever comes after a kill.
type spool struct {
	dir      string
	sync     bool
	log      *slog.Logger
	snapshot *snapshot

	// draining is held by who brings records to Redis. Locked before mu.
	draining sync.Mutex

	// mu is held by who appends records or swaps the files.
	mu      sync.Mutex
	own     *directory // nil until it is open
	adopted []*directory
	closed  bool
	// failure is why no record could be kept at last, at failedAt; nil if it could.
	failure  error
	failedAt time.Time
}

// directory is a subdirectory of a spool, which this process has locked.
type directory struct {
	path string
	lock *flock.Flock
	// current takes new records since begun, in the own directory; other has those of
	// before. In an adopted one, all of it has been with Redis since begun.
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

func (d *directory) files() [2]*spoolFile { return [2]*spoolFile{d.other, d.current} }

// isTaken reports whether Redis has all records, but for those that it refused.
func (d *directory) isTaken() bool { return d.current.missing < 0 && d.other.missing < 0 }

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
	for _, d := range s.directories() {
		for _, f := range d.files() {
			f.inherited = f.Size()
			f.miss(0, f.Size())
		}
	}
}

// directories are the own and the adopted ones. mu is held.
func (s *spool) directories() []*directory {
	if s.own == nil {
		return nil
	}
	return append([]*directory{s.own}, s.adopted...)
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
	for _, f := range d.files() {
		count, err := walk(f.File, func(r *billing.Record) {
			if !wasTaken {
				s.snapshot.miss(r)
			}
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
	lock := flock.New(filepath.Join(path, "lock"), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	switch isOurs, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("locking %s: %w", path, err)
	case !isOurs:
		return nil, errHeld
	}
	d.lock = lock
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
		return d, errors.Join(private.SyncDirectory(path), private.SyncDirectory(s.dir))
	}
	return d, nil
}

// adopt opens the spool, and adopts what processes left that have ended.
func (s *spool) adopt() error {
	held := make(map[string]bool)
	s.mu.Lock()
	err := s.open()
	for _, d := range s.directories() {
		held[d.path] = true
	}
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
		if _, err := strconv.ParseUint(entry.Name(), 10, 16); err != nil || held[path] || !hasAny(path) {
			continue
		}
		d, err := s.openDirectory(path)
		if errors.Is(err, errHeld) {
			continue
		}
		if err == nil {
			if err = s.load(d); err == nil {
				s.mu.Lock()
				s.adopted = append(s.adopted, d)
				s.mu.Unlock()
			} else {
				err = errors.Join(err, d.close())
			}
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

// walk calls each with the file's records, and cuts off what follows them.
func walk(f *journal.File, each func(*billing.Record)) (count int, err error) {
	for from := int64(0); ; {
		records, end, err := f.Read(from, f.Size(), drainBatch)
		if err != nil {
			return count, err
		}
		if len(records) == 0 {
			return count, f.Cut(end)
		}
		for i := range records {
			each(&records[i])
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
	if s.own == nil || s.closed {
		return nil
	}
	isDue := func(d *directory) bool { return time.Since(d.begun) >= keptFor && d.isTaken() }
	if d := s.own; isDue(d) {
		if err := d.other.empty(); err != nil {
			return err
		}
		d.begun = time.Now()
		d.current, d.other = d.other, d.current
	}
	for i, d := range slices.Backward(s.adopted) {
		if isDue(d) && d.refused.Size() == 0 {
			s.adopted = slices.Delete(s.adopted, i, i+1)
			if err := errors.Join(d.current.empty(), d.other.empty(), d.close()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *spoolFile) empty() error {
	f.inherited = 0
	if f.Size() == 0 {
		return nil
	}
	if err := f.Empty(); err != nil {
		return fmt.Errorf("emptying a journal of the spool: %w", err)
	}
	return nil
}

// close lets go of the directories.
func (s *spool) close() error {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, d := range s.directories() {
		if d.isTaken() {
			errs = append(errs, os.WriteFile(filepath.Join(d.path, takenName), nil, 0o600))
		}
		errs = append(errs, d.close())
	}
	return errors.Join(errs...)
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
