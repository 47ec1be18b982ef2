package verify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// constraints are what is enforced here of a nameConstraints extension:
// directory names, and the hosts of email addresses and URIs. The other forms
// that matter (DNS, IP) are enforced by crypto/x509, and so are the last two, but
// with a wider view of what is permitted.
type constraints struct {
	permitted, excluded subtrees
	// other is set when there are forms that nobody enforces.
	other bool
}

type subtrees struct {
	names        [][][]byte
	emails, uris []string
}

func (s *subtrees) empty() bool { return len(s.names)+len(s.emails)+len(s.uris) == 0 }

const (
	formRFC822    = casn1.Tag(1) | 0x80
	formDNS       = casn1.Tag(2) | 0x80
	formURI       = casn1.Tag(6) | 0x80
	formIP        = casn1.Tag(7) | 0x80
	formDirectory = casn1.Tag(4) | 0xa0
)

// parseConstraints reads RFC 5280 section 4.2.1.10.
func parseConstraints(der []byte) (*constraints, error) {
	in := cryptobyte.String(der)
	var seq, part cryptobyte.String
	var has bool
	if !in.ReadASN1(&seq, casn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("nameConstraints do not parse")
	}
	if seq.Empty() {
		return nil, errors.New("nameConstraints are empty (RFC 5280 section 4.2.1.10)")
	}
	c := &constraints{}
	for tag, list := range []*subtrees{&c.permitted, &c.excluded} {
		if !seq.ReadOptionalASN1(&part, &has, casn1.Tag(tag).Constructed().ContextSpecific()) {
			return nil, errors.New("nameConstraints do not parse")
		}
		if !has {
			continue
		}
		if part.Empty() {
			return nil, errors.New("nameConstraints hold an empty list of subtrees")
		}
		for n := 0; !part.Empty(); n++ {
			if n == maxSubtrees {
				return nil, fmt.Errorf("nameConstraints hold more than %d subtrees", maxSubtrees)
			}
			if err := c.subtree(&part, list); err != nil {
				return nil, err
			}
		}
	}
	if !seq.Empty() {
		return nil, errors.New("nameConstraints do not parse")
	}
	return c, nil
}

func (c *constraints) subtree(part *cryptobyte.String, list *subtrees) error {
	var subtree, name cryptobyte.String
	var tag casn1.Tag
	if !part.ReadASN1(&subtree, casn1.SEQUENCE) || !subtree.ReadAnyASN1(&name, &tag) {
		return errors.New("a subtree of nameConstraints does not parse")
	}
	// minimum is 0, which DER leaves out, and maximum is absent.
	if !subtree.Empty() {
		return errors.New("a subtree of nameConstraints has a minimum or maximum")
	}
	switch tag {
	case formDirectory:
		parts, ok := rdns(name)
		if !ok {
			return errors.New("a directory name in nameConstraints does not parse")
		}
		list.names = append(list.names, parts)
	case formRFC822:
		list.emails = append(list.emails, strings.ToLower(string(name)))
	case formURI:
		list.uris = append(list.uris, strings.ToLower(string(name)))
	case formDNS, formIP:
	default:
		c.other = true
	}
	return nil
}

// directoryNames returns what directory name constraints apply to: the subject
// when it is not empty, and the directory names in subjectAltName.
func directoryNames(c *x509.Certificate) ([][][]byte, error) {
	var out [][][]byte
	subject, ok := rdns(c.RawSubject)
	if !ok {
		return nil, errors.New("its subject does not parse")
	}
	if len(subject) > 0 {
		out = append(out, subject)
	}
	san, ok := extension(c, oidSubjectAltName)
	if !ok {
		return out, nil
	}
	in := cryptobyte.String(san.Value)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil, errors.New("its subjectAltName does not parse")
	}
	for !seq.Empty() {
		var name cryptobyte.String
		var tag casn1.Tag
		if !seq.ReadAnyASN1(&name, &tag) {
			return nil, errors.New("its subjectAltName does not parse")
		}
		if tag != formDirectory {
			continue
		}
		parts, ok := rdns(name)
		if !ok {
			return nil, errors.New("a directory name in its subjectAltName does not parse")
		}
		out = append(out, parts)
	}
	return out, nil
}

