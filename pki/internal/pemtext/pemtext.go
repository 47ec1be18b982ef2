// Package pemtext reads PEM out of text that people paste, and finds private
// keys that have no business there.
//
// It takes what encoding/pem does not: blocks whose line breaks are gone, as
// "curl -d @file" makes of them, and text around the blocks. It refuses what
// encoding/pem skips without a word: a block that has no end, or that is not
// base64.
package pemtext

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// Block is one PEM block.
type Block struct {
	Type  string
	Bytes []byte
}

// ErrTooMany means that there are more blocks than the caller takes.
var ErrTooMany = errors.New("too many PEM blocks")

const (
	begin = "-----BEGIN "
	end   = "-----END "
	dash  = "-----"
	// maxType bounds the label of a block.
	maxType = 64
)

// Blocks returns the PEM blocks in a text, at most limit of them.
func Blocks(text []byte, limit int) ([]Block, error) {
	var out []Block
	for {
		i := bytes.Index(text, []byte(begin))
		if i < 0 {
			return out, nil
		}
		if len(out) == limit {
			return nil, fmt.Errorf("%w: more than %d", ErrTooMany, limit)
		}
		text = text[i+len(begin):]
		n := bytes.Index(text, []byte(dash))
		if n < 0 || n > maxType {
			return nil, fmt.Errorf("PEM block %d: the BEGIN line does not end", len(out)+1)
		}
		label := string(text[:n])
		text = text[n+len(dash):]
		tail := end + label + dash
		n = bytes.Index(text, []byte(tail))
		if n < 0 {
			return nil, fmt.Errorf("PEM block %d (%.64q): no END line", len(out)+1, label)
		}
		der, err := decode(text[:n])
		if err != nil {
			return nil, fmt.Errorf("PEM block %d (%.64q): %w", len(out)+1, label, err)
		}
		out = append(out, Block{Type: label, Bytes: der})
		text = text[n+len(tail):]
	}
}

// decode reads base64 without regard to white space.
func decode(body []byte) ([]byte, error) {
	packed := bytes.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n':
			return -1
		}
		return r
	}, body)
	if len(packed) == 0 {
		return nil, errors.New("it is empty")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(string(packed))
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	return der, nil
}
