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

// Resume makes journals that are used together go on where an earlier process left
// them, whatever that left: of the files that have records, those begun last are
// Current, and all others Other. It returns both in the order in which they were
// begun, and from now on the files tell that order.
func Resume(journals []*Journal) (currents, others []*File, err error) {
	newest, marks := uint64(0), make(map[*File]uint64)
	for _, j := range journals {
		for _, f := range []*File{j.Current, j.Other} {
			if marks[f], err = f.mark(); err != nil {
				return nil, nil, err
			}
			newest = max(newest, marks[f])
		}
	}
	isNew := func(f *File) bool { return f.Size() > 0 && marks[f] == newest }
	isOld := func(f *File) bool { return f.Size() > 0 && marks[f] < newest }
	for _, j := range journals {
		// Of two without a mark, the one that is found as Current is the older.
		if isNew(j.Other) || isOld(j.Current) && !isOld(j.Other) {
			j.Current, j.Other = j.Other, j.Current
		}
		j.begun = max(newest, 1)
		j.Current.number = j.begun
		currents, others = append(currents, j.Current), append(others, j.Other)
	}
	if currents, err = inOrder(currents); err != nil {
		return nil, nil, err
	}
	others, err = inOrder(others)
	return currents, others, err
}

// inOrder sorts files by when they were begun. Those that were begun together, and
// those which an unnumbered journal left, stay as they are.
func inOrder(files []*File) ([]*File, error) {
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
