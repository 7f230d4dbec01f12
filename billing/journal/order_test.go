package journal

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func resume(t *testing.T, journals ...*Journal) (currents, others []*File) {
	t.Helper()
	currents, others, err := Resume(journals)
	if err != nil {
		t.Fatal(err)
	}
	return currents, others
}

// TestFilesTellTheirOrder has each of the files be the older one in turn.
func TestFilesTellTheirOrder(t *testing.T) {
	dir := t.TempDir()
	for swaps := range 4 {
		j := openJournal(t, dir)
		resume(t, j)
		for i := range swaps {
			if _, err := j.Current.Append(journalOf(t, ledgertest.Example("gone"))); err != nil {
				t.Fatal(err)
			}
			j.Swap()
			if err := j.Other.Empty(); err != nil {
				t.Fatalf("swap %d: %v", i, err)
			}
		}
		for _, id := range []string{"a", "b"} {
			if _, err := j.Current.Append(journalOf(t, ledgertest.Example(id+"1"))); err != nil {
				t.Fatal(err)
			}
			if _, err := j.Current.Append(journalOf(t, ledgertest.Example(id+"2"))); err != nil {
				t.Fatal(err)
			}
			if id == "a" {
				j.Swap()
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}

		j = openJournal(t, dir)
		files, err := inOrder([]*File{j.Current, j.Other})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, f := range files {
			records, end, err := f.Read(0, f.Size(), math.MaxInt)
			if err != nil || end != f.Size() {
				t.Fatalf("read to %d of %d, %v", end, f.Size(), err)
			}
			for i := range records {
				ids = append(ids, records[i].ID)
			}
			if err := f.Empty(); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"a1", "a2", "b1", "b2"}, ids); diff != "" {
			t.Errorf("after %d swaps (-want +got):\n%s", swaps, diff)
		}
	}
}

func TestFilesWithoutMarks(t *testing.T) {
	j := openJournal(t, t.TempDir())
	if _, err := j.Other.Append(journalOf(t, ledgertest.Example("a"))); err != nil {
		t.Fatal(err)
	}
	files, err := inOrder([]*File{j.Current, j.Other})
	if err != nil || files[0] != j.Current || files[1] != j.Other {
		t.Errorf("files %v, %v; want the current one first", files, err)
	}
}

// TestProbeLeavesTheFile: what is written to try the disk is no record, and gone.
func TestProbeLeavesTheFile(t *testing.T) {
	j := openJournal(t, t.TempDir())
	if _, err := j.Current.Append(journalOf(t, ledgertest.Example("a"))); err != nil {
		t.Fatal(err)
	}
	size := j.Current.Size()
	if err := j.Current.Probe(1<<16, true); err != nil {
		t.Error(err)
	}
	info, err := j.Current.file.Stat()
	if err != nil || info.Size() != size || j.Current.Size() != size {
		t.Errorf("%d and %d bytes, %v; want %d", info.Size(), j.Current.Size(), err, size)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Current.Probe(1, false); err == nil {
		t.Error("a closed file takes bytes")
	}
}
