package sqliteledger

import (
	"context"
	"database/sql"
	"fmt"
	"hash/maphash"
)

// seen tells of most ids that no record has them, without asking the database, which
// costs 5 µs. It never says so of an id that a record has.
//
// It relies on ids that grow with time, as those of UUID version 7 do, to be of use,
// not to be right: of ids up to floor it knows nothing, and those after it that
// records have are in one of two filters, the older of which is let go when the
// younger one is full.
type seen struct {
	floor      string
	young, old filter
}

func newSeen(ctx context.Context, db *sql.DB) (*seen, error) {
	var largest sql.NullString
	if err := db.QueryRowContext(ctx, "SELECT max(id) FROM records").Scan(&largest); err != nil {
		return nil, fmt.Errorf("reading the largest id: %w", err)
	}
	return &seen{floor: largest.String, young: newFilter(filterBits), old: newFilter(filterBits)}, nil
}

func (s *seen) add(id string) {
	if s.young.isFull() {
		s.floor = max(s.floor, s.old.largest)
		s.young, s.old = s.old, s.young
		s.young.clear()
	}
	s.young.add(id)
}

func (s *seen) isNew(id string) bool {
	return id > s.floor && !s.young.mayHave(id) && !s.old.mayHave(id)
}

const (
	filterBits  = 1 << 23 // 1 MiB, for half a million ids
	filterMarks = 4       // for each id
	// bitsPerID are those of a full filter, which then takes one in 400 other ids
	// for one of its own.
	bitsPerID = 16
)

// filter is a Bloom filter.
type filter struct {
	seed    maphash.Seed
	bits    []uint64
	count   int
	largest string
}

func newFilter(bits int) filter {
	return filter{seed: maphash.MakeSeed(), bits: make([]uint64, bits/64)}
}

func (f *filter) isFull() bool { return f.count == len(f.bits)*64/bitsPerID }

func (f *filter) clear() {
	clear(f.bits)
	f.count, f.largest = 0, ""
}

func (f *filter) add(id string) {
	for _, mark := range f.marks(id) {
		f.bits[mark/64] |= 1 << (mark % 64)
	}
	f.count++
	f.largest = max(f.largest, id)
}

func (f *filter) mayHave(id string) bool {
	for _, mark := range f.marks(id) {
		if f.bits[mark/64]&(1<<(mark%64)) == 0 {
			return false
		}
	}
	return true
}

func (f *filter) marks(id string) (marks [filterMarks]uint64) {
	hash := maphash.String(f.seed, id)
	step := hash>>32 | 1
	for i := range marks {
		marks[i] = (hash + uint64(i)*step) % uint64(len(f.bits)*64)
	}
	return marks
}
