package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A mark is a frame in front of a file's records that holds the file's number, a
// uvarint: less than the shortest record.

// Number makes the files tell from now on which of them was begun first. Both must
// be empty.
func (j *Journal) Number() {
	j.begun = 1
	j.Current.number = j.begun
}

// InOrder sorts files by when they were begun. Those that were begun together, and
// those which an unnumbered journal left, stay as they are.
func InOrder(files []*File) ([]*File, error) {
	marks := make(map[*File]uint64, len(files))
	for _, f := range files {
		mark, err := f.mark()
		if err != nil {
			return nil, err
		}
		marks[f] = mark
	}
	sorted := slices.Clone(files)
	slices.SortStableFunc(sorted, func(a, b *File) int { return cmp.Compare(marks[a], marks[b]) })
	return sorted, nil
}

// mark is the number that the file begins with, 0 if with none.
func (f *File) mark() (uint64, error) {
	size := f.size.Load()
	frame, err := nextFrame(io.NewSectionReader(f.file, 0, size), size, nil)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("reading %s: %w", f.file.Name(), err)
	case frame == nil || !isMark(frame):
		return 0, nil
	}
	number, _ := binary.Uvarint(frame[frameHeader:])
	return number, nil
}

func markFrame(number uint64) []byte {
	frame := binary.AppendUvarint(make([]byte, frameHeader), number)
	seal(frame)
	return frame
}

func isMark(frame []byte) bool { return len(frame) <= frameHeader+binary.MaxVarintLen64 }
