// Package secmem holds key material in memory that is locked against swapping,
// left out of core dumps, wiped in a forked child, and wiped when it is given
// back. It lives outside of the Go heap, so the garbage collector never copies
// it.
package secmem
