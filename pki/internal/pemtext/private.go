package pemtext

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// maxDepth bounds how often an encoding inside an encoding is undone.
	maxDepth = 3
	// minRun is the shortest run of base64 or hex characters that is decoded.
	// The smallest private key, P-256 in SEC 1 without parameters, is 39 bytes,
	// 52 characters of base64.
	minRun = 48
	// maxWork bounds what is searched altogether, in terms of what was given.
	maxWork = 16
	// maxIntegers bounds the numbers that are looked at in one place; a key
	// has 9 at most.
	maxIntegers = 12
)

// markers are texts that stand beside private keys. They are looked for without
// regard to case.
func markers() map[string]string {
	return map[string]string{
		"private key-----":           "a PEM block with a private key",
		"begin rsa private":          "a PEM block with a private key",
		"begin ec private":           "a PEM block with a private key",
		"begin encrypted private":    "a PEM block with an encrypted private key",
		"begin private key":          "a PEM block with a private key",
		"begin ssh2 encrypted priv":  "an SSH private key",
		"begin pgp private key":      "an OpenPGP private key",
		"begin pkcs12":               "a PKCS #12 file",
		"putty-user-key-file":        "a PuTTY private key",
		"privateexponent:":           "a printed private key",
		"private-key: (":             "a printed private key",
		"private-key:\npriv:":        "a printed private key",
		"private-key:\r\npriv:":      "a printed private key",
		"private-key:\nseed:":        "a printed private key",
		"-----begin tss2 private":    "a TPM key file",
		"-----begin openssh private": "an OpenSSH private key",
	}
}

// FindPrivateKey looks for a private key anywhere in data: in PEM of any label,
// in bare base64 or hex, in DER, in JSON (JWK), and inside one another. It
// returns what it found, in words.
func FindPrivateKey(data []byte) (string, bool) {
	budget := maxWork*len(data) + 64<<10
	return find(data, 0, &budget)
}

func find(data []byte, depth int, budget *int) (string, bool) {
	if *budget -= len(data); *budget < 0 {
		return "something that is encoded so often that it cannot be searched", true
	}
	lower := bytes.ToLower(data)
	for marker, form := range markers() {
		if bytes.Contains(lower, []byte(marker)) {
			return form, true
		}
	}
	if bytes.Contains(data, []byte("openssh-key-v1\x00")) {
		return "an OpenSSH private key", true
	}
	if isJWK(data) {
		return "a JSON web key with its private part", true
	}
	if form, ok := inDER(data); ok {
		return form, true
	}
	if depth == maxDepth {
		return "", false
	}
	for _, run := range runs(data) {
		for _, decoded := range decodings(run) {
			if form, ok := find(decoded, depth+1, budget); ok {
				return form, true
			}
		}
	}
	return "", false
}

// isJWK looks for the members "kty" and "d" of RFC 7517 and 7518.
func isJWK(data []byte) bool {
	packed := bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == '\\' {
			return -1
		}
		return r
	}, data)
	return bytes.Contains(packed, []byte(`"kty":`)) && bytes.Contains(packed, []byte(`"d":"`))
}

// edge is the first or last line of a PEM block, which ends a run: its dashes
// are characters of URL-safe base64.
var edge = regexp.MustCompile(`-{2,}(BEGIN|END)[^-]*-*`)

// runs returns the stretches of base64 characters in data: each as it stands,
// joined over line breaks and escaped line breaks.
func runs(data []byte) [][]byte {
	var out [][]byte
	var cur []byte
	flush := func() {
		if len(cur) >= minRun {
			out = append(out, cur)
		}
		cur = nil
	}
	data = edge.ReplaceAll(data, []byte("\x00"))
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '+', c == '/', c == '-', c == '_', c == '=':
			cur = append(cur, c)
		case c == '\n', c == '\r', c == ' ', c == '\t', c == ':':
		case c == '\\' && i+1 < len(data) && (data[i+1] == 'n' || data[i+1] == 'r' || data[i+1] == 't'):
			i++
		default:
			flush()
		}
	}
	flush()
	return out
}

