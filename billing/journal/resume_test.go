package journal

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// TestResumeOfWhatWasLeft: whichever files have records, those begun last are the
// current ones, and order lasts over one resumption after the other.
func TestResumeOfWhatWasLeft(t *testing.T) {
	type step struct {
		journal int // it takes a record; -1 = both swap
	}
	swap := step{-1}
	for _, test := range []struct {
		name             string
		steps            []step
		currents, others []string
	}{
		{"nothing", nil, nil, nil},
		{"one file", []step{{0}, {0}}, []string{"0", "1"}, nil},
		{"all files", []step{{0}, {1}, swap, {1}, {0}}, []string{"4", "3"}, []string{"0", "1"}},
		{"only what was swapped away", []step{{0}, {1}, swap}, []string{"0", "1"}, nil},
		{"one that took nothing since", []step{{0}, {1}, swap, {1}}, []string{"3"}, []string{"0", "1"}},
		{"one that took nothing before", []step{{1}, swap, {0}}, []string{"2"}, []string{"0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			open := func() []*Journal {
				first, err := Open(dir, 0)
				if err != nil {
					t.Fatal(err)
				}
				second, err := Open(dir, 1)
				if err != nil {
					t.Fatal(err)
				}
				return []*Journal{first, second}
			}
			journals := open()
			resume(t, journals...)
			for i, step := range test.steps {
				if step == swap {
					journals[0].Swap()
					journals[1].Swap()
					continue
				}
				if _, err := journals[step.journal].Current.Append(journalOf(t, ledgertest.Example(fmt.Sprint(i)))); err != nil {
					t.Fatal(err)
				}
			}
			for again := range 3 {
				for _, j := range journals {
					if err := j.Close(); err != nil {
						t.Fatal(err)
					}
				}
				journals = open()
				currents, others := resume(t, journals...)
				if diff := cmp.Diff(map[string][]string{"currents": test.currents, "others": test.others},
					map[string][]string{"currents": ids(t, currents), "others": ids(t, others)}); diff != "" {
					t.Errorf("resumed %d times (-want +got):\n%s", again, diff)
				}
				for _, j := range journals {
					if j.Current == j.Other {
						t.Error("one file is both")
					}
				}
			}
		})
	}
}

// ids are those of the files' records.
func ids(t *testing.T, files []*File) (all []string) {
	t.Helper()
	for _, f := range files {
		records, end, err := f.Read(0, f.Size(), math.MaxInt)
		if err != nil || f.End().size != end {
			t.Fatalf("end %d of %d, %v", end, f.End().size, err)
		}
		for i := range records {
			all = append(all, records[i].ID)
		}
	}
	return all
}

// TestResumeOfFilesWithoutMarks: of a journal of the first version, the file that is
// found as the current one is the older.
func TestResumeOfFilesWithoutMarks(t *testing.T) {
	dir := t.TempDir()
	for i, id := range []string{"older", "newer"} {
		if err := os.WriteFile(filepath.Join(dir, fileName(i)), journalOf(t, ledgertest.Example(id)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	currents, others := resume(t, openJournal(t, dir))
	if got := append(ids(t, others), ids(t, currents)...); !cmp.Equal(got, []string{"older", "newer"}) || len(currents) != 1 {
		t.Errorf("records %q in %d and %d files", got, len(others), len(currents))
	}
}
