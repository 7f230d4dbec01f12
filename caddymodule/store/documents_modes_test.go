//go:build unix

package store

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestDocumentsArePrivate whatever the umask is, and whoever put them there.
func TestDocumentsArePrivate(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		for _, left := range []bool{false, true} {
			t.Run(fmt.Sprintf("umask %03o, left %v", umask, left), func(t *testing.T) {
				p := filePlace(t.TempDir())
				if left { // by an operator who put a backup in place
					mustSave(t, mustOpen(t, p, nil), TokenDocuments, "before", "SECRET")
					if err := os.Chmod(p.path(TokenDocuments, "before"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				func() {
					defer syscall.Umask(syscall.Umask(umask))
					mustSave(t, mustOpen(t, p, keyOf(1)), TokenDocuments, "main", "SECRET")
				}()
				files := 0
				err := filepath.WalkDir(string(p), func(path string, entry fs.DirEntry, err error) error {
					if err != nil || path == string(p) {
						return err
					}
					info, err := entry.Info()
					if err != nil {
						return err
					}
					want := fs.FileMode(0o600)
					if info.IsDir() {
						want = fs.ModeDir | 0o700
					} else {
						files++
					}
					if info.Mode() != want {
						t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
					}
					return nil
				})
				if err != nil || files < 2 {
					t.Errorf("%d files, %v", files, err)
				}
			})
		}
	}
}
