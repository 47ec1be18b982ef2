package autoinstall

import (
	"crypto/x509"
	"encoding/pem"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// signersOf returns the certificates that a signed message in DER carries. It is
// used only where no owner is trusted; a message that it can't read gives an
// empty pool, with which verification fails.
func signersOf(message []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	if block, _ := pem.Decode(message); block != nil {
		message = block.Bytes
	}
	// ContentInfo and SignedData, RFC 5652 sections 3 and 5.1.
	der := cryptobyte.String(message)
	var info, content, signed, certs cryptobyte.String
	var has bool
	if !der.ReadASN1(&info, asn1.SEQUENCE) ||
		!info.SkipASN1(asn1.OBJECT_IDENTIFIER) ||
		!info.ReadASN1(&content, asn1.Tag(0).Constructed().ContextSpecific()) ||
		!content.ReadASN1(&signed, asn1.SEQUENCE) ||
		!signed.SkipASN1(asn1.INTEGER) ||
		!signed.SkipASN1(asn1.SET) ||
		!signed.SkipASN1(asn1.SEQUENCE) ||
		!signed.ReadOptionalASN1(&certs, &has, asn1.Tag(0).Constructed().ContextSpecific()) || !has {
		return pool
	}
	for !certs.Empty() {
		var one cryptobyte.String
		var tag asn1.Tag
		if !certs.ReadAnyASN1Element(&one, &tag) {
			return pool
		}
		if cert, err := x509.ParseCertificate(one); err == nil {
			pool.AddCert(cert)
		}
	}
	return pool
}
