// Package pcrpolicy makes, signs and checks signed boot policies.
//
// A key that is sealed to one set of PCR values is lost with the next firmware
// or system update. A key that is sealed to a vendor's signing key is not: the
// vendor signs the PCR values of each release ([Make], [Document.Sign]), ships
// the [Document] with it, and the TPM gives the key out when the boot matches any
// alternative that is signed and not revoked. Nothing is wrapped again.
//
// Each alternative has a number. The TPM compares it with an NV counter that
// only grows: numbers below the counter are revoked. A TPM's counter begins at
// 1 or, where counters were deleted before, a little above, so a vendor begins
// to number at [FirstNumber].
//
// The document is JSON, so that a release engineer can read what is signed:
//
//	{
//	  "format": "mooring-pcr-policy/1",
//	  "reference": "acme-router",
//	  "counter_index": 25231362,
//	  "alternatives": [
//	    {"number": 16, "bank": "sha256", "pcrs": [{"index": 7, "value": "<hex>"}], "signature": "<base64>"}
//	  ]
//	}
//
// The signature is over SHA-256(policy || SHA-256(reference)), where policy is
// the TPM's digest of PolicyPCR and PolicyNV: what TPM2_PolicyAuthorize checks
// (TPM 2.0 Library, Part 3, 23.16). It is RSA PKCS #1 v1.5 with SHA-256, or
// ECDSA on P-256 in ASN.1. Everything else in the document follows from it or is
// a hint.
package pcrpolicy