// decodings undoes hex and the forms of base64. A run that stands behind other
// words is tried at each of the four phases of base64.
func decodings(run []byte) [][]byte {
	var out [][]byte
	if h := bytes.TrimLeft(run, "x"); len(h)%2 == 0 {
		if b, err := hex.DecodeString(string(h)); err == nil {
			out = append(out, b)
		}
	}
	std := bytes.TrimRight(bytes.Map(func(r rune) rune {
		switch r {
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return r
	}, run), "=")
	std = bytes.ReplaceAll(std, []byte("="), nil)
	for phase := range 4 {
		if phase >= len(std) {
			break
		}
		s := std[phase:]
		if len(s)%4 == 1 {
			s = s[:len(s)-1]
		}
		if b, err := base64.RawStdEncoding.DecodeString(string(s)); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// inDER looks at every offset for the beginning of a private key.
func inDER(data []byte) (string, bool) {
	for i := 0; i+8 < len(data); i++ {
		if data[i] != 0x30 {
			continue
		}
		in := cryptobyte.String(data[i:])
		var seq cryptobyte.String
		if !in.ReadASN1(&seq, casn1.SEQUENCE) {
			continue
		}
		if form, ok := classify(seq); ok {
			return form, true
		}
	}
	return "", false
}

// classify looks at the content of a SEQUENCE.
func classify(seq cryptobyte.String) (string, bool) {
	var oid, inner cryptobyte.String
	s := seq
	if s.PeekASN1Tag(casn1.OBJECT_IDENTIFIER) {
		return "a TPM key file", s.ReadASN1(&oid, casn1.OBJECT_IDENTIFIER) && bytes.HasPrefix(oid, []byte{0x67, 0x81, 0x05, 0x0a, 0x01}) && !s.Empty()
	}
	if s.PeekASN1Tag(casn1.SEQUENCE) {
		return "an encrypted private key (PKCS #8)", encrypted(s)
	}
	var version cryptobyte.String
	if !s.ReadASN1(&version, casn1.INTEGER) || len(version) != 1 {
		return "", false
	}
	switch {
	case s.PeekASN1Tag(casn1.SEQUENCE):
		s.ReadASN1(&inner, casn1.SEQUENCE)
		if !inner.ReadASN1(&oid, casn1.OBJECT_IDENTIFIER) {
			return "", false
		}
		if version[0] == 3 {
			return "a PKCS #12 file", bytes.HasPrefix(oid, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07})
		}
		return "a private key (PKCS #8)", version[0] <= 1 && s.PeekASN1Tag(casn1.OCTET_STRING)
	case s.PeekASN1Tag(casn1.OCTET_STRING):
		var key cryptobyte.String
		s.ReadASN1(&key, casn1.OCTET_STRING)
		sizes := []int{28, 32, 48, 66}
		return "a private key (SEC 1)", version[0] == 1 && slices.Contains(sizes, len(key))
	case s.PeekASN1Tag(casn1.INTEGER):
		return "a private key (PKCS #1 or DSA)", version[0] <= 1 && integers(s) >= 5
	}
	return "", false
}

// integers counts the INTEGERs that follow each other, and gives 0 when none of
// them is as large as a key.
func integers(s cryptobyte.String) int {
	n, large := 0, false
	for n < maxIntegers && s.PeekASN1Tag(casn1.INTEGER) {
		var v cryptobyte.String
		if !s.ReadASN1(&v, casn1.INTEGER) {
			return 0
		}
		large = large || len(v) >= 64
		n++
	}
	if !large {
		return 0
	}
	return n
}

// encrypted recognises EncryptedPrivateKeyInfo by a password-based algorithm
// (PKCS #5, PKCS #12) and what it encrypts.
func encrypted(s cryptobyte.String) bool {
	var alg, oid cryptobyte.String
	if !s.ReadASN1(&alg, casn1.SEQUENCE) || !alg.ReadASN1(&oid, casn1.OBJECT_IDENTIFIER) || !s.PeekASN1Tag(casn1.OCTET_STRING) {
		return false
	}
	pkcs5 := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05}
	pkcs12 := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01}
	return bytes.HasPrefix(oid, pkcs5) || bytes.HasPrefix(oid, pkcs12)
}
