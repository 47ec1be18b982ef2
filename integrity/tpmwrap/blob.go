package tpmwrap

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// kind is how the TPM decides. The values are part of the file format.
type kind uint8

const (
	kindNone    kind = 1
	kindLiteral kind = 2
	kindSigned  kind = 3
)

// form is what the wrapped key is. The values are part of the file format.
type form uint8

const (
	formSealed form = 1
	// formOAEP is a ciphertext together with the TPM key that decrypts it.
	formOAEP form = 2
	// formHandle is a ciphertext for a key that lives in the TPM.
	formHandle form = 3
)

const blobVersion = 1

// blob is a wrapped key as it is on disk. It is checked by the TPM, not by
// itself: a changed blob does not open, and a changed hint makes a diagnosis
// wrong.
type blob struct {
	form   form
	kind   kind
	parent Parent
	// srk and ek are names: the first is pinned, the second tells a cleared TPM
	// from another one.
	srk, ek []byte
	// state is the boot state at the time of wrapping, which a literal policy
	// asks for.
	state pcrpolicy.Alternative
	// public and private are the TPM's forms of the sealed object or of the
	// decryption key; for formHandle public is the key's name.
	public, private []byte
	handle          uint32
	ciphertext      []byte
}

func (b *blob) marshal() ([]byte, error) {
	var w cryptobyte.Builder
	w.AddUint8(blobVersion)
	w.AddUint8(uint8(b.form))
	w.AddUint8(uint8(b.kind))
	w.AddUint8(uint8(b.parent))
	field(&w, b.srk)
	field(&w, b.ek)
	field(&w, []byte(b.state.Bank))
	w.AddUint8LengthPrefixed(func(w *cryptobyte.Builder) {
		for _, p := range b.state.PCRs {
			w.AddUint8(uint8(p.Index))
		}
	})
	for _, p := range b.state.PCRs {
		field(&w, p.Value)
	}
	field(&w, b.public)
	field(&w, b.private)
	w.AddUint32(b.handle)
	field(&w, b.ciphertext)
	out, err := w.Bytes()
	if err != nil {
		return nil, fmt.Errorf("tpmwrap: wrapped key: %w", err)
	}
	return out, nil
}

func field(w *cryptobyte.Builder, p []byte) {
	w.AddUint16LengthPrefixed(func(w *cryptobyte.Builder) { w.AddBytes(p) })
}

var errBlob = errors.New("tpmwrap: not a wrapped key of this version")

func parseBlob(data []byte) (*blob, error) {
	bad := func() (*blob, error) { return nil, cause.New(cause.RecordCorrupt, errBlob) }
	if len(data) > maxBlob {
		return bad()
	}
	s := cryptobyte.String(data)
	var version, f, k, parent uint8
	if !s.ReadUint8(&version) || version != blobVersion || !s.ReadUint8(&f) || !s.ReadUint8(&k) || !s.ReadUint8(&parent) {
		return bad()
	}
	b := &blob{form: form(f), kind: kind(k), parent: Parent(parent)}
	if b.form < formSealed || b.form > formHandle || b.kind < kindNone || b.kind > kindSigned || b.parent > ParentECCP256 {
		return bad()
	}
	var bank []byte
	var pcrs cryptobyte.String
	if !read(&s, &b.srk) || !read(&s, &b.ek) || !read(&s, &bank) || !s.ReadUint8LengthPrefixed(&pcrs) {
		return bad()
	}
	b.state.Bank = pcrpolicy.Bank(bank)
	_, size, err := b.state.Bank.Algorithm()
	if err != nil {
		return bad()
	}
	last := -1
	for _, index := range pcrs {
		var value []byte
		if int(index) <= last || index > maxPCR || !read(&s, &value) || len(value) != size {
			return bad()
		}
		last = int(index)
		b.state.PCRs = append(b.state.PCRs, pcrpolicy.PCR{Index: uint(index), Value: value})
	}
	if !read(&s, &b.public) || !read(&s, &b.private) || !s.ReadUint32(&b.handle) || !read(&s, &b.ciphertext) || !s.Empty() {
		return bad()
	}
	if len(b.srk) == 0 || (b.kind == kindLiteral) != (len(b.state.PCRs) > 0) {
		return bad()
	}
	return b, nil
}

func read(s *cryptobyte.String, out *[]byte) bool {
	var v cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&v) || len(v) > maxField {
		return false
	}
	*out = v
	return true
}
