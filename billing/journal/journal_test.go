package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func journalOf(t testing.TB, records ...*billing.Record) []byte {
	t.Helper()
	var data []byte
	for _, r := range records {
		var err error
		if data, err = AppendFrame(data, r); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func readJournal(t testing.TB, data []byte) (records []billing.Record, rest int) {
	t.Helper()
	records, length, err := readFrames(bytes.NewReader(data), 0, int64(len(data)), math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	return records, len(data) - int(length)
}

func TestJournalCutAnywhere(t *testing.T) {
	records := []*billing.Record{ledgertest.Example("a"), ledgertest.Example("b"), ledgertest.Example("c")}
	whole := journalOf(t, records...)
	var ends []int
	for i := range records {
		ends = append(ends, len(journalOf(t, records[:i+1]...)))
	}
	for cut := range len(whole) + 1 {
		complete, rest := 0, cut
		for i, end := range ends {
			if cut >= end {
				complete, rest = i+1, cut-end
			}
		}
		got, gotRest := readJournal(t, whole[:cut])
		if len(got) != complete || gotRest != rest {
			t.Fatalf("cut at %d: %d records and %d bytes, want %d and %d", cut, len(got), gotRest, complete, rest)
		}
		for i := range got {
			if diff := cmp.Diff(*records[i], got[i]); diff != "" {
				t.Fatalf("cut at %d (-want +got):\n%s", cut, diff)
			}
		}
	}
}

func TestJournalWithAnyByteWrong(t *testing.T) {
	first := journalOf(t, ledgertest.Example("a"))
	whole := journalOf(t, ledgertest.Example("a"), ledgertest.Example("b"))
	for at := range whole {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x10
		want := 0
		if at >= len(first) {
			want = 1
		}
		if got, _ := readJournal(t, damaged); len(got) != want {
			t.Fatalf("byte %d wrong: %d records, want %d", at, len(got), want)
		}
	}
	if got, rest := readJournal(t, append(bytes.Clone(first), make([]byte, 4096)...)); len(got) != 1 || rest != 4096 {
		t.Errorf("zeros at the end: %d records, %d bytes; want 1 and 4096", len(got), rest)
	}
}

func TestAnyRecordIsDecodedAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want billing.Record
		for i, kept := range billing.Fields {
			if at, isTime := kept.Of(&want).(*time.Time); isTime {
				*at = time.Unix(0, rapid.Int64().Draw(t, kept.Name)).UTC()
				continue
			}
			field := reflect.ValueOf(kept.Of(&want)).Elem()
			switch name := fmt.Sprint(i); field.Kind() {
			case reflect.String:
				field.SetString(rapid.String().Draw(t, name))
			case reflect.Bool:
				field.SetBool(rapid.Bool().Draw(t, name))
			default:
				field.SetInt(rapid.Int64().Draw(t, name))
			}
		}
		var got billing.Record
		if !Decode(Encode(nil, &want), &got) {
			t.Fatal("not decoded")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func FuzzFrames(f *testing.F) {
	whole := journalOf(f, ledgertest.Example("a"))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		// Past the checksum, which no fuzzer gets by.
		var r billing.Record
		if Decode(data, &r) {
			var again billing.Record
			if !Decode(Encode(nil, &r), &again) || !cmp.Equal(r, again) {
				t.Errorf("%+v became %+v", r, again)
			}
		}
		if _, rest := readJournal(t, data); rest < 0 {
			t.Errorf("frames of %d bytes in %d", len(data)-rest, len(data))
		}
	})
}

// TestFileIsReadInParts appends behind an unfinished frame, which Cut has taken
// away, and reads what there is in parts.
func TestFileIsReadInParts(t *testing.T) {
	dir := t.TempDir()
	whole := journalOf(t, ledgertest.Example("a"), ledgertest.Example("b"), ledgertest.Example("c"))
	if err := os.WriteFile(filepath.Join(dir, "journal-0"), append(whole, whole[:100]...), 0o600); err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, dir)
	f := j.Current
	_, end, err := f.Read(0, f.Size(), math.MaxInt)
	if err != nil || end != int64(len(whole)) || f.Size() != end+100 {
		t.Fatalf("end %d of %d, error %v; want %d of %d", end, f.Size(), err, len(whole), len(whole)+100)
	}
	if err := f.Cut(end); err != nil {
		t.Fatal(err)
	}
	position, err := f.Append(journalOf(t, ledgertest.Example("d")))
	if err != nil {
		t.Fatal(err)
	}
	if err := position.Sync(); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	f = openJournal(t, dir).Current
	var ids []string
	for from := int64(0); ; {
		records, end, err := f.Read(from, f.Size(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			break
		}
		for i := range records {
			ids = append(ids, records[i].ID)
		}
		from = end
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, ids); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if err := f.Empty(); err != nil || f.Size() != 0 {
		t.Errorf("%d bytes after Empty, error %v", f.Size(), err)
	}
}

func openJournal(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// TestNewerProgramsFields: what a later version appends to a record does not keep
// this one from reading it.
func TestNewerProgramsFields(t *testing.T) {
	want := *ledgertest.Example("a")
	var got billing.Record
	if !Decode(append(Encode(nil, &want), "more"...), &got) {
		t.Fatal("not decoded")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestOlderProgramsRecords: what an earlier version wrote lacks the last fields, all of
// them or some, and is read into whatever there was before.
func TestOlderProgramsRecords(t *testing.T) {
	for _, number := range []int64{0, 1, 63, 64, 1 << 40} {
		want := *ledgertest.Example("a")
		want.UserNumber = number
		whole := Encode(nil, &want)
		without := whole[:len(whole)-len(binary.AppendVarint(nil, number))]
		want.UserNumber = 0
		got := billing.Record{ID: "of before", UserNumber: 7, Settled: time.Unix(5, 0), Unpriced: true}
		if !Decode(without, &got) {
			t.Fatal("not decoded")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		for cut := range without {
			if Decode(without[:cut], &got) {
				t.Fatalf("a record was made of its first %d bytes of %d", cut, len(without))
			}
		}
		if number > 63 && Decode(whole[:len(whole)-1], &got) {
			t.Error("a record was made of a part of its number")
		}
	}
}

// TestRecordOfTheFirstProgram reads bytes that the first version wrote.
func TestRecordOfTheFirstProgram(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "record-33-fields"))
	if err != nil {
		t.Fatal(err)
	}
	want := *ledgertest.Example("0192f7c4-5d0e-7cc1-98a0-6b1d3a1f4e55")
	want.Time = time.Date(2026, 11, 1, 2, 3, 4, 5, time.UTC)
	records, rest := readJournal(t, data)
	if len(records) != 1 || rest != 0 {
		t.Fatalf("%d records, and %d bytes", len(records), rest)
	}
	if diff := cmp.Diff(want, records[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			f, err := OpenFile(filepath.Join(b.TempDir(), "journal"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			r := ledgertest.Example("0192f7c4-5d0e-7cc1-98a0-6b1d3a1f4e55")
			var frame []byte
			b.ReportAllocs()
			for b.Loop() {
				frame, _ = AppendFrame(frame[:0], r)
				position, err := f.Append(frame)
				if err == nil && sync {
					err = position.Sync()
				}
				if err != nil {
					b.Fatal(err)
				}
				if f.Size() > 256<<20 {
					if err := f.Empty(); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.SetBytes(int64(len(frame)))
		})
	}
}
