package redisledger

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

const (
	// mostProcesses bounds how many processes share a spool.
	mostProcesses = 1024
	refusedName   = "refused"
)

// errHeld: another process has the lock.
var errHeld = errors.New("held by another process")

// spool is the records that Redis has yet to take: of this process, in the first
// subdirectory of dir, counted from 0, that no other process holds, and of
// processes that have ended, in theirs.
type spool struct {
	dir   string
	sync  bool
	log   *slog.Logger
	cache *cache

	// draining is held by who brings records to Redis. Locked before mu.
	draining sync.Mutex
	left     []*directory // of processes that have ended

	// mu is held by who appends to own's journal or swaps its files.
	mu     sync.Mutex
	own    *directory // nil until it is open
	closed bool
	// failure is why no record could be kept at last, at failedAt; nil if it could.
	failure  error
	failedAt time.Time
}

// directory is a subdirectory of a spool, which this process has locked.
type directory struct {
	path    string
	lock    io.Closer
	journal *journal.Journal
	// drained is up to where Redis has the records of journal.Other.
	drained int64
	// refused are the records that Redis will not take: at first, perhaps, for it has
	// lost its data, and another node is about to declare the users. It is asked once
	// more at each start, whenever users were declared here, and at retryAt, which is
	// retryWait after the last time.
	refused      *journal.File
	retryRefused atomic.Bool
	retryAt      time.Time // guarded by draining, and so is
	retryWait    time.Duration
}

// leastRetryWait and mostRetryWait are how long Redis is not asked again for records
// that it refused: twice as long each time.
const (
	leastRetryWait = time.Second
	mostRetryWait  = 10 * time.Minute
)

// postpone sets when Redis is asked again for the records that it refused.
func (d *directory) postpone(wait time.Duration) {
	d.retryWait = min(wait, mostRetryWait)
	d.retryAt = time.Now().Add(d.retryWait)
}

// isRetryDue tells whether Redis is to be asked again now, and takes note of it.
func (d *directory) isRetryDue() bool {
	return d.refused.Size() > 0 && (d.retryRefused.Swap(false) || !time.Now().Before(d.retryAt))
}

var frames = sync.Pool{New: func() any { return new([]byte) }}

func newSpool(options Options, c *cache) *spool {
	dir := options.Spool
	if absolute, err := filepath.Abs(dir); err == nil { // it shall not follow a change of the working directory
		dir = absolute
	}
	return &spool{dir: dir, sync: options.Sync, log: options.Logger, cache: c}
}

// keep returns once the record is safe; isSure tells that Redis has not got it.
func (s *spool) keep(r *billing.Record, isSure bool) error {
	buffer := frames.Get().(*[]byte)
	defer frames.Put(buffer)
	var err error
	if *buffer, err = journal.AppendFrame((*buffer)[:0], r); err != nil {
		return err
	}
	position, err := s.append(r, *buffer, isSure)
	if err == nil && s.sync {
		err = position.Sync()
	}
	if err != nil {
		s.mu.Lock()
		s.tried(err)
		s.mu.Unlock()
	}
	return err
}

// tryEvery and trySize are how often a spool that took no record is tried, and with
// how many bytes: what some requests in flight will need.
const (
	tryEvery = time.Second
	trySize  = 64 << 10
)

// check is an error if a record could not be kept at present.
func (s *spool) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil && time.Since(s.failedAt) < tryEvery {
		return s.failure
	}
	err := s.open()
	if err == nil && s.failure != nil {
		err = s.own.journal.Current.Probe(trySize, s.sync)
	}
	if err != nil || s.failure != nil {
		s.tried(err)
	}
	return err
}

// tried takes note of whether the spool takes records. Once it took none, no record
// that happens to fit shows that it does again, but check. mu is held.
func (s *spool) tried(err error) {
	switch {
	case err != nil && s.failure == nil:
		s.log.Error("the spool takes no records, so no request is let through while Redis fails too: see whether the disk is full or broken; "+
			"nothing that was settled is lost", "spool", s.dir, "error", err)
	case err == nil && s.failure != nil:
		s.log.Info("the spool takes records again", "spool", s.dir)
	}
	s.failure, s.failedAt = err, time.Now()
}

