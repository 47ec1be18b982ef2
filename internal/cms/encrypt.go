package cms

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

// Cipher is how Encrypt encrypts.
type Cipher int

const (
	// AES256GCM is AuthEnvelopedData with AES-256-GCM; RSA recipients with OAEP and SHA-256. Read by openssl cms.
	AES256GCM Cipher = iota
	// AES256CBC is EnvelopedData with AES-256-CBC as in RFC 8886; RSA recipients with PKCS #1 v1.5. Read by openssl
	// smime (RSA only) and cms. It has no integrity: use it only for devices that read nothing else.
	AES256CBC
)

// EncryptConfig configures Encrypt.
type EncryptConfig struct {
	// Recipients are certificates with RSA (2048 bits or more), P-256, P-384 or P-521 keys, 1 to 64. Their validity,
	// signature and usage are not looked at. Required.
	Recipients []*x509.Certificate
	// Cipher chooses the form, default AES256GCM.
	Cipher Cipher
	// KeyIdentifiers names recipients by subject key identifier in place of issuer and serial number.
	KeyIdentifiers bool
	// BindCipher derives the key that encrypts the content from the cipher's name (RFC 9709), so that nobody can relabel
	// an AES-GCM message as an AES-CBC one. OpenSSL 3.0 cannot read it; this package can.
	BindCipher bool
}

// Encrypt encrypts content and returns the message in DER.
func Encrypt(content []byte, cfg EncryptConfig) ([]byte, error) {
	if n := len(cfg.Recipients); n == 0 || n > maxRecipients {
		return nil, fmt.Errorf("cms: encrypting: %d recipients, want 1 to %d", n, maxRecipients)
	}
	cek := make([]byte, 32)
	defer clear(cek)
	if _, err := rand.Read(cek); err != nil {
		return nil, fmt.Errorf("cms: encrypting: %w", err)
	}
	var infos [][]byte
	for i, cert := range cfg.Recipients {
		info, err := recipientInfo(cert, cek, cfg)
		if err != nil {
			return nil, fmt.Errorf("cms: encrypting to recipient %d: %w", i+1, err)
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, bytes.Compare)
	set := tlv(tagSet, infos...)
	switch cfg.Cipher {
	case AES256GCM:
		return sealGCM(cek, content, set, cfg.BindCipher)
	case AES256CBC:
		return sealCBC(cek, content, set, envelopedVersion(infos), cfg.BindCipher)
	}
	return nil, fmt.Errorf("cms: encrypting: unknown cipher %d", cfg.Cipher)
}

// contentCipher gives the cipher for the content and the algorithm identifier that goes into the message.
func contentCipher(cek, alg []byte, bind bool) (cipher.Block, []byte, error) {
	if bind {
		var err error
		if cek, err = bindKey(cek, alg); err != nil {
			return nil, nil, err
		}
		defer clear(cek)
		alg = tlv(tagSequence, oidTLV(oidCEKHKDF), alg)
	}
	block, err := aes.NewCipher(cek)
	return block, alg, err
}

// envelopedVersion is 0 when all recipients are key transports by issuer and serial number, which are of version 0,
// and 2 otherwise (RFC 5652, section 6.1).
func envelopedVersion(infos [][]byte) byte {
	for _, info := range infos {
		r, err := parseRecipient(info)
		if err != nil || r[0].kind != kindTransport || r[0].id.ski != nil {
			return 2
		}
	}
	return 0
}

func sealGCM(cek, content, recipients []byte, bind bool) ([]byte, error) {
	nonce := make([]byte, minNonce)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("cms: encrypting: %w", err)
	}
	block, alg, err := contentCipher(cek, tlv(tagSequence, oidTLV(oidAES+"\x2e"),
		tlv(tagSequence, tlv(tagOctets, nonce), []byte{tagInteger, 1, maxTag})), bind)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypting: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypting: %w", err)
	}
	m := layout{contentType: oidAuthEnv, recipients: recipients, alg: alg, size: len(content), macSize: maxTag}
	out := aead.Seal(m.head(), nonce, content, nil)
	tag := bytes.Clone(out[len(out)-maxTag:])
	out = appendHeader(out[:len(out)-maxTag], tagOctets, maxTag)
	return append(out, tag...), nil
}

func sealCBC(cek, content, recipients []byte, version byte, bind bool) ([]byte, error) {
	iv := make([]byte, aes.BlockSize)
	if _, err := rand.Read(iv); err != nil {
		return nil, fmt.Errorf("cms: encrypting: %w", err)
	}
	block, alg, err := contentCipher(cek, tlv(tagSequence, oidTLV(oidAES+"\x2a"), tlv(tagOctets, iv)), bind)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypting: %w", err)
	}
	pad := aes.BlockSize - len(content)%aes.BlockSize
	m := layout{contentType: oidEnveloped, version: version, recipients: recipients, alg: alg, size: len(content) + pad}
	out := m.head()
	start := len(out)
	out = append(out, content...)
	out = append(out, bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out[start:], out[start:])
	return out, nil
}

// layout is everything of a message but its content, which is appended in place: it may be large.
type layout struct {
	contentType     string
	version         byte
	recipients, alg []byte
	size, macSize   int
}

// head encodes the message up to the content, in a buffer that has room for all of it.
func (m layout) head() []byte {
	inner := slices.Concat(oidTLV(oidData), m.alg)
	contentHead := appendHeader(nil, context0Plain, m.size)
	eci := len(inner) + len(contentHead) + m.size
	eciHead := appendHeader(nil, tagSequence, eci)
	fixed := slices.Concat([]byte{tagInteger, 1, m.version}, m.recipients)
	body := len(fixed) + len(eciHead) + eci
	if m.macSize > 0 {
		body += 2 + m.macSize
	}
	bodyHead := appendHeader(nil, tagSequence, body)
	explicit := appendHeader(nil, context0, len(bodyHead)+body)
	oid := oidTLV(m.contentType)
	total := len(oid) + len(explicit) + len(bodyHead) + body
	out := appendHeader(make([]byte, 0, total+64), tagSequence, total)
	for _, part := range [][]byte{oid, explicit, bodyHead, fixed, eciHead, inner, contentHead} {
		out = append(out, part...)
	}
	return out
}

