package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Explain adds to what the operating system said of a file or directory (an
// *fs.PathError somewhere in err) which of them is in the way, and what to do. Where
// it has nothing to add it returns err.
func Explain(err error) error {
	path, ok := errors.AsType[*fs.PathError](err)
	if !ok {
		return err
	}
	more := ""
	switch {
	case errors.Is(path, fs.ErrPermission):
		more = denied(path.Path)
	case errors.Is(path, syscall.EROFS):
		more = fmt.Sprintf("the file system of %s is mounted read-only: mount it for writing, or name a directory elsewhere", path.Path)
	case errors.Is(path, syscall.ENOTDIR):
		more = fmt.Sprintf("%s is a file: move it away, or name another directory", fileAbove(path.Path))
	case errors.Is(path, syscall.EISDIR):
		more = fmt.Sprintf("there must be a file of that name, or nothing: move the directory %s away", path.Path)
	}
	if more == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, more)
}

// IsRefusal reports whether the operating system keeps this process from a file or
// directory that may be in order otherwise.
func IsRefusal(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// denied says which user needs what of which file or directory.
func denied(path string) string {
	needs := ""
	at := path
	for below := error(nil); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case err != nil && at == filepath.Dir(at):
			return ""
		case err != nil:
			below = err
			continue
		case below == nil && !info.IsDir():
			needs = "read and write the file " + at
		case below == nil:
			needs = "read, write and enter the directory " + at
		case errors.Is(below, fs.ErrPermission):
			needs = "enter the directory " + at
		default:
			needs = "write to the directory " + at
		}
		return fmt.Sprintf("%s must be allowed to %s, which is %s: change its owner or its mode", thisUser(), needs, ownership(info))
	}
}

// fileAbove is the first part of a path that is no directory.
func fileAbove(path string) string {
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		if info, err := os.Stat(at); err == nil && !info.IsDir() {
			return at
		}
	}
	return path
}

func thisUser() string {
	uid := os.Geteuid()
	if uid < 0 {
		return "the user of this process"
	}
	return "the user of this process, " + userName(strconv.Itoa(uid)) + ","
}

func userName(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("%s (uid %s)", u.Username, uid)
	}
	return "uid " + uid
}
