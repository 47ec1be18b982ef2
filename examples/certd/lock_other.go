//go:build !unix

package main

import "errors"

// lockFile is there so that the program builds; package pki does not open a
// directory on such systems.
func lockFile(string) (unlock func(), err error) {
	return nil, errors.New("locks between processes are not supported on this system")
}
