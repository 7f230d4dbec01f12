package redistest

import "syscall"

// endWithThread lets the kernel kill the process when the thread that started it
// ends, at the latest with the test's process, however that ends.
func endWithThread() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
