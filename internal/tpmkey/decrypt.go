package tpmkey

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// DualUse returns the template of a key that may sign as well as decrypt. One
// key for both is weaker than two: use it where a device can have only one, and
// has to sign its own certificate with it. A decrypt-only key cannot sign its
// certificate; another key, such as an attestation key or an IDevID, does.
func (t Template) DualUse() Template {
	t.name += " (dual use)"
	t.public.ObjectAttributes.SignEncrypt = true
	t.public.ObjectAttributes.Decrypt = true
	return t
}

// Decrypter returns the RSA key as a [crypto.Decrypter]. The key has to be made
// for [Decrypt], or be a [Template.DualUse] one.
//
// Its Decrypt takes *rsa.OAEPOptions with every hash, mask generation hash and
// label, and *rsa.PKCS1v15DecryptOptions with SessionKeyLen, which returns a key
// read from the random source when the padding is not in order, as
// [rsa.PrivateKey.Decrypt] does. The TPM does the bare RSA operation and the
// padding is looked at here in constant time, because TPMs answer bad padding
// with an error of their own, at a time of their own, and most of them know only
// some kinds of OAEP. An error in which the TPM or the key file has a part has
// the method KeyUnavailable() bool and returns true.
func (k *Key) Decrypter() (crypto.Decrypter, error) {
	pub, ok := k.blob.key.(*rsa.PublicKey)
	if err := k.checkDecrypt(ok, "RSA"); err != nil {
		return nil, err
	}
	return &rsaDecrypter{k: k, pub: pub}, nil
}

// KeyExchanger returns the EC key as an [ecdh.KeyExchanger]. The key has to be
// made for [Decrypt], or be a [Template.DualUse] one. Its errors have the method
// KeyUnavailable, see [Key.Decrypter].
func (k *Key) KeyExchanger() (ecdh.KeyExchanger, error) {
	ec, ok := k.blob.key.(*ecdsa.PublicKey)
	if err := k.checkDecrypt(ok, "EC"); err != nil {
		return nil, err
	}
	pub, err := ec.ECDH()
	if err != nil {
		return nil, fmt.Errorf("tpmkey: public key: %w", err)
	}
	return &exchanger{k: k, pub: pub}, nil
}

func (k *Key) checkDecrypt(rightKind bool, kind string) error {
	if !rightKind {
		return fmt.Errorf("%w: the key is not an %s key", ErrUnsupported, kind)
	}
	if !k.blob.area.ObjectAttributes.Decrypt {
		return fmt.Errorf("%w: decrypting with a key that was made to sign", ErrUnsupported)
	}
	return nil
}

// unavailableError says that the key could not be used, which has nothing to do
// with what was to be decrypted.
type unavailableError struct{ err error }

func (e unavailableError) Error() string        { return e.err.Error() }
func (e unavailableError) Unwrap() error        { return e.err }
func (e unavailableError) KeyUnavailable() bool { return true }

type rsaDecrypter struct {
	k   *Key
	pub *rsa.PublicKey
}

func (d *rsaDecrypter) Public() crypto.PublicKey { return d.pub }

func (d *rsaDecrypter) Decrypt(rand io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	unpad, err := unpadder(rand, d.pub.Size(), opts)
	if err != nil {
		return nil, err
	}
	// Both are public, and checked here so that an error of the TPM can only
	// mean that something is wrong with the TPM.
	if len(ciphertext) != d.pub.Size() || new(big.Int).SetBytes(ciphertext).Cmp(d.pub.N) >= 0 {
		return nil, rsa.ErrDecryption
	}
	em, err := d.k.rawRSA(ciphertext)
	if err != nil {
		return nil, unavailableError{err}
	}
	defer clear(em)
	return unpad(em)
}

// rawRSA is the RSA operation without padding: TPM2_RSA_Decrypt with the scheme
// TPM_ALG_NULL (TPM 2.0 part 3, 14.3).
func (k *Key) rawRSA(ciphertext []byte) ([]byte, error) {
	var em []byte
	err := k.with(func(p *Parent, key tpm2.NamedHandle) error {
		rsp, err := tpm2.RSADecrypt{
			KeyHandle:  tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: p.Session(EncryptInOut)},
			CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: ciphertext},
			InScheme:   tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgNull},
		}.Execute(p.TPM)
		if err != nil {
			return fmt.Errorf("tpmkey: rsa decrypt: %w", err)
		}
		if len(rsp.Message.Buffer) > len(ciphertext) {
			return fmt.Errorf("tpmkey: rsa decrypt: the TPM gave %d bytes", len(rsp.Message.Buffer))
		}
		em = leftPad(rsp.Message.Buffer, len(ciphertext))
		return nil
	})
	return em, err
}

type exchanger struct {
	k   *Key
	pub *ecdh.PublicKey
}

func (e *exchanger) PublicKey() *ecdh.PublicKey { return e.pub }
func (e *exchanger) Curve() ecdh.Curve          { return e.pub.Curve() }

// ECDH implements [ecdh.KeyExchanger] with TPM2_ECDH_ZGen (TPM 2.0 part 3,
// 14.5). An [ecdh.PublicKey] is always a point on its curve.
func (e *exchanger) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	if peer.Curve() != e.Curve() {
		return nil, fmt.Errorf("%w: public keys are on different curves", ErrUnsupported)
	}
	point := peer.Bytes()
	size := len(point) / 2
	var z []byte
	err := e.k.with(func(p *Parent, key tpm2.NamedHandle) error {
		rsp, err := tpm2.ECDHZGen{
			KeyHandle: tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: p.Session(EncryptInOut)},
			InPoint: tpm2.New2B(tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+size]},
				Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
			}),
		}.Execute(p.TPM)
		if err != nil {
			return fmt.Errorf("tpmkey: ecdh: %w", err)
		}
		out, err := rsp.OutPoint.Contents()
		if err != nil || len(out.X.Buffer) > size {
			return fmt.Errorf("tpmkey: ecdh: the TPM gave no point: %w", err)
		}
		z = leftPad(out.X.Buffer, size)
		return nil
	})
	if err != nil {
		return nil, unavailableError{err}
	}
	return z, nil
}

// leftPad restores the leading zeros that a TPM may leave away.
func leftPad(b []byte, size int) []byte {
	out := make([]byte, size)
	copy(out[size-len(b):], b)
	return out
}