func oidTLV(oid string) []byte { return tlv(tagOID, []byte(oid)) }

// recipientInfo encrypts the content key to one certificate.
func recipientInfo(cert *x509.Certificate, cek []byte, cfg EncryptConfig) ([]byte, error) {
	if cert == nil {
		return nil, errors.New("no certificate")
	}
	if cfg.KeyIdentifiers && len(cert.SubjectKeyId) == 0 {
		return nil, errors.New("the certificate has no subject key identifier")
	}
	switch pub := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if err := checkPublicKey(pub); err != nil {
			return nil, err
		}
		return transportInfo(cert, pub, cek, cfg)
	case *ecdsa.PublicKey:
		key, err := pub.ECDH()
		if err != nil {
			return nil, err
		}
		if err := checkPublicKey(key); err != nil {
			return nil, err
		}
		return agreementInfo(cert, key, cek, cfg)
	}
	return nil, fmt.Errorf("certificate with a public key of type %T, want RSA or EC", cert.PublicKey)
}

// identifier encodes how a certificate is named; skiTag is the tag of the key identifier where it stands.
func identifier(cert *x509.Certificate, byKeyID bool, skiTag byte) []byte {
	switch {
	case !byKeyID:
		return tlv(tagSequence, cert.RawIssuer, tlv(tagInteger, serialContent(cert)))
	case skiTag&constructed != 0:
		return tlv(skiTag, tlv(tagOctets, cert.SubjectKeyId))
	default:
		return tlv(skiTag, cert.SubjectKeyId)
	}
}

func transportInfo(cert *x509.Certificate, pub *rsa.PublicKey, cek []byte, cfg EncryptConfig) ([]byte, error) {
	var wrapped, alg []byte
	var err error
	if cfg.Cipher == AES256CBC {
		// The devices that need CBC are those that read what RFC 8886 shows, which is PKCS #1 v1.5.
		wrapped, err = encryptPKCS1v15(pub, cek)
		alg = tlv(tagSequence, oidTLV(oidRSA), []byte{0x05, 0x00})
	} else {
		wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, cek, nil)
		hash := tlv(tagSequence, oidTLV(hashOID(crypto.SHA256)), []byte{0x05, 0x00})
		alg = tlv(tagSequence, oidTLV(oidOAEP), tlv(tagSequence,
			tlv(context0, hash), tlv(context1, tlv(tagSequence, oidTLV(oidMGF1), hash))))
	}
	if err != nil {
		return nil, err
	}
	version := byte(0)
	if cfg.KeyIdentifiers {
		version = 2
	}
	return tlv(tagSequence, []byte{tagInteger, 1, version}, identifier(cert, cfg.KeyIdentifiers, context0Plain),
		alg, tlv(tagOctets, wrapped)), nil
}

// agreementInfo makes an ephemeral key and agrees with the certificate's (RFC 5753, section 3.1). The KDF's hash
// matches the strength of the curve.
func agreementInfo(cert *x509.Certificate, pub *ecdh.PublicKey, cek []byte, cfg EncryptConfig) ([]byte, error) {
	ephemeral, err := pub.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	z, err := ephemeral.ECDH(pub)
	if err != nil {
		return nil, err
	}
	defer clear(z)
	kdf, scheme := crypto.SHA256, oidSECStd+"\x01"
	switch curveName(pub.Curve()) {
	case "P-384":
		kdf, scheme = crypto.SHA384, oidSECStd+"\x02"
	case "P-521":
		kdf, scheme = crypto.SHA512, oidSECStd+"\x03"
	}
	wrapAlg := tlv(tagSequence, oidTLV(oidAES+"\x2d"))
	kek := deriveKEK(kdf, z, wrapAlg, nil, 32)
	defer clear(kek)
	wrapped, err := wrapKey(kek, cek)
	if err != nil {
		return nil, err
	}
	point := append([]byte{0}, ephemeral.PublicKey().Bytes()...)
	originator := tlv(context1, tlv(tagSequence, oidTLV(oidECPublicKey)), tlv(tagBits, point))
	return tlv(context1, []byte{tagInteger, 1, 3}, tlv(context0, originator),
		tlv(tagSequence, oidTLV(scheme), wrapAlg),
		tlv(tagSequence, tlv(tagSequence, identifier(cert, cfg.KeyIdentifiers, context0), tlv(tagOctets, wrapped)))), nil
}

// EncodePEM wraps a message into PEM, with the label that every version of openssl reads for it: PKCS7 for
// EnvelopedData and SignedData, CMS for AuthEnvelopedData.
func EncodePEM(der []byte) []byte {
	const line = 48 // bytes that give a line of 64 characters
	label := "PKCS7"
	if bytes.Contains(der[:min(len(der), 32)], []byte(oidAuthEnv)) {
		label = "CMS"
	}
	out := make([]byte, 0, (len(der)/line+1)*65+64)
	out = append(out, "-----BEGIN "+label+"-----\n"...)
	for rest := der; len(rest) > 0; rest = rest[min(line, len(rest)):] {
		out = base64.StdEncoding.AppendEncode(out, rest[:min(line, len(rest))])
		out = append(out, '\n')
	}
	return append(out, "-----END "+label+"-----\n"...)
}
