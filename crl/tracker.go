package crl

import (
	"errors"
	"io"
)

// tracker remembers the error of a transfer, to tell it from an error of the
// list that was transferred.
type tracker struct {
	r   io.Reader
	err error
}

func (t *tracker) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}
