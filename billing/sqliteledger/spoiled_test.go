package sqliteledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestOpenOfASpoiledStore: the error names the file or directory, and what to do.
func TestOpenOfASpoiledStore(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(dir string) error
		want  []string // DIR is the store's
	}{
		{"file in place of the directory", func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
		}, []string{"DIR is a file", "move it away"}},
		{"file above the directory", func(dir string) error {
			above := filepath.Dir(dir)
			return errors.Join(os.RemoveAll(above), os.WriteFile(above, nil, 0o600))
		}, []string{"above is a file", "move it away"}},
		{"directory in place of the database", inPlaceOf("ledger.db"), []string{"move the directory DIR/ledger.db away"}},
		{"directory in place of the lock", inPlaceOf("lock.db"), []string{"move the directory DIR/lock.db away"}},
		{"directory in place of a journal", inPlaceOf("journal-1"), []string{"move the directory DIR/journal-1 away"}},
		{"no database", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "ledger.db"), []byte(strings.Repeat("no database ", 1000)), 0o600)
		}, []string{"DIR/ledger.db is not a SQLite database", "backup"}},
		{"damaged database", func(dir string) error {
			file, err := os.OpenFile(filepath.Join(dir, "ledger.db"), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = file.WriteAt(make([]byte, 3000), 100) // behind its header
			return errors.Join(err, file.Close())
		}, []string{"DIR/ledger.db is damaged", "backup", ".recover"}},
		{"database of a newer program", func(dir string) error {
			c, err := connect(context.Background(), filepath.Join(dir, "ledger.db"))
			if err != nil {
				return err
			}
			_, err = c.exec(context.Background(), "PRAGMA user_version = 1000")
			return errors.Join(err, c.Close())
		}, []string{"DIR", "schema version 1000", "newer program"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "above", "store")
			l := openWithAlice(t, dir)
			mustSettle(t, l, "a")
			if err := errors.Join(l.Close(), test.spoil(dir)); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), dir, Options{})
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, part := range test.want {
				if part = strings.ReplaceAll(part, "DIR", dir); !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if errors.Is(err, billing.ErrUnwritable) { // nothing that passes
				t.Errorf("%v is an ErrUnwritable", err)
			}
		})
	}
}

func inPlaceOf(name string) func(dir string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
	}
}
