package tpmsigner

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/tpmretry"
	"github.com/mooringlib/mooring/sco"
)

// Algorithm is a kind of endorsement key.
type Algorithm uint8

const (
	// Any takes the persistent endorsement key, of whichever kind it is, and
	// RSA where there is none.
	Any Algorithm = iota
	// RSA takes an RSA 2048 key.
	RSA
	// ECC takes a P-256 key.
	ECC
)

// Config configures a [Signer].
type Config struct {
	// TPM is an open TPM 2.0; required. It is used by one call at a time.
	TPM transport.TPM
	// Algorithm chooses the endorsement key.
	Algorithm Algorithm
}

// Signer is an sco.Signer for a TPM. It is not safe for concurrent use: the
// TPM has few slots.
type Signer struct {
	cfg Config
}

var _ sco.Signer = (*Signer)(nil)

// New checks the configuration. It does not use the TPM.
func New(cfg Config) (*Signer, error) {
	if cfg.TPM == nil {
		return nil, errors.New("tpmsigner: Config.TPM is missing")
	}
	if cfg.Algorithm > ECC {
		return nil, fmt.Errorf("tpmsigner: Config.Algorithm %d is not known", cfg.Algorithm)
	}
	cfg.TPM = tpmretry.TPM{TPM: cfg.TPM}
	return &Signer{cfg: cfg}, nil
}

// EndorsementKey returns the TPM's endorsement key in the form that a node's
// configuration takes: base64 of the DER SubjectPublicKeyInfo. The key at the
// persistent handle 0x81010001 is preferred, then 0x81010002; where there is
// none, it is made from the TCG's template and not kept.
func EndorsementKey(ctx context.Context, tpm transport.TPM, alg Algorithm) (string, error) {
	s, err := New(Config{TPM: tpm, Algorithm: alg})
	if err != nil {
		return "", err
	}
	var der []byte
	err = s.withEK(ctx, func(ek *key) (err error) {
		der, err = ek.spki()
		return err
	})
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

// Evidence implements sco.Signer.
func (s *Signer) Evidence(ctx context.Context) (sco.Evidence, error) {
	ev := sco.Evidence{Kind: sco.EvidenceTPM}
	err := s.withEK(ctx, func(ek *key) (err error) {
		ev.EndorsementKey, err = ek.spki()
		return err
	})
	if err != nil {
		return sco.Evidence{}, err
	}
	if ev.Certificates, err = s.certificates(ctx); err != nil {
		return sco.Evidence{}, err
	}
	err = s.withAK(ctx, func(ak *key) error {
		out, err := tpm2.CertifyCreation{
			SignHandle:     ak.auth(tpm2.PasswordAuth(nil)),
			ObjectHandle:   ak.named(),
			CreationHash:   ak.creationHash,
			InScheme:       nullScheme(),
			CreationTicket: ak.ticket,
		}.Execute(s.cfg.TPM)
		if err != nil {
			return fmt.Errorf("tpmsigner: certifying the attestation key's creation: %w", err)
		}
		ev.AttestationKey = ak.public.Bytes()
		ev.CreationData = ak.creation
		ev.CreationAttestation = out.CertifyInfo.Bytes()
		ev.CreationSignature = tpm2.Marshal(out.Signature)
		return nil
	})
	if err != nil {
		return sco.Evidence{}, err
	}
	return ev, nil
}

// Prove implements sco.Signer.
func (s *Signer) Prove(ctx context.Context, c sco.Challenge) (sco.Proof, error) {
	var p sco.Proof
	cred, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](c.Credential)
	if err != nil {
		return sco.Proof{}, fmt.Errorf("tpmsigner: credential: %w", err)
	}
	secret, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](c.Secret)
	if err != nil {
		return sco.Proof{}, fmt.Errorf("tpmsigner: credential secret: %w", err)
	}
	err = s.withAK(ctx, func(ak *key) error {
		err := s.withEK(ctx, func(ek *key) error {
			out, err := tpm2.ActivateCredential{
				ActivateHandle: ak.auth(tpm2.PasswordAuth(nil)),
				KeyHandle:      ek.auth(ek.use()),
				CredentialBlob: *cred,
				Secret:         *secret,
			}.Execute(s.cfg.TPM, tpm2.HMAC(tpm2.TPMAlgSHA256, 16,
				tpm2.Salted(ek.handle, *ek.contents), tpm2.AESEncryption(128, tpm2.EncryptOut)))
			if err != nil {
				return fmt.Errorf("tpmsigner: activating the credential: %w", err)
			}
			p.ActivatedSecret = out.CertInfo.Buffer
			return nil
		})
		if err != nil {
			return err
		}
		return s.quote(ak, &c, &p)
	})
	if err != nil {
		return sco.Proof{}, err
	}
	return p, nil
}

func (s *Signer) quote(ak *key, c *sco.Challenge, p *sco.Proof) error {
	var sel [3]byte
	for _, pcr := range c.PCRs {
		if pcr < 0 || pcr > 23 {
			return fmt.Errorf("tpmsigner: there is no PCR %d", pcr)
		}
		sel[pcr/8] |= 1 << (pcr % 8)
		v, err := s.readPCR(pcr)
		if err != nil {
			return err
		}
		p.PCRValues = append(p.PCRValues, v)
	}
	out, err := tpm2.Quote{
		SignHandle:     ak.auth(tpm2.PasswordAuth(nil)),
		QualifyingData: tpm2.TPM2BData{Buffer: c.Digest[:]},
		InScheme:       nullScheme(),
		PCRSelect:      selection(sel[:]),
	}.Execute(s.cfg.TPM)
	if err != nil {
		return fmt.Errorf("tpmsigner: quoting: %w", err)
	}
	p.Quote, p.QuoteSignature = out.Quoted.Bytes(), tpm2.Marshal(out.Signature)
	return nil
}

