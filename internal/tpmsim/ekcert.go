package tpmsim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Where the TCG EK Credential Profile puts endorsement key certificates, and
// where provisioning guidance and cloud machines keep the keys themselves.
const (
	nvRSACertificate = 0x01c00002
	nvECCCertificate = 0x01c0000a
	// RSAEKHandle is where ProvisionEK keeps the RSA-2048 endorsement key.
	RSAEKHandle = tpm2.TPMHandle(0x81010001)
	// ECCEKHandle is where ProvisionEK keeps the P-256 endorsement key.
	ECCEKHandle = tpm2.TPMHandle(0x81010002)
)

// Object identifiers of the TCG (EK Credential Profile, section 3).
var (
	oidEKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
)

const nvChunk = 512

// EKCA stands for the manufacturer of a TPM: it signs endorsement key
// certificates.
type EKCA struct {
	// Certificate is the root that a verifier trusts.
	Certificate *x509.Certificate

	key *ecdsa.PrivateKey
}

// NewEKCA makes a manufacturer with a new key.
func NewEKCA() (*EKCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Simulated TPM Manufacturer Root"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(20, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &EKCA{Certificate: cert, key: key}, nil
}

// Issue signs an endorsement key certificate as the TCG EK Credential Profile
// describes it: empty subject, and the kind of TPM in a critical directory name.
func (ca *EKCA) Issue(ek crypto.PublicKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	san, err := tpmName()
	if err != nil {
		return nil, err
	}
	usage := x509.KeyUsageKeyEncipherment
	if _, ok := ek.(*ecdsa.PublicKey); ok {
		usage = x509.KeyUsageKeyAgreement
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              usage,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions:       []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: san}},
	}
	return x509.CreateCertificate(rand.Reader, template, ca.Certificate, ek, ca.key)
}

// tpmName returns GeneralNames with one directoryName (RFC 5280, 4.2.1.6).
func tpmName() ([]byte, error) {
	name, err := asn1.Marshal(pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: oidTPMManufacturer, Value: "id:49424D00"},
		{Type: oidTPMModel, Value: "simulated"},
		{Type: oidTPMVersion, Value: "id:20191023"},
	}}.ToRDNSequence())
	if err != nil {
		return nil, err
	}
	// directoryName is [4] EXPLICIT because Name is a CHOICE.
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
}

// ProvisionEK does what the maker of a machine does: it makes the RSA-2048 and
// P-256 endorsement keys persistent at [RSAEKHandle] and [ECCEKHandle] and, when
// ca is not nil, writes their certificates to the TPM.
func (t *TPM) ProvisionEK(ca *EKCA) error {
	for _, ek := range []struct {
		template tpm2.TPMTPublic
		handle   tpm2.TPMHandle
		index    tpm2.TPMHandle
	}{
		{tpm2.RSAEKTemplate, RSAEKHandle, nvRSACertificate},
		{tpm2.ECCEKTemplate, ECCEKHandle, nvECCCertificate},
	} {
		public, err := t.persistEK(ek.template, ek.handle)
		if err != nil {
			return fmt.Errorf("tpmsim: endorsement key at %#x: %w", uint32(ek.handle), err)
		}
		if ca == nil {
			continue
		}
		der, err := ca.Issue(public)
		if err != nil {
			return fmt.Errorf("tpmsim: endorsement key certificate: %w", err)
		}
		if err := t.writeNV(ek.index, der); err != nil {
			return fmt.Errorf("tpmsim: write certificate to %#x: %w", uint32(ek.index), err)
		}
	}
	return nil
}

func (t *TPM) persistEK(template tpm2.TPMTPublic, handle tpm2.TPMHandle) (crypto.PublicKey, error) {
	created, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(template),
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: created.ObjectHandle}.Execute(t) }()
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: created.ObjectHandle, Name: created.Name},
		PersistentHandle: handle,
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	public, err := created.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	return tpm2.Pub(*public)
}

func (t *TPM) writeNV(index tpm2.TPMHandle, data []byte) error {
	public := tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true,
			AuthRead: true, NoDA: true, PlatformCreate: true,
		},
		DataSize: uint16(len(data)),
	}
	_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(public)}.Execute(t)
	if err != nil {
		return err
	}
	for offset := 0; offset < len(data); offset += nvChunk {
		// The name of the index changes with the first write, so it is read
		// before each.
		read, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: read.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(offset+nvChunk, len(data))]},
			Offset:     uint16(offset),
		}.Execute(t)
		if err != nil {
			return err
		}
	}
	return nil
}
