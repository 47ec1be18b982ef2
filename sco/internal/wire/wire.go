// Package wire has the messages of secure conductor onboarding, version 1:
// their framing, encoding and bounds, and the hashes and MACs over them. It
// decides nothing; PROTOCOL.md in the parent directory is its description.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
)

// Version is the protocol's version.
const Version = 1

// ALPN is the protocol's name in TLS.
const ALPN = "mooring-sco/1"

// The messages' types.
const (
	TypeHello     = 1
	TypeChallenge = 2
	TypeProof     = 3
	TypeAccept    = 4
	TypeAck       = 5
	TypeRefuse    = 15
)

// Bounds.
const (
	// MaxCertificates is the most certificates in a chain, the leaf included.
	MaxCertificates = 5
	// MaxCertificate is the most bytes of a certificate.
	MaxCertificate = 8 << 10
	// MaxToken bounds the token's payload without the secret.
	MaxToken = 32 << 10
	// MaxHostKeys is the most host keys of a conductor.
	MaxHostKeys = 8
	// MaxHello bounds the router's first message, MaxMessage every other one.
	MaxHello   = 80 << 10
	MaxMessage = 32 << 10

	maxName    = 63
	maxAssetID = 128
	maxSSHKey  = 1 << 10
	maxBlob    = 4 << 10
	maxAddrs   = 16
	maxAddr    = 260
	maxPCRs    = 24

	// NonceLen and MACLen are the lengths of nonces and MACs.
	NonceLen = 32
	MACLen   = 32
)

// ErrFormat is wrapped by every error about bytes that are not a message.
var ErrFormat = errors.New("malformed message")

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrFormat, what) }

// WriteMessage sends one message in one write.
func WriteMessage(w io.Writer, typ uint8, body []byte) error {
	if len(body) >= 1<<24 {
		return malformed("too long to be sent")
	}
	buf := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(buf, uint32(len(body)))
	buf[0] = typ
	_, err := w.Write(append(buf, body...))
	return err
}

// ReadMessage reads one message of at most limit bytes. Nothing is allocated
// before its length is known to be within the limit.
func ReadMessage(r io.Reader, limit int) (typ uint8, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]) & 0xffffff)
	if n > limit {
		return 0, nil, malformed(fmt.Sprintf("%d bytes, the most is %d", n, limit))
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return head[0], body, nil
}

// Token is a router's token without the secret in it: the payload is Before,
// the secret's base64, After.
type Token struct {
	Header    []byte
	Before    []byte
	After     []byte
	Signature []byte
}

// Hello is the router's first message.
type Hello struct {
	Version uint16
	Nonce   [NonceLen]byte
	Router  string
	AssetID string
	Token   Token
	SSHKey  []byte

	Kind                                                  uint8
	Certificates                                          [][]byte
	EK, AK, CreationData, CreationAttest, CreationSigning []byte

	MAC [MACLen]byte
}

// Challenge is the conductor's answer.
type Challenge struct {
	Mode               uint8
	Nonce              [NonceLen]byte
	Credential, Secret []byte
	PCRs               []byte
	MAC                [MACLen]byte
}

// Proof is the router's second message.
type Proof struct {
	SSHSignature    []byte
	DeviceSignature []byte
	Quote           []byte
	QuoteSignature  []byte
	PCRValues       [][]byte
	MAC             [MACLen]byte
}

// Accept is the conductor's last message.
type Accept struct {
	Node      string
	HostKeys  [][]byte
	SSHPort   uint16
	Addresses []string
	MAC       [MACLen]byte
}

// Ack is the router's last message.
type Ack struct {
	MAC [MACLen]byte
}

func add8(b *cryptobyte.Builder, v []byte) {
	b.AddUint8LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(v) })
}

func add16(b *cryptobyte.Builder, v []byte) {
	b.AddUint16LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(v) })
}

func addList(b *cryptobyte.Builder, list [][]byte) {
	b.AddUint8(uint8(len(list)))
	for _, v := range list {
		add16(b, v)
	}
}

// reader decodes fields and remembers the first one that is wrong.
type reader struct {
	s   cryptobyte.String
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = malformed(what)
	}
}

func (r *reader) fixed(what string, out []byte) {
	if r.err == nil && !r.s.CopyBytes(out) {
		r.fail(what)
	}
}

func (r *reader) u8(what string) (v uint8) {
	if r.err == nil && !r.s.ReadUint8(&v) {
		r.fail(what)
	}
	return v
}

func (r *reader) u16(what string) (v uint16) {
	if r.err == nil && !r.s.ReadUint16(&v) {
		r.fail(what)
	}
	return v
}

func (r *reader) bytes8(what string, limit int) []byte {
	var v cryptobyte.String
	if r.err == nil && (!r.s.ReadUint8LengthPrefixed(&v) || len(v) > limit) {
		r.fail(what)
		return nil
	}
	return v
}

func (r *reader) bytes16(what string, limit int) []byte {
	var v cryptobyte.String
	if r.err == nil && (!r.s.ReadUint16LengthPrefixed(&v) || len(v) > limit) {
		r.fail(what)
		return nil
	}
	return v
}

func (r *reader) list(what string, count, limit int) [][]byte {
	n := int(r.u8(what))
	if n > count {
		r.fail(what + ": too many")
	}
	var out [][]byte
	for i := 0; i < n && r.err == nil; i++ {
		out = append(out, r.bytes16(what, limit))
	}
	return out
}

func (r *reader) end() error {
	if r.err == nil && !r.s.Empty() {
		r.fail("bytes after the last field")
	}
	return r.err
}

