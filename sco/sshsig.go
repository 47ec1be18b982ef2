package sco

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// sshNamespace keeps the proof of the SSH key apart from every other signature
// by that key, above all from SSH's own user authentication.
const sshNamespace = "sco-router-key@mooring"

// sshSigned is what is signed: the SSHSIG format of OpenSSH (PROTOCOL.sshsig).
func sshSigned(digest [32]byte) []byte {
	h := sha512.Sum512(digest[:])
	return append([]byte("SSHSIG"), ssh.Marshal(struct {
		Namespace, Reserved, Hash, Sum string
	}{sshNamespace, "", "sha512", string(h[:])})...)
}

func signSSH(key ssh.Signer, digest [32]byte) ([]byte, error) {
	var sig *ssh.Signature
	var err error
	if as, ok := key.(ssh.AlgorithmSigner); ok && key.PublicKey().Type() == ssh.KeyAlgoRSA {
		sig, err = as.SignWithAlgorithm(rand.Reader, sshSigned(digest), ssh.KeyAlgoRSASHA512)
	} else {
		sig, err = key.Sign(rand.Reader, sshSigned(digest))
	}
	if err != nil {
		return nil, fmt.Errorf("sco: signing with the SSH key: %w", err)
	}
	return ssh.Marshal(sig), nil
}

func verifySSH(key ssh.PublicKey, digest [32]byte, b []byte) error {
	var sig ssh.Signature
	if err := ssh.Unmarshal(b, &sig); err != nil {
		return errors.New("the SSH key's signature is malformed")
	}
	// SHA-1, which x/crypto still verifies, is not good enough.
	if sig.Format == ssh.KeyAlgoRSA || len(sig.Rest) != 0 {
		return errors.New("the SSH key's signature has a format that is not accepted")
	}
	if err := key.Verify(sshSigned(digest), &sig); err != nil {
		return errors.New("the SSH key's signature does not verify")
	}
	return nil
}

// parseSSHKey decodes a router's or a host's key and bounds its kind.
func parseSSHKey(b []byte) (ssh.PublicKey, error) {
	key, err := ssh.ParsePublicKey(b)
	if err != nil {
		return nil, errors.New("the SSH key is malformed")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384:
		return key, nil
	case ssh.KeyAlgoRSA:
		if ck, ok := key.(ssh.CryptoPublicKey); ok {
			if pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && checkSigningKey(pub) == nil {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("an SSH key of type %.40q is not accepted, Ed25519, ECDSA P-256 or P-384 and RSA 2048..4096 are", key.Type())
}
