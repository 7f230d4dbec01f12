//go:build !linux

package redistest

import "syscall"

// endWithThread has no means here: only the test's end ends the process.
func endWithThread() *syscall.SysProcAttr { return nil }