// build returns the bytes; the builders above can only fail when a field is
// longer than its length prefix can say.
func build(b *cryptobyte.Builder) ([]byte, error) {
	out, err := b.Bytes()
	if err != nil {
		return nil, malformed(err.Error())
	}
	return out, nil
}

// Marshal encodes the message without its MAC.
func (m *Hello) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 8192))
	b.AddUint16(m.Version)
	b.AddBytes(m.Nonce[:])
	add8(b, []byte(m.Router))
	add8(b, []byte(m.AssetID))
	add16(b, m.Token.Header)
	add16(b, m.Token.Before)
	add16(b, m.Token.After)
	add16(b, m.Token.Signature)
	add16(b, m.SSHKey)
	b.AddUint8(m.Kind)
	addList(b, m.Certificates)
	for _, f := range [][]byte{m.EK, m.AK, m.CreationData, m.CreationAttest, m.CreationSigning} {
		add16(b, f)
	}
	return build(b)
}

// ParseHello decodes a message with its MAC. body is the part that the MAC
// covers. The fields alias b.
func ParseHello(b []byte) (m *Hello, body []byte, err error) {
	m = new(Hello)
	r := &reader{s: b}
	if m.Version = r.u16("version"); r.err == nil && m.Version != Version {
		return nil, nil, fmt.Errorf("%w: version %d, this is version %d", ErrFormat, m.Version, Version)
	}
	r.fixed("nonce", m.Nonce[:])
	m.Router = string(r.bytes8("router", maxName))
	m.AssetID = string(r.bytes8("asset-id", maxAssetID))
	m.Token.Header = r.bytes16("token header", maxBlob)
	m.Token.Before = r.bytes16("token", MaxToken)
	m.Token.After = r.bytes16("token", MaxToken)
	m.Token.Signature = r.bytes16("token signature", maxBlob)
	m.SSHKey = r.bytes16("SSH key", maxSSHKey)
	m.Kind = r.u8("evidence kind")
	m.Certificates = r.list("certificates", MaxCertificates, MaxCertificate)
	for _, f := range []*[]byte{&m.EK, &m.AK, &m.CreationData, &m.CreationAttest, &m.CreationSigning} {
		*f = r.bytes16("TPM evidence", maxBlob)
	}
	return finish(m, r, b, &m.MAC)
}

// finish reads the MAC that ends every message.
func finish[M any](m *M, r *reader, b []byte, mac *[MACLen]byte) (*M, []byte, error) {
	r.fixed("MAC", mac[:])
	if err := r.end(); err != nil {
		return nil, nil, err
	}
	return m, b[:len(b)-MACLen], nil
}

// Marshal encodes the message without its MAC.
func (m *Challenge) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(m.Mode)
	b.AddBytes(m.Nonce[:])
	add16(b, m.Credential)
	add16(b, m.Secret)
	add8(b, m.PCRs)
	return build(b)
}

// ParseChallenge decodes a message with its MAC.
func ParseChallenge(b []byte) (m *Challenge, body []byte, err error) {
	m = new(Challenge)
	r := &reader{s: b}
	m.Mode = r.u8("mode")
	r.fixed("nonce", m.Nonce[:])
	m.Credential = r.bytes16("credential", maxBlob)
	m.Secret = r.bytes16("credential secret", maxBlob)
	m.PCRs = r.bytes8("PCRs", maxPCRs)
	for i, p := range m.PCRs {
		if p >= maxPCRs || i > 0 && p <= m.PCRs[i-1] {
			r.fail("PCRs are not ascending")
		}
	}
	return finish(m, r, b, &m.MAC)
}

// Marshal encodes the message without its MAC.
func (m *Proof) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	for _, f := range [][]byte{m.SSHSignature, m.DeviceSignature, m.Quote, m.QuoteSignature} {
		add16(b, f)
	}
	addList(b, m.PCRValues)
	return build(b)
}

// ParseProof decodes a message with its MAC.
func ParseProof(b []byte) (m *Proof, body []byte, err error) {
	m = new(Proof)
	r := &reader{s: b}
	for _, f := range []*[]byte{&m.SSHSignature, &m.DeviceSignature, &m.Quote, &m.QuoteSignature} {
		*f = r.bytes16("proof", maxBlob)
	}
	m.PCRValues = r.list("PCR values", maxPCRs, 64)
	return finish(m, r, b, &m.MAC)
}

// Marshal encodes the message without its MAC.
func (m *Accept) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	add8(b, []byte(m.Node))
	addList(b, m.HostKeys)
	b.AddUint16(m.SSHPort)
	b.AddUint8(uint8(len(m.Addresses)))
	for _, a := range m.Addresses {
		add16(b, []byte(a))
	}
	return build(b)
}

// ParseAccept decodes a message with its MAC.
func ParseAccept(b []byte) (m *Accept, body []byte, err error) {
	m = new(Accept)
	r := &reader{s: b}
	m.Node = string(r.bytes8("node", maxName))
	m.HostKeys = r.list("host keys", MaxHostKeys, maxSSHKey)
	m.SSHPort = r.u16("SSH port")
	for _, a := range r.list("addresses", maxAddrs, maxAddr) {
		m.Addresses = append(m.Addresses, string(a))
	}
	return finish(m, r, b, &m.MAC)
}

// ParseAck decodes a message, which is its MAC alone.
func ParseAck(b []byte) (m *Ack, body []byte, err error) {
	m = new(Ack)
	return finish(m, &reader{s: b}, b, &m.MAC)
}
