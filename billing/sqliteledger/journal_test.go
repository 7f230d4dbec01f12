package sqliteledger

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

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
		if data, err = appendFrame(data, r); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func readJournal(t testing.TB, data []byte) (records []billing.Record, rest int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if records, rest, err = (&journalFile{file: file}).read(); err != nil {
		t.Fatal(err)
	}
	return records, rest
}

func TestJournalCutAnywhere(t *testing.T) {
	records := []*billing.Record{exampleRecord("a"), exampleRecord("b"), exampleRecord("c")}
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
	first := journalOf(t, exampleRecord("a"))
	whole := journalOf(t, exampleRecord("a"), exampleRecord("b"))
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
		nanos := rapid.Int64().Draw(t, "time")
		columns := targets(&want, &nanos)
		for i, column := range columns {
			if i == 1 { // the time
				continue
			}
			field := reflect.ValueOf(column).Elem()
			switch name := fmt.Sprint(i); field.Kind() {
			case reflect.String:
				field.SetString(rapid.String().Draw(t, name))
			case reflect.Bool:
				field.SetBool(rapid.Bool().Draw(t, name))
			default:
				field.SetInt(rapid.Int64().Draw(t, name))
			}
		}
		want.Time = unixNano(nanos)
		var got billing.Record
		if !decode(encode(nil, &want), &got) {
			t.Fatal("not decoded")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func TestEveryFieldOfARecordIsKept(t *testing.T) {
	var r billing.Record
	var nanos int64
	kept := map[any]bool{}
	for _, column := range targets(&r, &nanos) {
		kept[column] = true
	}
	fields := reflect.ValueOf(&r).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Name
		if name != "Time" && !kept[fields.Field(i).Addr().Interface()] {
			t.Errorf("field %s has no column", name)
		}
	}
	if len(kept) != fields.NumField() || len(kept) != len(columns) {
		t.Errorf("%d columns in targets and %d names for %d fields", len(kept), len(columns), fields.NumField())
	}
}

func FuzzFirstFrame(f *testing.F) {
	whole := journalOf(f, exampleRecord("a"))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		// Past the checksum, which no fuzzer gets by.
		var r billing.Record
		if decode(data, &r) {
			var again billing.Record
			if !decode(encode(nil, &r), &again) || !cmp.Equal(r, again) {
				t.Errorf("%+v became %+v", r, again)
			}
		}
		if _, n := firstFrame(data); n > len(data) {
			t.Errorf("a frame of %d bytes in %d", n, len(data))
		}
	})
}

// TestOpenTakesOverTheJournal opens what a killed process may leave: records
// in both files, some of them in the database already, and an unfinished one.
func TestOpenTakesOverTheJournal(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if err := l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: 1000}}); err != nil {
		t.Fatal(err)
	}
	made := func(id, user string) *billing.Record {
		r := exampleRecord(id)
		r.User, r.Charged = user, 10
		return r
	}
	if err := l.Settle(t.Context(), made("a", "alice")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	torn := journalOf(t, made("d", "alice"))
	for name, data := range map[string][]byte{
		"journal-0": journalOf(t, made("a", "alice"), made("b", "alice"), made("b", "alice")),
		"journal-1": append(journalOf(t, made("b", "alice"), made("c", "lost-by-the-database")), torn[:len(torn)-1]...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time, nothing is left to take over
		l = open(t, dir, Options{})
		var ids []string
		for _, r := range ledgertest.List(t, l, billing.RecordFilter{}) {
			ids = append(ids, r.ID)
		}
		if diff := cmp.Diff([]string{"c", "b", "a"}, ids); len(ids) != 3 {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		for user, want := range map[string]billing.USD{"alice": 980, "lost-by-the-database": -10} {
			if got, err := l.Balance(t.Context(), user); err != nil || got.Amount != want {
				t.Errorf("balance of %s: %s, %v; want %s", user, got.Amount, err, want)
			}
		}
		checkIdentity(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"journal-0", "journal-1"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != 0 {
			t.Errorf("%s: %v, %v; want it empty", name, info, err)
		}
	}
}
