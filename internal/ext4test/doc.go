// Package ext4test makes ext4 file systems with the encrypt feature for tests,
// each in a file on a loop device. It needs root; where loop devices are missing
// the test says so and is skipped.
//
// The tests run in a mount name space of their own, which [Main] makes: a mount
// that any other process holds a copy of stays alive after it is unmounted, and
// the encryption keys with it.
package ext4test
