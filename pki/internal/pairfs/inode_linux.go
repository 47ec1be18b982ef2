package pairfs

import (
	"fmt"
	"io/fs"
	"syscall"
)

// inode tells a file that was replaced by a rename from the one before it, even
// when time and size are the same.
func inode(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d.%d", st.Ino, st.Ctim.Nano())
	}
	return ""
}
