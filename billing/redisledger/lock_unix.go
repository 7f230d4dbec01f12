//go:build unix && !aix && (!solaris || illumos)

package redisledger

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lockFile locks a file, which is made where it doesn't exist, until it is closed
// or the process ends. errHeld if somebody else has locked it.
func lockFile(path string) (io.Closer, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		err = errHeld
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
