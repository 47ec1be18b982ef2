package tpmkey

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// PEMType is the type of the PEM block that holds a key.
const PEMType = "TSS2 PRIVATE KEY"

// ErrFormat is wrapped by every error about the content of a key file.
var ErrFormat = errors.New("tpmkey: bad TSS2 key file")

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// oidLoadableKey is TCG's id-loadablekey.
func oidLoadableKey() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3} }

// Blob is a wrapped key as it lies in a file. It holds no secret in the clear:
// the private area is encrypted by the parent. A Blob is immutable.
type Blob struct {
	parent  tpm2.TPMHandle
	public  []byte // TPMT_PUBLIC
	private []byte // contents of TPM2B_PRIVATE
	area    tpm2.TPMTPublic
	key     crypto.PublicKey
}

// Public returns the public key: *rsa.PublicKey or *ecdsa.PublicKey.
func (b *Blob) Public() crypto.PublicKey { return b.key }

// Parent returns the handle of the key that wraps this one.
func (b *Blob) Parent() tpm2.TPMHandle { return b.parent }

// Area returns the public area, with the key's attributes.
func (b *Blob) Area() tpm2.TPMTPublic { return b.area }

// MarshalPEM encodes the key as a PEM block "TSS2 PRIVATE KEY".
func (b *Blob) MarshalPEM() []byte {
	var c cryptobyte.Builder
	c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
		c.AddASN1ObjectIdentifier(oidLoadableKey())
		// emptyAuth, explicitly tagged: the key needs no password.
		c.AddASN1(casn1.Tag(0).Constructed().ContextSpecific(), func(c *cryptobyte.Builder) {
			c.AddASN1Boolean(true)
		})
		c.AddASN1Uint64(uint64(b.parent))
		c.AddASN1(casn1.OCTET_STRING, func(c *cryptobyte.Builder) {
			c.AddUint16LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(b.public) })
		})
		c.AddASN1(casn1.OCTET_STRING, func(c *cryptobyte.Builder) {
			c.AddUint16LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(b.private) })
		})
	})
	return pem.EncodeToMemory(&pem.Block{Type: PEMType, Bytes: c.BytesOrPanic()})
}

// ParsePEM decodes one PEM block "TSS2 PRIVATE KEY". Nothing but white space may
// stand around it. Keys with a password or a policy are refused with
// [ErrUnsupported], everything else that is wrong with [ErrFormat].
func ParsePEM(data []byte) (*Blob, error) {
	if len(data) > maxPEM {
		return nil, formatError("%d bytes are more than %d", len(data), maxPEM)
	}
	data = bytes.TrimSpace(data)
	if !bytes.HasPrefix(data, []byte("-----BEGIN")) {
		return nil, formatError("it does not begin with a PEM block")
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, formatError("no PEM block")
	case block.Type != PEMType:
		return nil, formatError("the PEM block is %.40q, not %q", block.Type, PEMType)
	case len(block.Headers) != 0:
		return nil, formatError("the PEM block has headers")
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, formatError("%d bytes after the PEM block", len(rest))
	}
	return parseDER(block.Bytes)
}

