package tunnel

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
)

// version is sent in the SSH version exchange. OpenSSH decides by it about
// workarounds, so it must not look like a known program's.
const version = "SSH-2.0-Mooring_1"

// sshConfig returns the algorithms that both sides offer. The hybrid key
// exchange comes first; the classical curves follow because OpenSSH knows
// mlkem768x25519-sha256 only from 9.9 on. Only ciphers with built-in
// authentication are offered, so the MAC list never matters on the wire; it is
// set all the same because an empty one means the library's default, SHA-1
// included.
func sshConfig(requirePQ bool) ssh.Config {
	c := ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384},
		Ciphers:      []string{ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM},
		MACs:         []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
	}
	if requirePQ {
		c.KeyExchanges = c.KeyExchanges[:1]
	}
	return c
}

// keyAlgorithms are the signature algorithms for routers and hosts. RSA with
// SHA-1 and DSA are out; so are security keys (sk-), which need a touch.
var keyAlgorithms = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// checkKey refuses keys that are not fit to be pinned.
func checkKey(k ssh.PublicKey) error {
	if k == nil {
		return fmt.Errorf("key is missing")
	}
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA:
		return nil
	}
	return fmt.Errorf("key type %s is not supported", quote(k.Type()))
}

// hostKeyAlgorithms returns the algorithms that the pinned keys can sign with,
// so that a server with several host keys shows one that we know.
func hostKeyAlgorithms(pins []ssh.PublicKey) []string {
	var out []string
	for _, k := range pins {
		if k.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		out = append(out, k.Type())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// pinned reports whether key is exactly one of pins.
func pinned(pins []ssh.PublicKey, key ssh.PublicKey) bool {
	wire := key.Marshal()
	return slices.ContainsFunc(pins, func(p ssh.PublicKey) bool { return bytes.Equal(p.Marshal(), wire) })
}

// keyExchange names the negotiated key exchange for status and logs.
func keyExchange(c ssh.ConnMetadata) string {
	if m, ok := c.(ssh.AlgorithmsConnMetadata); ok {
		return m.Algorithms().KeyExchange
	}
	return ""
}
