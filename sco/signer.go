package sco

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/mooringlib/mooring/sco/internal/wire"
)

// EvidenceKind says what a router proves its device identity with.
type EvidenceKind uint8

// The kinds of evidence. Their numbers are part of the protocol.
const (
	// EvidenceNone: the secret and the SSH key only.
	EvidenceNone EvidenceKind = iota
	// EvidenceSelfSigned: a certificate whose chain says nothing.
	EvidenceSelfSigned
	// EvidenceDeviceID: a device ID certificate (IEEE 802.1AR) and its chain.
	EvidenceDeviceID
	// EvidenceTPM: an endorsement key and an attestation key.
	EvidenceTPM
)

var evidenceNames = [...]string{"none", "self-signed", "device-id", "tpm"}

// String returns the kind's name.
func (k EvidenceKind) String() string {
	if int(k) >= len(evidenceNames) {
		return fmt.Sprintf("EvidenceKind(%d)", uint8(k))
	}
	return evidenceNames[k]
}

// MarshalText implements [encoding.TextMarshaler].
func (k EvidenceKind) MarshalText() ([]byte, error) {
	if int(k) >= len(evidenceNames) {
		return nil, fmt.Errorf("sco: %d is not a kind of evidence", uint8(k))
	}
	return []byte(evidenceNames[k]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *EvidenceKind) UnmarshalText(text []byte) error {
	i := slices.Index(evidenceNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("sco: %.40q is not a kind of evidence", text)
	}
	*k = EvidenceKind(i)
	return nil
}

// Evidence is what a router shows before it is challenged.
type Evidence struct {
	// Kind says which of the other fields are set.
	Kind EvidenceKind
	// Certificates are DER, the leaf first, for self-signed and device-id;
	// for tpm the endorsement key's certificates, if there are any.
	Certificates [][]byte
	// EndorsementKey is the DER SubjectPublicKeyInfo, for tpm.
	EndorsementKey []byte
	// AttestationKey is the TPMT_PUBLIC; CreationData the TPMS_CREATION_DATA;
	// CreationAttestation the TPMS_ATTEST and CreationSignature the
	// TPMT_SIGNATURE of TPM2_CertifyCreation by the key itself, for tpm.
	AttestationKey, CreationData, CreationAttestation, CreationSignature []byte
}

// Challenge is what the proof has to answer.
type Challenge struct {
	// Digest is the SHA-256 that the proof covers. It is bound to the
	// connection and to everything that was said in it.
	Digest [32]byte
	// Credential (TPM2B_ID_OBJECT) and Secret (TPM2B_ENCRYPTED_SECRET) are
	// for TPM2_ActivateCredential, for tpm.
	Credential, Secret []byte
	// PCRs are the registers of the SHA-256 bank to quote, for tpm.
	PCRs []int
}

// Proof answers a [Challenge].
type Proof struct {
	// Signature is over Digest, for self-signed and device-id: ECDSA (ASN.1)
	// or RSASSA-PSS with a salt of 32 bytes.
	Signature []byte
	// ActivatedSecret is what the TPM released, for tpm. It is never sent: it
	// keys the message's MAC.
	ActivatedSecret []byte
	// Quote is the TPMS_ATTEST with Digest as qualifying data and
	// QuoteSignature the TPMT_SIGNATURE, for tpm; PCRValues are the SHA-256
	// values in the order of Challenge.PCRs.
	Quote, QuoteSignature []byte
	PCRValues             [][]byte
}

// Signer proves a router's device identity. It is the seam for other key
// stores. [SelfSigned], [DeviceID] and [NoDeviceKey] are made of software keys
// or of any [crypto.Signer]; package tpmsigner proves an endorsement key.
//
// [Onboard] calls Evidence once and then Prove at most once for each connection
// that it makes, one after the other. Both respect ctx as far as the key store
// can. The caller owns what is returned.
type Signer interface {
	// Evidence returns what is shown to the conductor.
	Evidence(ctx context.Context) (Evidence, error)
	// Prove answers the challenge for the evidence that was shown last.
	Prove(ctx context.Context, c Challenge) (Proof, error)
}

// NoDeviceKey returns a Signer that shows nothing: enough for psk-only.
func NoDeviceKey() Signer { return noDeviceKey{} }

type noDeviceKey struct{}

func (noDeviceKey) Evidence(context.Context) (Evidence, error)      { return Evidence{}, nil }
func (noDeviceKey) Prove(context.Context, Challenge) (Proof, error) { return Proof{}, nil }

// DeviceID returns a Signer for a device ID certificate and its key, which may
// live in a file or a TPM: ECDSA on P-256 or P-384, or RSA of 2048..4096 bits
// that can sign RSASSA-PSS. chain has the device's certificate first and the
// manufacturer's intermediate certificates after it.
func DeviceID(chain []*x509.Certificate, key crypto.Signer) (Signer, error) {
	if len(chain) == 0 || key == nil {
		return nil, errors.New("sco: a device ID needs a certificate and a key")
	}
	if len(chain) > wire.MaxCertificates {
		return nil, fmt.Errorf("sco: a device ID has at most %d certificates, this one has %d", wire.MaxCertificates, len(chain))
	}
	if err := checkSigningKey(chain[0].PublicKey); err != nil {
		return nil, err
	}
	if pub, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("sco: the device ID's key does not belong to its certificate")
	}
	certs := make([][]byte, len(chain))
	for i, c := range chain {
		certs[i] = c.Raw
	}
	return &keySigner{kind: EvidenceDeviceID, certs: certs, key: key}, nil
}

