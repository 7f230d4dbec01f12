//go:build unix

package private

import (
	"fmt"
	"io/fs"
	"strconv"
	"syscall"
)

// ownership is whose a file is, and its mode.
func ownership(info fs.FileInfo) string {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("that of %s, mode %v", userName(strconv.FormatUint(uint64(stat.Uid), 10)), info.Mode())
	}
	return fmt.Sprintf("of mode %v", info.Mode())
}
