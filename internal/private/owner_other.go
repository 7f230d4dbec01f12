//go:build !unix

package private

import (
	"fmt"
	"io/fs"
)

// ownership is the mode of a file; whose it is, is not known here.
func ownership(info fs.FileInfo) string { return fmt.Sprintf("of mode %v", info.Mode()) }
