//go:build unix

package sqliteledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
)

func init() { jobsOfChildren["nobody"] = openAsNobody }

const nobody = 65534

// openAsNobody is a child's job: it opens a ledger as a user without rights, and
// prints the error.
func openAsNobody(dir string) error {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
		return err
	}
	l, err := Open(context.Background(), dir, Options{})
	if err == nil {
		return l.Close()
	}
	fmt.Println(errors.Is(err, billing.ErrUnwritable), err)
	return nil
}

// TestOpenIsDenied: the error names the file or directory, its owner, and who needs
// what.
func TestOpenIsDenied(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to become another user")
	}
	mode := func(mode fs.FileMode) func(path string) error {
		return func(path string) error { return os.Chmod(path, mode) }
	}
	ofRoot := func(mode fs.FileMode) func(path string) error {
		return func(path string) error { return errors.Join(os.Chown(path, 0, 0), os.Chmod(path, mode)) }
	}
	for _, test := range []struct {
		name, path string // below the directory above the store
		spoil      func(path string) error
		want       string // PATH is the path
	}{
		{"directory that others may only read", "store", ofRoot(0o755), "write to the directory PATH"},
		{"directory that others may not enter", "store", ofRoot(0o700), "enter the directory PATH"},
		{"directory that is not to be changed", "store", mode(0o500), "write to the directory PATH"},
		{"directory above is another's", "", func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Join(path, "store")), ofRoot(0o755)(path))
		}, "write to the directory PATH"},
		{"directory above may not be entered", "", ofRoot(0o700), "enter the directory PATH"},
		{"database is another's", "store/ledger.db", ofRoot(0o600), "read and write the file PATH"},
		{"database may only be read", "store/ledger.db", ofRoot(0o644), "read and write the file PATH"},
		{"database may only be read, and there is nothing to write", "store/ledger.db", func(path string) error {
			journals, err := filepath.Glob(filepath.Join(filepath.Dir(path), "journal-*"))
			for _, journal := range journals {
				err = errors.Join(err, os.Truncate(journal, 0))
			}
			return errors.Join(err, ofRoot(0o644)(path))
		}, "read and write the file PATH"},
		{"write-ahead log is another's", "store/ledger.db-wal", ofRoot(0o600), "read and write the file PATH"},
		{"write-ahead log may only be read", "store/ledger.db-wal", ofRoot(0o644), "read and write the file PATH"},
		{"lock is another's", "store/lock.db", ofRoot(0o600), "read and write the file PATH"},
		{"journal is another's", "store/journal-1", ofRoot(0o600), "read and write the file PATH"},
		{"journal may only be read", "store/journal-1", ofRoot(0o644), "read and write the file PATH"},
	} {
		t.Run(test.name, func(t *testing.T) {
			temporary := t.TempDir()
			above := filepath.Join(temporary, "above")
			store := filepath.Join(above, "store")
			runAndKill(t, store, 10)
			err := filepath.WalkDir(above, func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Chown(path, nobody, nobody))
			})
			path := filepath.Join(above, test.path)
			if test.path == "store" { // what is there needs no new files
				err = errors.Join(err, removeAll(store, "ledger.db-wal", "ledger.db-shm"))
			}
			if err := errors.Join(err, test.spoil(path), os.Chmod(filepath.Dir(temporary), 0o755)); err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childDir+"="+store, childJob+"=nobody")
			var complaints bytes.Buffer
			child.Stderr = &complaints
			output, err := child.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, complaints.String())
			}
			got := string(output)
			for _, part := range []string{
				"true ", "uid 65534", "permission denied", strings.ReplaceAll(test.want, "PATH", path) + ", which is that of ",
			} {
				if !strings.Contains(got, part) {
					t.Errorf("%q does not say %q", got, part)
				}
			}
		})
	}
}

func removeAll(dir string, names ...string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}
