package cms

import (
	"crypto"
	_ "crypto/sha1" // Linked for the KDF and OAEP parameters that openssl uses by default.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
)

// Object identifiers are kept as the content octets of their DER encoding: that is how they are compared, and
// components of 128 bits, which the owner's attributes have, need no special case.
const (
	oidPKCS7       = "\x2a\x86\x48\x86\xf7\x0d\x01\x07"         // 1.2.840.113549.1.7
	oidSMIMEct     = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01" // 1.2.840.113549.1.9.16.1
	oidData        = oidPKCS7 + "\x01"                          // id-data
	oidSignedData  = oidPKCS7 + "\x02"                          // id-signedData
	oidEnveloped   = oidPKCS7 + "\x03"                          // id-envelopedData
	oidAuthEnv     = oidSMIMEct + "\x17"                        // id-ct-authEnvelopedData
	oidPKCS9       = "\x2a\x86\x48\x86\xf7\x0d\x01\x09"         // 1.2.840.113549.1.9
	oidContentType = oidPKCS9 + "\x03"                          // id-contentType
	oidDigest      = oidPKCS9 + "\x04"                          // id-messageDigest
	oidSigningTime = oidPKCS9 + "\x05"                          // id-signingTime
	oidPKCS1       = "\x2a\x86\x48\x86\xf7\x0d\x01\x01"         // 1.2.840.113549.1.1
	oidCEKHKDF     = oidPKCS9 + "\x10\x03\x1f"                  // id-alg-cek-hkdf-sha256, RFC 9709
	oidRSA         = oidPKCS1 + "\x01"                          // rsaEncryption
	oidOAEP        = oidPKCS1 + "\x07"                          // id-RSAES-OAEP
	oidMGF1        = oidPKCS1 + "\x08"                          // id-mgf1
	oidPSpecified  = oidPKCS1 + "\x09"                          // id-pSpecified
	oidPSS         = oidPKCS1 + "\x0a"                          // id-RSASSA-PSS
	oidECPublicKey = "\x2a\x86\x48\xce\x3d\x02\x01"             // 1.2.840.10045.2.1
	oidP256        = "\x2a\x86\x48\xce\x3d\x03\x01\x07"         // 1.2.840.10045.3.1.7
	oidP384        = "\x2b\x81\x04\x00\x22"                     // 1.3.132.0.34
	oidP521        = "\x2b\x81\x04\x00\x23"                     // 1.3.132.0.35
	oidEd25519     = "\x2b\x65\x70"                             // 1.3.101.112
	oidX963Std     = "\x2b\x81\x05\x10\x86\x48\x3f\x00\x02"     // 1.3.133.16.840.63.0.2
	oidX963Cof     = "\x2b\x81\x05\x10\x86\x48\x3f\x00\x03"     // 1.3.133.16.840.63.0.3
	oidSECStd      = "\x2b\x81\x04\x01\x0b"                     // 1.3.132.1.11
	oidSECCof      = "\x2b\x81\x04\x01\x0e"                     // 1.3.132.1.14
	oidAES         = "\x60\x86\x48\x01\x65\x03\x04\x01"         // 2.16.840.1.101.3.4.1
	oidSHA2        = "\x60\x86\x48\x01\x65\x03\x04\x02"         // 2.16.840.1.101.3.4.2
	oidSHA1        = "\x2b\x0e\x03\x02\x1a"                     // 1.3.14.3.2.26
	oidECDSA       = "\x2a\x86\x48\xce\x3d\x04\x03"             // 1.2.840.10045.4.3
	oidDES3        = "\x2a\x86\x48\x86\xf7\x0d\x03\x07"         // 1.2.840.113549.3.7
	oidRC2         = "\x2a\x86\x48\x86\xf7\x0d\x03\x02"         // 1.2.840.113549.3.2
)

// hashByOID gives the hash functions that may be parameters of a key derivation or of OAEP. SHA-1 is sound there,
// and is what openssl writes when nobody asks for another; signatures use signHash instead.
func hashByOID(oid string) (crypto.Hash, bool) {
	if oid == oidSHA1 {
		return crypto.SHA1, true
	}
	switch oid {
	case oidSHA2 + "\x01":
		return crypto.SHA256, true
	case oidSHA2 + "\x02":
		return crypto.SHA384, true
	case oidSHA2 + "\x03":
		return crypto.SHA512, true
	case oidSHA2 + "\x04":
		return crypto.SHA224, true
	}
	return 0, false
}

// hashOID is the inverse of hashByOID for the hashes that this package writes.
func hashOID(h crypto.Hash) string {
	switch h {
	case crypto.SHA384:
		return oidSHA2 + "\x02"
	case crypto.SHA512:
		return oidSHA2 + "\x03"
	default:
		return oidSHA2 + "\x01"
	}
}

// oidName names an object identifier in an error.
func oidName(oid string) string {
	switch oid {
	case oidDES3:
		return "triple DES (encrypt with -aes-256-cbc, or with -aes-256-gcm where the command is openssl cms)"
	case oidRC2:
		return "RC2 (encrypt with -aes-256-cbc)"
	case oidData:
		return "data"
	case oidSignedData:
		return "signed data"
	case oidEnveloped:
		return "enveloped data"
	case oidAuthEnv:
		return "authenticated enveloped data"
	case oidPKCS7 + "\x05":
		return "digested data"
	case oidPKCS7 + "\x06":
		return "password-encrypted data"
	case oidSMIMEct + "\x09":
		return "compressed data"
	}
	var o x509.OID
	if err := o.UnmarshalBinary([]byte(oid)); err != nil {
		return "an invalid object identifier"
	}
	return "object identifier " + o.String()
}
