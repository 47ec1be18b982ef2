package verify

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"time"
)

// Trust is a set of authorities. Self-signed certificates in it are trust
// anchors, the others help to build paths. It is immutable and safe for
// concurrent use.
type Trust struct {
	roots, intermediates *x509.CertPool
	certs                []*x509.Certificate
	original             map[[sha256.Size]byte]*x509.Certificate
}

// NewTrust makes a Trust of certificates in any order. It takes them as they
// are: [CheckCA] tells what is wrong with one, and [Trust.Verify] refuses every
// path through it.
func NewTrust(certs []*x509.Certificate) *Trust {
	t := &Trust{
		roots: x509.NewCertPool(), intermediates: x509.NewCertPool(),
		certs:    slices.Clone(certs),
		original: make(map[[sha256.Size]byte]*x509.Certificate, len(certs)),
	}
	for _, c := range certs {
		t.original[sha256.Sum256(c.Raw)] = c
		if selfIssued(c) && selfSigned(c) {
			t.roots.AddCert(relaxed(c))
		} else {
			t.intermediates.AddCert(relaxed(c))
		}
	}
	return t
}

// Certificates returns what the Trust was made of. The slice must not be changed.
func (t *Trust) Certificates() []*x509.Certificate { return t.certs }

// selfSigned reports whether the certificate is signed by its own key. An
// algorithm that crypto/x509 refuses counts too: such a root is an anchor, and
// the rules refuse it.
func selfSigned(c *x509.Certificate) bool {
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	var weak x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &weak) || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}

// relaxed returns a copy in which those fields are changed that crypto/x509
// judges by narrower rules than RFC 5280 and that this package judges itself:
// names in canonical form, path lengths, and directory name constraints. The
// signature covers Raw, which is not changed.
func relaxed(c *x509.Certificate) *x509.Certificate {
	r := *c
	r.RawSubject, r.RawIssuer = canonical(c.RawSubject), canonical(c.RawIssuer)
	r.MaxPathLen, r.MaxPathLenZero = -1, false
	r.UnhandledCriticalExtensions = unhandled(c)
	return &r
}

// Options is what a path is verified for.
type Options struct {
	// Now is the moment; it is required.
	Now time.Time
	// Usages are the extended key usages, of which the path must allow one.
	// Empty means any.
	Usages []x509.ExtKeyUsage
	// Name, when set, is the DNS name or IP address that the leaf must be for.
	Name string
	// Policies, when set, are the certificate policies of which the path must
	// allow one.
	Policies []x509.OID
}

// Verify finds a path from leaf to a trust anchor in which every certificate
// fulfils the rules. presented are the further certificates that came with it,
// in any order. On success the path is leaf first, and the issues are warnings;
// otherwise the path is nil and [Failed] of the issues is not nil.
func (t *Trust) Verify(leaf *x509.Certificate, presented []*x509.Certificate, o Options) ([]*x509.Certificate, []Issue) {
	if len(presented) > maxPresented {
		return nil, []Issue{{Class: TooLarge, Subject: Subject(leaf), Text: "more than 32 certificates came with it"}}
	}
	own := CheckLeaf(leaf, o.Now)
	chains, err := t.build(leaf, presented, o)
	if err != nil {
		f := newFound(leaf)
		f.issues = own
		f.explain(err)
		f.issues = append(f.issues, t.suspects(leaf, presented, o.Now)...)
		if Failed(f.issues) == nil {
			// No path is a refusal whatever the reason was.
			f.add(Untrusted, "%.300s", err.Error())
		}
		return nil, distinct(f.issues)
	}
	var first []Issue
	for _, chain := range chains {
		issues := append(slices.Clone(own), checkChain(chain, o.Now)...)
		if o.Name != "" {
			f := newFound(leaf)
			if err := leaf.VerifyHostname(o.Name); err != nil {
				f.add(NameMismatch, "it is not for %.200q", o.Name)
			}
			issues = append(issues, f.issues...)
		}
		if Failed(issues) == nil {
			return chain, issues
		}
		if first == nil {
			first = distinct(issues)
		}
	}
	return nil, first
}

// Anchored reports whether there is a path from an authority to a trust anchor,
// or it is one. Only names, signatures and dates are looked at.
func (t *Trust) Anchored(c *x509.Certificate, now time.Time) bool {
	_, err := t.build(c, nil, Options{Now: now})
	var invalid x509.CertificateInvalidError
	var critical x509.UnhandledCriticalExtension
	// Another reason than a missing issuer is told by the check of the
	// certificate that has it.
	return err == nil || errors.As(err, &invalid) || errors.As(err, &critical)
}