func (s *spool) append(r *billing.Record, frame []byte, isSure bool) (journal.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return journal.Position{}, err
	}
	position, err := s.own.journal.Current.Append(frame)
	if err == nil {
		s.cache.wait(r, isSure)
	}
	return position, err
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
		if err != nil && !errors.Is(err, errHeld) {
			return err
		}
		s.own = d
	}
	return nil
}

// adopt opens the spool, and the subdirectories in which processes that have
// ended left records; the first time, refused ones too.
func (s *spool) adopt() error {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	names := []string{"journal-0", "journal-1"}
	if s.own == nil {
		names = append(names, refusedName)
	}
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
		if _, err := strconv.ParseUint(entry.Name(), 10, 16); err != nil || !hasAny(path, names) {
			continue
		}
		d, err := s.openDirectory(path)
		switch {
		case err == nil:
			s.left = append(s.left, d)
		case !errors.Is(err, errHeld): // which those of this process are, too
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hasAny tells whether there is anything in those files of a subdirectory,
// without locking it.
func hasAny(path string, names []string) bool {
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(path, name)); err == nil && info.Size() > 0 {
			return true
		}
	}
	return false
}

// openDirectory locks a subdirectory, which is made where it doesn't exist;
// errHeld if another process has it.
func (s *spool) openDirectory(path string) (_ *directory, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	d := &directory{path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.lock, err = lockFile(filepath.Join(path, "lock")); err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if d.journal, err = journal.Open(path, 0); err != nil {
		return nil, err
	}
	if d.refused, err = journal.OpenFile(filepath.Join(path, refusedName)); err != nil {
		return nil, err
	}
	if s.sync {
		if err := errors.Join(journal.SyncDirectory(path), journal.SyncDirectory(s.dir)); err != nil {
			return nil, err
		}
	}
	return d, s.load(d)
}

// load counts what the directory has, and cuts off what an earlier process could
// not finish writing.
func (s *spool) load(d *directory) error {
	records, cut := 0, int64(0)
	for _, f := range []*journal.File{d.journal.Current, d.journal.Other} {
		n, rest, err := walk(f, func(r *billing.Record) { s.cache.wait(r, false) })
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.path, err)
		}
		records, cut = records+n, cut+rest
	}
	refused, _, err := walk(d.refused, func(*billing.Record) {})
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.path, err)
	}
	d.retryRefused.Store(refused > 0)
	if records+refused > 0 || cut > 0 {
		s.log.Info("taking over records that an earlier process left in the spool",
			"directory", d.path, "records", records, "refused_records", refused, "bytes_of_unfinished_record", cut)
	}
	return nil
}

// walk calls each with the file's records, and cuts off what follows them.
func walk(f *journal.File, each func(*billing.Record)) (count int, rest int64, err error) {
	for from := int64(0); ; {
		records, end, err := f.Read(from, drainBatch)
		if err != nil {
			return 0, 0, err
		}
		if len(records) == 0 {
			rest = f.Size() - end
			return count, rest, f.Cut(end)
		}
		for i := range records {
			each(&records[i])
		}
		count, from = count+len(records), end
	}
}

// retryRefused has Redis asked once more for the records that it refused.
func (s *spool) retryRefused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		s.own.retryRefused.Store(true)
	}
}

// untilRetry is how long until refused records are to be tried again, if there are
// any.
func (s *spool) untilRetry() (wait time.Duration, isAny bool) {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	own := s.own
	s.mu.Unlock()
	if own == nil || own.refused.Size() == 0 {
		return 0, false
	}
	return time.Until(own.retryAt), true
}

// close lets go of the directories.
func (s *spool) close() error {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, d := range append(s.left, s.own) {
		if d != nil {
			errs = append(errs, d.close())
		}
	}
	return errors.Join(errs...)
}

// close closes what is open, the lock last.
func (d *directory) close() error {
	var errs []error
	if d.journal != nil {
		errs = append(errs, d.journal.Close())
	}
	if d.refused != nil {
		errs = append(errs, d.refused.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}
