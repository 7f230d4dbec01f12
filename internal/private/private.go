// Package private makes files and directories that nobody but their owner may use,
// whatever the umask, and says what is amiss where that fails.
package private

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// The modes of what this package makes.
const (
	FileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o700
)

// MkdirAll makes a directory, and those above it that are missing, with mode 0700.
// One that is there keeps its mode: it is its maker's to say who else may enter.
func MkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	switch err := os.Mkdir(dir, dirMode); {
	case err == nil:
		return os.Chmod(dir, dirMode) // a umask may have taken more than it should
	case errors.Is(err, fs.ErrExist):
		return os.MkdirAll(dir, dirMode) // for its error, or because somebody was quicker
	default:
		return err
	}
}

// Create makes an empty file of mode 0600 where there is none, and tightens one
// that is there. It opens no file that is there: closing it again would end the
// locks that SQLite holds on it for this process.
func Create(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, FileMode)
	if err == nil {
		err = file.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	Tighten(path)
	return nil
}

// Tighten gives a file mode 0600, if there is one. It does what it can: some file
// systems have no modes, and a file may be another user's, who alone can change it.
// Loose finds what it could not do.
func Tighten(path string) {
	if isLoose(path, func(mode fs.FileMode) bool { return mode != FileMode }) {
		_ = os.Chmod(path, FileMode)
	}
}

// Loose reports whether there is a file that others than its owner may use.
func Loose(path string) bool {
	return isLoose(path, func(mode fs.FileMode) bool { return mode&^FileMode != 0 })
}

func isLoose(path string, is func(fs.FileMode) bool) bool {
	if runtime.GOOS == "windows" { // it has no modes; the directory's rights are the files'
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && is(info.Mode().Perm())
}

// SyncDirectory makes the names of new files in dir survive a power failure.
// Windows does so by itself, and can't sync a directory.
func SyncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
