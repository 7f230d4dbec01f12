//go:build unix

package sqliteledger

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sub2api/caddy-sub2api/internal/private"
)

// wantModes checks all that is in a directory while and after it is in use.
func wantModes(t *testing.T, dir string) {
	t.Helper()
	count := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		count++
		if info.Mode() != private.FileMode {
			t.Errorf("%s has mode %v, want 0600", path, info.Mode())
		}
		return nil
	})
	if err != nil || count < 10 { // ledger.db, its WAL and index, lock.db, and the journal's
		t.Errorf("%d files, %v", count, err)
	}
}

// TestFilesArePrivate whatever the umask is, whoever made the directory, and whatever
// an earlier version left.
func TestFilesArePrivate(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		for _, test := range []struct {
			name string
			made fs.FileMode // by the operator; 0 = not
			left bool        // the files are there, with mode 0644
			want fs.FileMode
		}{
			{"new", 0, false, 0o700},
			{"the operator's", 0o755, false, 0o755},
			{"the operator's, closed", 0o700, false, 0o700},
			{"of an earlier version", 0o755, true, 0o755},
		} {
			t.Run(fmt.Sprintf("umask %03o, %s", umask, test.name), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "above", "store")
				if test.made != 0 {
					if err := os.MkdirAll(dir, 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.Chmod(dir, test.made); err != nil {
						t.Fatal(err)
					}
				}
				if test.left {
					leaveLoose(t, dir)
				}
				l := openUnder(t, umask, dir)
				wantModes(t, dir)
				for path, want := range map[string]fs.FileMode{dir: test.want, filepath.Dir(dir): 0o700} {
					if test.made != 0 && path != dir {
						continue
					}
					if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
						t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, want)
					}
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// openUnder opens and uses a ledger.
func openUnder(t *testing.T, umask int, dir string) *Ledger {
	t.Helper()
	defer syscall.Umask(syscall.Umask(umask))
	l := openWithAlice(t, dir)
	mustSettle(t, l, "a")
	if err := l.flush(); err != nil {
		t.Error(err)
	}
	return l
}

// leaveLoose leaves what a killed process of an earlier version did: files of mode
// 0644, the WAL among them.
func leaveLoose(t *testing.T, dir string) {
	t.Helper()
	runAndKill(t, dir, 10)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Chmod(name, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if list := strings.Join(names, " "); !strings.Contains(list, "ledger.db-wal") || !strings.Contains(list, "ledger.db-shm") {
		t.Errorf("the killed process left %s", list)
	}
}
