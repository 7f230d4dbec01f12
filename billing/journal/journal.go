// Package journal keeps records on disk until a ledger's store has them: cheap
// to write, and safe from kill -9 once written.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/private"
)

// Journal is two files: Current takes new records while those of Other are
// written to the store, after which that one is emptied. A record that is in
// both, journal and store, is told by its id.
//
// It has no lock of its own: whoever swaps the files, or appends to one, keeps
// others from doing so.
type Journal struct {
	Current, Other *File
	// begun is how often a file has become Current, once Resume was called.
	begun uint64
}

// File is a row of frames, one for each record. What is no frame ends the file:
// a write that the end of the process cut short, and so nothing that was
// acknowledged. Appending, probing, emptying and cutting exclude each other by the
// caller's lock; all else is safe beside them.
type File struct {
	file   *os.File
	size   atomic.Int64
	number uint64 // it begins with a mark of this; 0 = with none
	// syncing guards what follows, and makes those who wait for the disk at the
	// same time share one sync.
	syncing sync.Mutex
	synced  int64
	emptied int // how often
}

// Position is where a record ends in a file. The zero value is nowhere.
type Position struct {
	file    *File
	emptied int // as the file was, that often
	size    int64
}

// Open opens the journal of that number in dir, from 0 on, and makes its files where
// they are not there, with mode 0600: journal-0 and journal-1 of number 0, journal-2
// and journal-3 of number 1. They hold what an earlier process left.
func Open(dir string, number int) (*Journal, error) {
	j := new(Journal)
	for i, place := range []**File{&j.Current, &j.Other} {
		file, err := OpenFile(filepath.Join(dir, fileName(2*number+i)))
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
		*place = file
	}
	return j, nil
}

// Count is how many journals there are in dir, from number 0 on.
func Count(dir string) (count int, err error) {
	for {
		switch _, err := os.Stat(filepath.Join(dir, fileName(2*count))); {
		case errors.Is(err, fs.ErrNotExist):
			return count, nil
		case err != nil:
			return count, err
		}
		count++
	}
}

func fileName(number int) string { return fmt.Sprintf("journal-%d", number) }

// Close closes the files.
func (j *Journal) Close() error {
	var errs []error
	for _, f := range []*File{j.Current, j.Other} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Names are those of the files in their directory.
func (j *Journal) Names() []string {
	return []string{filepath.Base(j.Current.file.Name()), filepath.Base(j.Other.file.Name())}
}

// Swap exchanges the files; the other one must be empty.
func (j *Journal) Swap() {
	j.Current, j.Other = j.Other, j.Current
	if j.begun > 0 {
		j.begun++
		j.Current.number = j.begun
	}
}

// OpenFile opens a single file, which is made where it doesn't exist. Its mode is
// 0600, whatever it was.
func OpenFile(path string) (*File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, private.FileMode)
	if err != nil {
		return nil, err
	}
	private.Tighten(path)
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f := &File{file: file}
	f.size.Store(info.Size())
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Size is the length of the file in bytes.
func (f *File) Size() int64 { return f.size.Load() }

// End is where the file's last record ends.
func (f *File) End() Position { return Position{f, f.emptied, f.size.Load()} }

// Append writes a frame that AppendFrame made, in one piece, and gives its end.
// After an error the file is as it was.
func (f *File) Append(frame []byte) (Position, error) {
	size := f.size.Load()
	if size == 0 && f.number > 0 {
		frame = append(markFrame(f.number), frame...)
	}
	if _, err := f.file.WriteAt(frame, size); err != nil {
		// Should this fail too, the next frame is written over what there is.
		f.file.Truncate(size)
		return Position{}, err
	}
	return Position{f, f.emptied, f.size.Add(int64(len(frame)))}, nil
}

// Probe reports whether the file takes that many bytes more, and the disk with sync.
// It leaves the file as it is.
func (f *File) Probe(bytes int, sync bool) error {
	size := f.size.Load()
	_, err := f.file.WriteAt(make([]byte, bytes), size) // zeros are no frame
	if err == nil && sync {
		err = f.file.Sync()
	}
	return errors.Join(err, f.file.Truncate(size))
}

// Read gives the records that begin at from, which is 0 or an end that Read gave, and
// end at until, at most that many, and where they end. There are no more where there
// are none: what then lies between their end and until is no frame.
func (f *File) Read(from, until int64, most int) (records []billing.Record, end int64, err error) {
	records, length, err := readFrames(f.file, from, until, most)
	return records, from + length, err
}

// Cut makes end, which Read gave, the end of the file, so that nothing of an
// unfinished frame lies behind those that are appended.
func (f *File) Cut(end int64) error {
	f.syncing.Lock()
	defer f.syncing.Unlock()
	if f.size.Load() == end {
		return nil
	}
	if err := f.file.Truncate(end); err != nil {
		return err
	}
	f.size.Store(end)
	f.synced = min(f.synced, end)
	return nil
}

// Empty forgets the file's records.
func (f *File) Empty() error {
	f.syncing.Lock()
	defer f.syncing.Unlock()
	if err := f.file.Truncate(0); err != nil {
		return err
	}
	f.size.Store(0)
	f.synced = 0
	f.emptied++
	return nil
}

// Sync returns once what comes before the position is on disk, there or in the
// store. The zero position is on disk.
func (p Position) Sync() error {
	f := p.file
	if f == nil {
		return nil
	}
	f.syncing.Lock()
	defer f.syncing.Unlock()
	if f.emptied != p.emptied || f.synced >= p.size {
		return nil
	}
	written := f.size.Load()
	if err := f.file.Sync(); err != nil {
		return err
	}
	f.synced = written
	return nil
}
