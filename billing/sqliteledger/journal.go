package sqliteledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/sub2api/caddy-sub2api/billing"
)

// journal holds records on their way into the database, in two files: one
// takes new records while those of the other are written to the database, after
// which that one is emptied. A record that is in both, journal and database, is
// told by its id.
//
// A file is a row of frames: the length of the payload and its CRC-32C, 4 bytes
// each, little endian, and the payload, a record as encode makes it. What is no
// frame ends the file: a write that the end of the process cut short, and so
// nothing that was acknowledged.
type journal struct {
	current, other *journalFile
}

type journalFile struct {
	file *os.File
	// size is written by who holds Ledger.mu, or flushing for the other file.
	size atomic.Int64
	// syncing guards what follows, and makes those who wait for the disk at the
	// same time share one sync.
	syncing sync.Mutex
	synced  int64
	emptied int // how often
}

// position is where a record ends in a file that was emptied that often.
type position struct {
	file    *journalFile
	emptied int
	size    int64
}

const (
	frameHeader = 8
	// largestFrame bounds what a damaged length can make replay read.
	largestFrame = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openJournal(dir string) (*journal, error) {
	j := new(journal)
	for i, place := range []**journalFile{&j.current, &j.other} {
		path := filepath.Join(dir, fmt.Sprintf("journal-%d", i))
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, errors.Join(err, j.close())
		}
		*place = &journalFile{file: file}
	}
	return j, nil
}

func (j *journal) close() error {
	var errs []error
	for _, f := range []*journalFile{j.current, j.other} {
		if f != nil {
			errs = append(errs, f.file.Close())
		}
	}
	return errors.Join(errs...)
}

// swap exchanges the files; the other one must be empty.
func (j *journal) swap() { j.current, j.other = j.other, j.current }

// appendFrame appends a record's frame to b.
func appendFrame(b []byte, r *billing.Record) ([]byte, error) {
	start := len(b)
	b = encode(append(b, make([]byte, frameHeader)...), r)
	payload := b[start+frameHeader:]
	if len(payload) > largestFrame {
		return b, fmt.Errorf("it has %d bytes, more than the %d that can be kept", len(payload), largestFrame)
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(payload, castagnoli))
	return b, nil
}

// append writes a frame in one piece and gives its end. After an error the file
// is as it was.
func (f *journalFile) append(frame []byte) (position, error) {
	size := f.size.Load()
	if _, err := f.file.WriteAt(frame, size); err != nil {
		// Should this fail too, the next frame is written over what there is.
		f.file.Truncate(size)
		return position{}, err
	}
	return position{f, f.emptied, f.size.Add(int64(len(frame)))}, nil
}

// sync returns once what comes before the position is on disk, there or in the
// database.
func (p position) sync() error {
	f := p.file
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

// empty forgets the file's records.
func (f *journalFile) empty() error {
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

// read gives the file's records, and the number of bytes after them that are
// no frame.
func (f *journalFile) read() (records []billing.Record, rest int, err error) {
	data, err := os.ReadFile(f.file.Name())
	if err != nil {
		return nil, 0, err
	}
	for {
		r, n := firstFrame(data)
		if n == 0 {
			return records, len(data), nil
		}
		records = append(records, r)
		data = data[n:]
	}
}

// firstFrame gives the record of the frame that data begins with and the
// frame's length, 0 where it begins with none.
func firstFrame(data []byte) (r billing.Record, n int) {
	if len(data) < frameHeader {
		return r, 0
	}
	length := int(binary.LittleEndian.Uint32(data))
	if length == 0 || length > largestFrame || length > len(data)-frameHeader {
		return r, 0
	}
	payload := data[frameHeader : frameHeader+length]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[4:]) || !decode(payload, &r) {
		return r, 0
	}
	return r, frameHeader + length
}
