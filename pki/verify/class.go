package verify

import (
	"fmt"
	"strings"
)

// Class says what kind of fault an [Issue] is.
type Class string

// The classes.
const (
	PrivateKey         Class = "private-key"         // a private key travels with the certificate
	TooLarge           Class = "too-large"           // a bound on the input is passed
	Malformed          Class = "malformed"           // it does not parse, or not into what was asked for
	Version            Class = "version"             // not version 3
	Serial             Class = "serial"              // serial number zero, negative or too long
	Name               Class = "name"                // issuer or subject missing, or no key under this name
	NotYetValid        Class = "not-yet-valid"       // begins later
	Expired            Class = "expired"             // ended
	Role               Class = "role"                // an authority where a leaf is needed, or the reverse
	KeyMismatch        Class = "key-mismatch"        // not for the stored key
	SignatureAlgorithm Class = "signature-algorithm" // refused signature algorithm
	KeyAlgorithm       Class = "key-algorithm"       // refused key type
	KeySize            Class = "key-size"            // RSA key too small, too large or odd; refused curve
	KeyUsage           Class = "key-usage"           // keyUsage missing or wrong
	ExtendedKeyUsage   Class = "extended-key-usage"  // extended key usage missing or wrong
	BasicConstraints   Class = "basic-constraints"   // basicConstraints missing, wrong or not critical
	Extension          Class = "extension"           // an extension breaks its own rules
	CriticalExtension  Class = "critical-extension"  // an unknown critical extension
	KeyIdentifier      Class = "key-identifier"      // key identifiers missing or contradicting
	Signature          Class = "signature"           // a signature does not verify
	Untrusted          Class = "untrusted"           // no path to a trusted authority
	PathLength         Class = "path-length"         // too many authorities below one
	NameConstraints    Class = "name-constraints"    // a name that an authority may not certify
	Policy             Class = "policy"              // certificate policies do not allow the path
	NameMismatch       Class = "name-mismatch"       // the certificate is not for the expected name
	Revoked            Class = "revoked"             // revoked by its issuer
	RevocationUnknown  Class = "revocation-unknown"  // whether it is revoked cannot be told
)

// Issue is one thing that is wrong with a certificate.
type Issue struct {
	// Class is for programs.
	Class Class `json:"class"`
	// Subject names the certificate; empty when there is none.
	Subject string `json:"subject,omitempty"`
	// Text is one line for a person.
	Text string `json:"text"`
	// Warning is set when the issue does not refuse the certificate.
	Warning bool `json:"warning,omitempty"`
}

// String puts class, subject and text into one line.
func (i Issue) String() string {
	s := string(i.Class) + ": "
	if i.Subject != "" {
		s += fmt.Sprintf("%q: ", i.Subject)
	}
	return s + i.Text
}

// Failure is the error for a certificate that is refused.
type Failure struct {
	// Issues holds everything that was found, warnings too.
	Issues []Issue
}

// Failed returns a *Failure when one of the issues is not a warning, else nil.
func Failed(issues []Issue) error {
	for _, i := range issues {
		if !i.Warning {
			return &Failure{Issues: issues}
		}
	}
	return nil
}

// Error names every issue that refuses, in one line.
func (f *Failure) Error() string {
	var parts []string
	for _, i := range f.Issues {
		if !i.Warning {
			parts = append(parts, i.String())
		}
	}
	return "certificate refused: " + strings.Join(parts, "; ")
}

// Has reports whether an issue that refuses is of the class.
func (f *Failure) Has(c Class) bool {
	for _, i := range f.Issues {
		if i.Class == c && !i.Warning {
			return true
		}
	}
	return false
}
