package tunnel

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// signerFor checks a private key and keeps RSA from signing with SHA-1.
func signerFor(s ssh.Signer) (ssh.Signer, error) {
	if s == nil {
		return nil, errors.New("key is missing")
	}
	if err := checkKey(s.PublicKey()); err != nil {
		return nil, err
	}
	if s.PublicKey().Type() != ssh.KeyAlgoRSA {
		return s, nil
	}
	as, ok := s.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("an RSA key that can't sign with SHA-2")
	}
	return ssh.NewSignerWithAlgorithms(as, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
}