// parseDER decodes the ASN.1 TPMKey of draft-bottomley-tpm2-keys, section 3.1.
func parseDER(der []byte) (*Blob, error) {
	in := cryptobyte.String(der)
	var seq, tagged cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) || !in.Empty() {
		return nil, formatError("not one ASN.1 sequence")
	}
	var oid asn1.ObjectIdentifier
	if !seq.ReadASN1ObjectIdentifier(&oid) {
		return nil, formatError("no key type")
	}
	if !oid.Equal(oidLoadableKey()) {
		return nil, fmt.Errorf("%w: key type %s; only loadable keys (%s) are", ErrUnsupported, oid, oidLoadableKey())
	}
	var has bool
	if !seq.ReadOptionalASN1(&tagged, &has, casn1.Tag(0).Constructed().ContextSpecific()) {
		return nil, formatError("emptyAuth")
	}
	empty := false
	if has {
		// The OpenSSL provider writes TRUE as 1, which is BER, so any value
		// but zero is true.
		var v cryptobyte.String
		if !tagged.ReadASN1(&v, casn1.BOOLEAN) || len(v) != 1 || !tagged.Empty() {
			return nil, formatError("emptyAuth")
		}
		empty = v[0] != 0
	}
	for tag, what := range map[casn1.Tag]string{1: "a policy", 2: "an import secret", 3: "an authorization policy"} {
		if seq.PeekASN1Tag(tag.Constructed().ContextSpecific()) {
			return nil, fmt.Errorf("%w: the key has %s", ErrUnsupported, what)
		}
	}
	parent, err := readParent(&seq)
	if err != nil {
		return nil, err
	}
	public, err := read2B(&seq, "public")
	if err != nil {
		return nil, err
	}
	private, err := read2B(&seq, "private")
	if err != nil {
		return nil, err
	}
	if !seq.Empty() {
		return nil, formatError("%d bytes after the private area", len(seq))
	}
	if !empty {
		return nil, fmt.Errorf("%w: the key has a password", ErrUnsupported)
	}
	return newBlob(parent, public, private)
}

// readParent reads the parent's handle. Writers with a 32-bit long made the
// handles of persistent keys negative, so both signs are taken.
func readParent(seq *cryptobyte.String) (tpm2.TPMHandle, error) {
	var n int64
	if !seq.ReadASN1Int64WithTag(&n, casn1.INTEGER) || n < -(1<<31) || n >= 1<<32 {
		return 0, formatError("parent handle")
	}
	h := tpm2.TPMHandle(uint32(n))
	switch {
	case h == 0:
		// Older engines write 0 for the owner hierarchy.
		return tpm2.TPMRHOwner, nil
	case h == tpm2.TPMRHOwner, h>>24 == 0x81:
		return h, nil
	}
	return 0, fmt.Errorf("%w: parent handle %#x; the parent is the owner hierarchy or a persistent key", ErrUnsupported, uint32(h))
}

// read2B reads an OCTET STRING that holds one TPM2B.
func read2B(seq *cryptobyte.String, what string) ([]byte, error) {
	var octets, content cryptobyte.String
	if !seq.ReadASN1(&octets, casn1.OCTET_STRING) {
		return nil, formatError("no %s area", what)
	}
	if !octets.ReadUint16LengthPrefixed(&content) || !octets.Empty() || len(content) == 0 || len(content) > maxArea {
		return nil, formatError("length of the %s area", what)
	}
	return content, nil
}

func newBlob(parent tpm2.TPMHandle, public, private []byte) (*Blob, error) {
	area, err := unmarshalPublic(public)
	if err != nil {
		return nil, err
	}
	if area.Type != tpm2.TPMAlgRSA && area.Type != tpm2.TPMAlgECC {
		return nil, fmt.Errorf("%w: key algorithm %#x", ErrUnsupported, uint16(area.Type))
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return nil, formatError("public key: %v", err)
	}
	if err := checkPoint(key); err != nil {
		return nil, err
	}
	a := area.ObjectAttributes
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return nil, fmt.Errorf("%w: the private key was made outside the TPM or may leave it", ErrUnsupported)
	}
	if a.Restricted || !a.UserWithAuth {
		return nil, fmt.Errorf("%w: a restricted key, or one that needs a policy", ErrUnsupported)
	}
	return &Blob{parent: parent, public: bytes.Clone(public), private: bytes.Clone(private), area: *area, key: key}, nil
}

// unmarshalPublic decodes a TPMT_PUBLIC and insists on its one encoding.
func unmarshalPublic(public []byte) (*tpm2.TPMTPublic, error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return nil, formatError("public area: %v", err)
	}
	if !bytes.Equal(tpm2.Marshal(area), public) {
		return nil, formatError("public area: not in its canonical form")
	}
	return area, nil
}