// build lets crypto/x509 find the paths, and gives them back in terms of the
// certificates that were handed in.
func (t *Trust) build(leaf *x509.Certificate, presented []*x509.Certificate, o Options) ([][]*x509.Certificate, error) {
	original := map[[sha256.Size]byte]*x509.Certificate{sha256.Sum256(leaf.Raw): leaf}
	pool := t.intermediates
	if len(presented) > 0 {
		pool = t.intermediates.Clone()
		for _, c := range presented {
			original[sha256.Sum256(c.Raw)] = c
			pool.AddCert(relaxed(c))
		}
	}
	usages := o.Usages
	if len(usages) == 0 {
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	chains, err := relaxed(leaf).Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: pool, CurrentTime: o.Now, KeyUsages: usages, CertificatePolicies: o.Policies,
	})
	for _, chain := range chains {
		for i, c := range chain {
			sum := sha256.Sum256(c.Raw)
			if known := t.original[sum]; known != nil {
				chain[i] = known
			} else if known := original[sum]; known != nil {
				chain[i] = known
			}
		}
	}
	return chains, err
}

// checkChain applies the rules that need the whole path. chain is leaf first.
func checkChain(chain []*x509.Certificate, now time.Time) []Issue {
	var issues []Issue
	if len(chain) == 1 {
		f := newFound(chain[0])
		f.add(Untrusted, "it stands among the trusted authorities, but it is not one")
		return f.issues
	}
	below := 0 // authorities below that count against a path length
	for i, c := range chain[1:] {
		issues = append(issues, CheckCA(c, now)...)
		f := newFound(c)
		if c.BasicConstraintsValid && c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen {
			f.add(PathLength, "%d authorities below it; it allows %d", below, c.MaxPathLen)
		}
		if child := chain[i]; len(child.AuthorityKeyId) != 0 && len(c.SubjectKeyId) != 0 && !bytes.Equal(child.AuthorityKeyId, c.SubjectKeyId) {
			f.add(KeyIdentifier, "its subjectKeyIdentifier is not the authorityKeyIdentifier of %q", Subject(child))
		}
		issues = append(issues, f.issues...)
		if !selfIssued(c) {
			below++
		}
	}
	return append(issues, checkConstraints(chain)...)
}

// explain turns an error of crypto/x509 into an issue.
func (f *found) explain(err error) {
	var (
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		critical x509.UnhandledCriticalExtension
		weak     x509.InsecureAlgorithmError
	)
	switch {
	case errors.As(err, &invalid):
		if invalid.Cert != nil {
			f.subject = Subject(invalid.Cert)
		}
		f.invalid(invalid)
	case errors.As(err, &critical):
		f.subject = ""
		f.add(CriticalExtension, "unknown critical extension")
	case errors.As(err, &weak):
		f.add(SignatureAlgorithm, "%v", weak)
	case errors.As(err, &unknown):
		f.add(Untrusted, "no path to a trusted authority; its issuer is %.200q", unknown.Cert.Issuer.String())
	default:
		f.add(Untrusted, "%.300s", err.Error())
	}
}

func (f *found) invalid(e x509.CertificateInvalidError) {
	switch e.Reason {
	case x509.Expired:
		// The certificate's own check says which of the two it is; f.issues
		// holds it already when it is the leaf.
	case x509.NotAuthorizedToSign:
		f.add(BasicConstraints, "it is not an authority and may not sign certificates")
	case x509.TooManyIntermediates:
		f.add(PathLength, "too many authorities in the path")
	case x509.IncompatibleUsage:
		f.add(ExtendedKeyUsage, "the path does not allow this use")
	case x509.CANotAuthorizedForThisName, x509.TooManyConstraints, x509.UnconstrainedName, x509.NameConstraintsWithoutSANs, x509.CANotAuthorizedForExtKeyUsage:
		f.add(NameConstraints, "%.300s", e.Error())
	case x509.NoValidChains:
		f.add(Policy, "%.300s", e.Error())
	default:
		f.add(Untrusted, "%.300s", e.Error())
	}
}

// suspects checks the authorities that a path would most likely have gone
// through, so that the reason is named when there is none.
func (t *Trust) suspects(leaf *x509.Certificate, presented []*x509.Certificate, now time.Time) []Issue {
	var issues []Issue
	seen := map[*x509.Certificate]bool{}
	child, signed := leaf, true
	for range maxPresented {
		var parent *x509.Certificate
		for _, c := range slices.Concat(presented, t.certs) {
			if seen[c] || !bytes.Equal(canonical(child.RawIssuer), canonical(c.RawSubject)) {
				continue
			}
			ok := child.CheckSignatureFrom(c) == nil
			if parent == nil || ok {
				parent, signed = c, ok || !signatureFault(child, c)
			}
			if ok {
				break
			}
		}
		if parent == nil {
			break
		}
		if !signed {
			f := newFound(child)
			f.add(Signature, "the signature of its issuer does not verify")
			issues = append(issues, f.issues...)
		}
		seen[parent] = true
		issues = append(issues, CheckCA(parent, now)...)
		if selfIssued(parent) && selfSigned(parent) {
			break
		}
		child = parent
	}
	return issues
}

// signatureFault reports whether the signature itself, not the right of the
// parent to sign, is what is wrong.
func signatureFault(child, parent *x509.Certificate) bool {
	err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
	var weak x509.InsecureAlgorithmError
	return err != nil && !errors.As(err, &weak) && !errors.Is(err, x509.ErrUnsupportedAlgorithm)
}

// distinct drops what is said twice.
func distinct(issues []Issue) []Issue {
	var out []Issue
	for _, i := range issues {
		if !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	return out
}
