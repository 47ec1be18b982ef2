package pcrpolicy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Format names the version of the document.
const Format = "mooring-pcr-policy/1"

// FirstNumber is where a vendor should begin to number policies. A new TPM's
// counter is lower.
const FirstNumber = 16

// DefaultCounterIndex is the NV index of the counter, unless a product chooses
// another.
const DefaultCounterIndex uint32 = 0x018d0002

var (
	// ErrFormat means that a document cannot be read.
	ErrFormat = errors.New("pcrpolicy: not a policy document")
	// ErrUnsigned means that an alternative has no signature.
	ErrUnsigned = errors.New("pcrpolicy: not signed")
	// ErrSignature means that a signature is not by the key.
	ErrSignature = errors.New("pcrpolicy: signature is not by the vendor's key")
	// ErrKey means a key that is neither RSA of 2048 bits nor ECDSA on P-256,
	// which is what every TPM can check.
	ErrKey = errors.New("pcrpolicy: the signing key is neither RSA-2048 nor ECDSA P-256")
)

// PCR is one register and the value that a boot state has in it.
type PCR struct {
	// Index is 0 to 23.
	Index uint `json:"index"`
	// Value is as long as the bank's hash.
	Value Hex `json:"value"`
}

// Hex is binary data that is written in hexadecimal digits.
type Hex []byte

// MarshalText implements [encoding.TextMarshaler].
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(text []byte) error {
	out, err := hex.AppendDecode(nil, text)
	*h = out
	return err
}

// Bank is a set of PCRs with one hash algorithm.
type Bank string

// The banks.
const (
	SHA256 Bank = "sha256"
	SHA384 Bank = "sha384"
)

// Algorithm returns the TPM's identifier of the bank's hash, and the size of a
// value.
func (b Bank) Algorithm() (alg tpm2.TPMIAlgHash, size int, err error) {
	switch b {
	case SHA256:
		return tpm2.TPMAlgSHA256, 32, nil
	case SHA384:
		return tpm2.TPMAlgSHA384, 48, nil
	}
	return 0, 0, fmt.Errorf("pcrpolicy: bank is sha256 or sha384, not %.32q", string(b))
}

// Alternative is one allowed boot state.
type Alternative struct {
	// Number is compared with the TPM's counter: the alternative is revoked
	// while it is lower.
	Number uint64 `json:"number"`
	// Bank is [SHA256] or [SHA384].
	Bank Bank `json:"bank"`
	// PCRs are in rising order, each at most once.
	PCRs []PCR `json:"pcrs"`
	// Signature is empty until it is signed.
	Signature []byte `json:"signature,omitempty"`
}

// Document is what a vendor signs and ships. It is a value without I/O and not
// safe for concurrent change.
type Document struct {
	Format string `json:"format"`
	// Reference is the product line that the policy is for. A key is wrapped
	// for one reference, and no signature for another one opens it.
	Reference string `json:"reference"`
	// CounterIndex is the NV index of the counter.
	CounterIndex uint32 `json:"counter_index"`
	// Alternatives are tried in their order.
	Alternatives []Alternative `json:"alternatives"`
}

// Make returns an unsigned document with one alternative. A zero counterIndex
// means [DefaultCounterIndex].
func Make(reference string, counterIndex uint32, a Alternative) (*Document, error) {
	if counterIndex == 0 {
		counterIndex = DefaultCounterIndex
	}
	d := &Document{Format: Format, Reference: reference, CounterIndex: counterIndex, Alternatives: []Alternative{a}}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// Parse reads a document. Every bound and form is checked; signatures are not:
// see [Document.Verify].
func Parse(data []byte) (*Document, error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrFormat, maxDocument)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	d := new(Document)
	if err := dec.Decode(d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more after its end", ErrFormat)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// Marshal returns the document as [Parse] reads it.
func (d *Document) Marshal() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("pcrpolicy: %w", err)
	}
	return append(out, '\n'), nil
}

func (d *Document) check() error {
	switch {
	case d.Format != Format:
		return fmt.Errorf("%w: format is %q, not %.64q", ErrFormat, Format, d.Format)
	case d.Reference == "" || len(d.Reference) > maxReference:
		return fmt.Errorf("%w: reference is empty or longer than %d bytes", ErrFormat, maxReference)
	case d.CounterIndex>>24 != 1:
		return fmt.Errorf("%w: counter index %#x is not an NV index", ErrFormat, d.CounterIndex)
	case len(d.Alternatives) == 0 || len(d.Alternatives) > maxAlternatives:
		return fmt.Errorf("%w: %d alternatives instead of 1 to %d", ErrFormat, len(d.Alternatives), maxAlternatives)
	}
	for i, a := range d.Alternatives {
		if err := a.check(); err != nil {
			return fmt.Errorf("%w: alternative %d: %w", ErrFormat, i+1, err)
		}
	}
	return nil
}

func (a Alternative) check() error {
	_, size, err := a.Bank.Algorithm()
	if err != nil {
		return err
	}
	if a.Number == 0 {
		return errors.New("number is 0 or missing")
	}
	if len(a.PCRs) == 0 {
		return errors.New("no PCR")
	}
	if len(a.Signature) > maxSignature {
		return fmt.Errorf("signature longer than %d bytes", maxSignature)
	}
	for i, p := range a.PCRs {
		switch {
		case p.Index > maxPCR:
			return fmt.Errorf("PCR %d does not exist", p.Index)
		case len(p.Value) != size:
			return fmt.Errorf("value of PCR %d has %d bytes instead of %d", p.Index, len(p.Value), size)
		case i > 0 && p.Index <= a.PCRs[i-1].Index:
			return errors.New("PCRs are not in rising order")
		}
	}
	return nil
}