func (s *Signer) readPCR(pcr int) ([]byte, error) {
	var sel [3]byte
	sel[pcr/8] = 1 << (pcr % 8)
	out, err := tpm2.PCRRead{PCRSelectionIn: selection(sel[:])}.Execute(s.cfg.TPM)
	if err != nil {
		return nil, fmt.Errorf("tpmsigner: reading PCR %d: %w", pcr, err)
	}
	if len(out.PCRValues.Digests) != 1 {
		return nil, fmt.Errorf("tpmsigner: the TPM has no PCR %d in its SHA-256 bank", pcr)
	}
	return bytes.Clone(out.PCRValues.Digests[0].Buffer), nil
}

func selection(sel []byte) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: sel}}}
}

func nullScheme() tpm2.TPMTSigScheme { return tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull} }

// key is a loaded key.
type key struct {
	handle   tpm2.TPMHandle
	name     tpm2.TPM2BName
	public   tpm2.TPM2BPublic
	contents *tpm2.TPMTPublic

	creation     []byte
	creationHash tpm2.TPM2BDigest
	ticket       tpm2.TPMTTKCreation
}

func (k *key) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: s}
}

func (k *key) named() tpm2.NamedHandle { return tpm2.NamedHandle{Handle: k.handle, Name: k.name} }

func (k *key) spki() ([]byte, error) {
	pub, err := tpm2.Pub(*k.contents)
	if err != nil {
		return nil, fmt.Errorf("tpmsigner: endorsement key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("tpmsigner: endorsement key: %w", err)
	}
	return der, nil
}

// use authorizes the use of an endorsement key: by the policy of the TCG's low
// range templates, or by the empty password of the high range ones.
func (k *key) use() tpm2.Session {
	if k.contents.ObjectAttributes.UserWithAuth {
		return tpm2.PasswordAuth(nil)
	}
	return tpm2.Policy(k.contents.NameAlg, 16, func(tpm transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{
			AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: handle,
			NonceTPM:      nonce,
		}.Execute(tpm)
		return err
	})
}

// usable tells whether the key is an endorsement key of the wanted kind.
func (k *key) usable(alg Algorithm) bool {
	a := k.contents.ObjectAttributes
	if !a.Restricted || !a.Decrypt || a.SignEncrypt || !a.FixedTPM || k.contents.NameAlg != tpm2.TPMAlgSHA256 {
		return false
	}
	switch k.contents.Type {
	case tpm2.TPMAlgRSA:
		p, err := k.contents.Parameters.RSADetail()
		return err == nil && p.KeyBits == 2048 && alg != ECC
	case tpm2.TPMAlgECC:
		p, err := k.contents.Parameters.ECCDetail()
		return err == nil && p.CurveID == tpm2.TPMECCNistP256 && alg != RSA
	}
	return false
}

// The handles that the TCG reserves for endorsement keys; cloud machines and
// installers put theirs there.
const (
	handleEK  = tpm2.TPMHandle(0x81010001)
	handleEK2 = tpm2.TPMHandle(0x81010002)
)

func (s *Signer) withEK(ctx context.Context, fn func(*key) error) error {
	for _, h := range []tpm2.TPMHandle{handleEK, handleEK2} {
		if err := ctx.Err(); err != nil {
			return err
		}
		out, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(s.cfg.TPM)
		if err != nil {
			if errors.Is(err, tpm2.TPMRCHandle) {
				continue
			}
			return fmt.Errorf("tpmsigner: reading the key at %#x: %w", uint32(h), err)
		}
		k := &key{handle: h, name: out.Name, public: out.OutPublic}
		if k.contents, err = out.OutPublic.Contents(); err == nil && k.usable(s.cfg.Algorithm) {
			return fn(k)
		}
	}
	template := tpm2.RSAEKTemplate
	if s.cfg.Algorithm == ECC {
		template = tpm2.ECCEKTemplate
	}
	return s.withPrimary(ctx, "endorsement key", template, fn)
}

func (s *Signer) withAK(ctx context.Context, fn func(*key) error) error {
	return s.withPrimary(ctx, "attestation key", akTemplate(), fn)
}

func (s *Signer) withPrimary(ctx context.Context, what string, template tpm2.TPMTPublic, fn func(*key) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	out, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(s.cfg.TPM)
	if err != nil {
		return fmt.Errorf("tpmsigner: making the %s: %w", what, err)
	}
	defer func() {
		if _, ferr := (tpm2.FlushContext{FlushHandle: out.ObjectHandle}).Execute(s.cfg.TPM); ferr != nil && err == nil {
			err = fmt.Errorf("tpmsigner: flushing the %s: %w", what, ferr)
		}
	}()
	k := &key{
		handle: out.ObjectHandle, name: out.Name, public: out.OutPublic,
		creation: out.CreationData.Bytes(), creationHash: out.CreationHash, ticket: out.CreationTicket,
	}
	if k.contents, err = out.OutPublic.Contents(); err != nil {
		return fmt.Errorf("tpmsigner: %s: %w", what, err)
	}
	return fn(k)
}

// akTemplate is a restricted signing key: it signs only what its TPM has made.
func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}