// within reports whether name is in the subtree.
func within(name, subtree [][]byte) bool {
	if len(subtree) > len(name) {
		return false
	}
	for i := range subtree {
		if !bytes.Equal(name[i], subtree[i]) {
			return false
		}
	}
	return true
}

func anyWithin(name [][]byte, list [][][]byte) bool {
	for _, s := range list {
		if within(name, s) {
			return true
		}
	}
	return false
}

// checkConstraints enforces the directory names of every authority in the path
// on what stands below it (RFC 5280 section 6.1.3 b and c). chain is leaf first.
func checkConstraints(chain []*x509.Certificate) []Issue {
	var issues []Issue
	for i := len(chain) - 1; i > 0; i-- {
		ext, ok := extension(chain[i], oidNameConstraints)
		if !ok {
			continue
		}
		c, err := parseConstraints(ext.Value)
		if err != nil || c.permitted.empty() && c.excluded.empty() {
			// An error is reported by the check of that certificate.
			continue
		}
		for j := i - 1; j >= 0; j-- {
			if j > 0 && selfIssued(chain[j]) {
				continue
			}
			f := newFound(chain[j])
			ok, err := c.allow(chain[j])
			switch {
			case err != nil:
				f.add(NameConstraints, "%v", err)
			case !ok:
				f.add(NameConstraints, "%q may not certify this name", Subject(chain[i]))
			}
			issues = append(issues, f.issues...)
		}
	}
	return issues
}

// allow reports whether every name of the certificate is within the constraints.
func (c *constraints) allow(cert *x509.Certificate) (bool, error) {
	names, err := directoryNames(cert)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if anyWithin(n, c.excluded.names) || len(c.permitted.names) > 0 && !anyWithin(n, c.permitted.names) {
			return false, nil
		}
	}
	for _, e := range emails(cert) {
		if matches(e, c.excluded.emails, emailWithin) || len(c.permitted.emails) > 0 && !matches(e, c.permitted.emails, emailWithin) {
			return false, nil
		}
	}
	for _, u := range cert.URIs {
		host := strings.ToLower(u.Hostname())
		if matches(host, c.excluded.uris, hostWithin) || len(c.permitted.uris) > 0 && !matches(host, c.permitted.uris, hostWithin) {
			return false, nil
		}
	}
	return true, nil
}

// emails returns the addresses that constraints apply to: those of
// subjectAltName or, when it has none, those in the subject.
func emails(c *x509.Certificate) []string {
	var out []string
	for _, e := range c.EmailAddresses {
		out = append(out, strings.ToLower(e))
	}
	if len(out) > 0 {
		return out
	}
	for _, n := range c.Subject.Names {
		if v, ok := n.Value.(string); ok && n.Type.Equal(oidEmailAddress) {
			out = append(out, strings.ToLower(v))
		}
	}
	return out
}

func matches(name string, list []string, within func(name, constraint string) bool) bool {
	return slices.ContainsFunc(list, func(c string) bool { return within(name, c) })
}

// emailWithin: a constraint is a mailbox, a host, or a domain with a leading
// period that stands for every host in it.
func emailWithin(mailbox, constraint string) bool {
	if strings.Contains(constraint, "@") {
		return mailbox == constraint
	}
	return hostWithin(mailbox[strings.LastIndex(mailbox, "@")+1:], constraint)
}

func hostWithin(host, constraint string) bool {
	if strings.HasPrefix(constraint, ".") {
		return strings.HasSuffix(host, constraint) && len(host) > len(constraint)
	}
	return host == constraint
}