// Selection returns the TPM's form of the PCRs of an alternative.
func (a Alternative) Selection() (tpm2.TPMLPCRSelection, error) {
	alg, _, err := a.Bank.Algorithm()
	if err != nil {
		return tpm2.TPMLPCRSelection{}, err
	}
	indexes := make([]uint, len(a.PCRs))
	for i, p := range a.PCRs {
		indexes[i] = p.Index
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(indexes...),
	}}}, nil
}

// Composite returns the digest of the PCR values, as TPM2_PolicyPCR takes it.
func (a Alternative) Composite() []byte {
	h := sha256.New()
	for _, p := range a.PCRs {
		h.Write(p.Value)
	}
	return h.Sum(nil)
}

// PCRPolicy extends a policy digest by TPM2_PolicyPCR for the alternative.
func (a Alternative) PCRPolicy(calc *tpm2.PolicyCalculator) error {
	sel, err := a.Selection()
	if err != nil {
		return err
	}
	return tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: a.Composite()}, Pcrs: sel}.Update(calc)
}

// CounterPublic returns the public area of the counter once it was written. A
// policy names exactly this.
func CounterPublic(index uint32) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index),
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true,
			NT: tpm2.TPMNTCounter, Written: true,
		},
		DataSize: 8,
	}
}

// CounterCheck returns the command that compares the counter with an
// alternative's number, without its handles' authorization.
func (d *Document) CounterCheck(a Alternative) (tpm2.PolicyNV, error) {
	pub := CounterPublic(d.CounterIndex)
	name, err := tpm2.NVName(&pub)
	if err != nil {
		return tpm2.PolicyNV{}, fmt.Errorf("pcrpolicy: %w", err)
	}
	return tpm2.PolicyNV{
		NVIndex:   tpm2.NamedHandle{Handle: pub.NVIndex, Name: *name},
		OperandB:  tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, a.Number)},
		Operation: tpm2.TPMEOUnsignedLE,
	}, nil
}

// Approved returns the policy digest that a signature on an alternative
// approves.
func (d *Document) Approved(a Alternative) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, fmt.Errorf("pcrpolicy: %w", err)
	}
	nv, err := d.CounterCheck(a)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(a.PCRPolicy(calc), nv.Update(calc)); err != nil {
		return nil, fmt.Errorf("pcrpolicy: %w", err)
	}
	return calc.Hash().Digest, nil
}

// RefDigest returns what stands for a reference in the TPM's policies.
func RefDigest(reference string) []byte {
	sum := sha256.Sum256([]byte(reference))
	return sum[:]
}

// SignedDigest returns what a signature on an alternative signs.
func (d *Document) SignedDigest(a Alternative) ([]byte, error) {
	approved, err := d.Approved(a)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(slices.Concat(approved, RefDigest(d.Reference)))
	return sum[:], nil
}

// Sign signs every alternative, and replaces signatures that are there. The key
// is RSA-2048 or ECDSA P-256, wherever the signer keeps it.
func (d *Document) Sign(signer crypto.Signer) error {
	if _, err := Public(signer.Public()); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	for i := range d.Alternatives {
		digest, err := d.SignedDigest(d.Alternatives[i])
		if err != nil {
			return err
		}
		sig, err := signer.Sign(rand.Reader, digest, crypto.SHA256)
		if err != nil {
			return fmt.Errorf("pcrpolicy: sign: %w", err)
		}
		d.Alternatives[i].Signature = sig
	}
	return d.Verify(signer.Public())
}

// Verify checks the signature of every alternative. [ErrUnsigned],
// [ErrSignature] and [ErrKey] are the outcomes to expect.
func (d *Document) Verify(vendor crypto.PublicKey) error {
	if _, err := Public(vendor); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	for _, a := range d.Alternatives {
		if len(a.Signature) == 0 {
			return fmt.Errorf("%w: alternative %d", ErrUnsigned, a.Number)
		}
		digest, err := d.SignedDigest(a)
		if err != nil {
			return err
		}
		switch k := vendor.(type) {
		case *rsa.PublicKey:
			err = rsa.VerifyPKCS1v15(k, crypto.SHA256, digest, a.Signature)
		case *ecdsa.PublicKey:
			if !ecdsa.VerifyASN1(k, digest, a.Signature) {
				err = errors.New("wrong ECDSA signature")
			}
		}
		if err != nil {
			return fmt.Errorf("%w: alternative %d: %w", ErrSignature, a.Number, err)
		}
	}
	return nil
}

// Public returns the TPM's form of a vendor's key, or [ErrKey].
func Public(key crypto.PublicKey) (*tpm2.TPMTPublic, error) {
	attrs := tpm2.TPMAObject{SignEncrypt: true, UserWithAuth: true}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() != 2048 || k.E != 65537 {
			return nil, ErrKey
		}
		return &tpm2.TPMTPublic{
			Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attrs,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
				Scheme: tpm2.TPMTRSAScheme{
					Scheme:  tpm2.TPMAlgRSASSA,
					Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
				},
				KeyBits: 2048,
			}),
			Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.FillBytes(make([]byte, 256))}),
		}, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, ErrKey
		}
		point, err := k.Bytes()
		if err != nil {
			return nil, ErrKey
		}
		return &tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attrs,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
				CurveID: tpm2.TPMECCNistP256,
				Scheme: tpm2.TPMTECCScheme{
					Scheme:  tpm2.TPMAlgECDSA,
					Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
				},
			}),
			Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
				Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
			}),
		}, nil
	}
	return nil, ErrKey
}