type keySigner struct {
	kind  EvidenceKind
	certs [][]byte
	key   crypto.Signer
}

func (s *keySigner) Evidence(context.Context) (Evidence, error) {
	return Evidence{Kind: s.kind, Certificates: s.certs}, nil
}

func (s *keySigner) Prove(_ context.Context, c Challenge) (Proof, error) {
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := s.key.Public().(*rsa.PublicKey); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	sig, err := s.key.Sign(rand.Reader, c.Digest[:], opts)
	if err != nil {
		return Proof{}, fmt.Errorf("sco: signing with the device key: %w", err)
	}
	return Proof{Signature: sig}, nil
}

// SelfSigned returns a Signer that makes a new P-256 key and certificate at
// every attempt: enough for weak on a machine without a TPM.
func SelfSigned() Signer { return &selfSigned{} }

type selfSigned struct {
	mu  sync.Mutex
	cur *keySigner
}

func (s *selfSigned) Evidence(ctx context.Context) (Evidence, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Evidence{}, fmt.Errorf("sco: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "sco"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return Evidence{}, fmt.Errorf("sco: %w", err)
	}
	cur := &keySigner{kind: EvidenceSelfSigned, certs: [][]byte{der}, key: key}
	s.mu.Lock()
	s.cur = cur
	s.mu.Unlock()
	return cur.Evidence(ctx)
}

func (s *selfSigned) Prove(ctx context.Context, c Challenge) (Proof, error) {
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	if cur == nil {
		return Proof{}, errors.New("sco: Prove was called before Evidence")
	}
	return cur.Prove(ctx, c)
}

// checkSigningKey bounds the keys whose signatures are verified.
func checkSigningKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 || k.E != 65537 {
			return fmt.Errorf("sco: an RSA key has 2048..4096 bits and the exponent 65537, this one has %d bits", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return errors.New("sco: an ECDSA key is on P-256 or P-384")
	default:
		return fmt.Errorf("sco: a %T is neither an RSA nor an ECDSA key", pub)
	}
}

// verifyDigest is the verifying side of keySigner.
func verifyDigest(pub crypto.PublicKey, digest, sig []byte) error {
	if err := checkSigningKey(pub); err != nil {
		return err
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		if rsa.VerifyPSS(k, crypto.SHA256, digest, sig, opts) == nil {
			return nil
		}
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(k, digest, sig) {
			return nil
		}
	}
	return errors.New("sco: the device key's signature does not verify")
}
