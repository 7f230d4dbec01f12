package sqliteledger

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// TestNobodyWaitsForAnothersWrite: all shards but one are in a write.
func TestNobodyWaitsForAnothersWrite(t *testing.T) {
	l := openWithAlice(t, t.TempDir())
	defer l.Close()
	for busy := range l.shards[1:] {
		l.shards[busy].mu.Lock()
		if err := l.Settle(t.Context(), childRecord(fmt.Sprint(busy)), nil); err != nil {
			t.Error(err)
		}
	}
	if got := l.shards[len(l.shards)-1].Current.Size(); got == 0 {
		t.Error("the last shard has no record")
	}
	l.shards[:len(l.shards)-1].unlock()
	wantSettled(t, l, len(l.shards)-1)
	check(t, l)
}

// TestSettledTwiceAtOnce: while one caller writes the record, another comes with the
// same. Each has told itself that it is new.
func TestSettledTwiceAtOnce(t *testing.T) {
	l := openWithAlice(t, t.TempDir())
	defer l.Close()
	r := childRecord("a")
	frame := journalOf(t, r)
	first := l.shards.locked()
	late := &settled{Record: *r}
	if _, err := l.expect(late, l.mostWaiting); err != nil {
		t.Fatal(err)
	}
	if err := l.Settle(t.Context(), r, nil); err != nil { // over another shard
		t.Fatal(err)
	}
	if _, err := l.keep(first, late, frame); err != nil {
		t.Fatal(err)
	}
	first.mu.Unlock()
	wantSettled(t, l, 1)
	if got := ledgertest.List(t, l, billing.RecordFilter{}); len(got) != 1 {
		t.Errorf("%d records, want 1", len(got))
	}
	check(t, l)
}

// TestLanesOfAnEarlierProcess: one that had more cores, or none but the first.
func TestShardsOfAnEarlierProcess(t *testing.T) {
	for _, count := range []int{1, mostShards + 3} {
		dir := t.TempDir()
		if err := openWithAlice(t, dir).Close(); err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range count {
			j, err := journal.Open(dir, i)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := journal.Resume([]*journal.Journal{j}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				id := fmt.Sprintf("%03d", len(want))
				want = append(want, id)
				if _, err := j.Current.Append(journalOf(t, childRecord(id))); err != nil {
					t.Fatal(err)
				}
				j.Swap()
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		l := open(t, dir, Options{})
		var got []string
		for _, r := range ledgertest.List(t, l, billing.RecordFilter{}) {
			got = append(got, r.ID)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		check(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "journal-*"))
		if err != nil || len(files) != 2*len(l.shards) || len(files) < 2*count {
			t.Errorf("%d files of %d shards, %v", len(files), len(l.shards), err)
		}
		for _, name := range files {
			if info, err := os.Stat(name); err != nil || info.Size() > 0 {
				t.Errorf("%s is not empty, %v", name, err)
			}
		}
	}
}
