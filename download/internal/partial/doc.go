// Package partial is an image on its way: the file that grows, which of its
// chunks are verified, which of them are durable, and what is being written at
// this moment.
//
// Four files stand beside the final name F while a download lasts:
//
//	F.part          the bytes, each chunk at its place; its lock says who owns the download
//	F.part.journal  which chunks were verified and synced (journal.go has the format)
//	F.part.hint     how far each other chunk was written; never synced, never trusted
//	F.mooring       the signed manifest and the chunk list; it stays beside the finished image
//
// The order is always: data, fdatasync, journal (temporary file, fsync, rename,
// fsync of the directory). So the journal never claims what a power cut can take
// away. A killed process loses less: the hint file says which bytes the page
// cache still holds, and they are hashed again before they count.
//
// A journal of another file (the partial file was removed or cut, or another image
// was begun under the name) is replaced, durably, before the file grows.
//
// The hash of a chunk runs in the goroutine that writes it, so as many chunks
// are hashed at once as are in flight. No byte is hashed twice, with one
// exception: what an earlier process verified is hashed once more before the
// image gets its final name. A journal is not a digest, and a reboot lies between.
package partial
