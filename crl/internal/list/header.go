package list

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mooringlib/mooring/crl/internal/dist"
)

// Header is everything in a list but its entries.
type Header struct {
	// Version is 1 or 2.
	Version int
	// Issuer is the DER encoded name of the issuer.
	Issuer []byte
	// ThisUpdate is when the list was made, NextUpdate when the next one is
	// due at the latest; zero when the list does not say.
	ThisUpdate, NextUpdate time.Time
	// Number is the CRL number, nil when there is none.
	Number *big.Int
	// Base is the number of the complete list that a delta list starts from,
	// nil for complete lists.
	Base *big.Int
	// KeyID is the key identifier of the issuer, empty when there is none.
	KeyID []byte
	// Scope says which certificates the list speaks for; ScopeDER is the
	// content of the extension, nil when there is none.
	Scope    dist.Scope
	ScopeDER []byte
	// Freshest are the distribution points of delta lists.
	Freshest []dist.Point
	// ExpiredSince is from when on expired certificates stay listed; zero when
	// the list does not say (X.509, expiredCertsOnCRL).
	ExpiredSince time.Time
	// Warnings are defects that do not make the list unusable.
	Warnings []string

	alg                    algorithm
	algDER                 []byte
	signature              []byte
	total                  int64
	tbsOff, tbsEnd         int64
	entriesOff, entriesEnd int64
}

// Delta reports whether the list is a delta list.
func (h *Header) Delta() bool { return h.Base != nil }

var errHeader = errors.New("list is malformed before its entries")

// parsePrefix reads everything up to the entries.
func (h *Header) parsePrefix(p []byte) error {
	if h.total == 0 {
		return errors.New("list is cut off")
	}
	n, _, err := length(p[1:])
	if err != nil {
		return err
	}
	at := 1 + n
	if len(p) <= at+1 || p[at] != 0x30 {
		return errHeader
	}
	n, size, err := length(p[at+1:])
	if err != nil {
		return err
	}
	h.tbsOff, h.tbsEnd = int64(at), int64(at+1+n)+size
	if h.tbsEnd > h.total {
		return errHeader
	}
	body := p[at+1+n:]
	if rest := h.tbsEnd - int64(at+1+n); int64(len(body)) > rest {
		body = body[:rest]
	}
	in := cryptobyte.String(body)
	h.Version = 1
	if in.PeekASN1Tag(cbasn1.INTEGER) {
		var v int64
		if !in.ReadASN1Integer(&v) || v != 1 {
			return errors.New("version of the list is not 2")
		}
		h.Version = 2
	}
	var alg, issuer cryptobyte.String
	if !in.ReadASN1Element(&alg, cbasn1.SEQUENCE) || !in.ReadASN1Element(&issuer, cbasn1.SEQUENCE) {
		return errHeader
	}
	h.algDER, h.Issuer = bytes.Clone(alg), bytes.Clone(issuer)
	if h.alg, err = parseAlgorithm(alg); err != nil {
		return err
	}
	if len(issuer) == 2 {
		return errors.New("list has no issuer name")
	}
	if h.ThisUpdate, err = readTime(&in); err != nil {
		return err
	}
	if in.PeekASN1Tag(cbasn1.UTCTime) || in.PeekASN1Tag(cbasn1.GeneralizedTime) {
		if h.NextUpdate, err = readTime(&in); err != nil {
			return err
		}
	}
	here := h.tbsEnd - int64(len(in))
	if len(body) < int(h.tbsEnd-int64(at+1+n)) {
		// Only a part of the signed bytes is at hand.
		here = int64(at+1+n) + int64(len(body)-len(in))
	}
	h.entriesOff, h.entriesEnd = here, here
	if in.PeekASN1Tag(cbasn1.SEQUENCE) {
		n, size, err := length(in[1:])
		if err != nil {
			return err
		}
		h.entriesOff = here + 1 + int64(n)
		h.entriesEnd = h.entriesOff + size
	}
	if h.entriesEnd > h.tbsEnd || len(in) == 0 && here < h.tbsEnd {
		return errHeader
	}
	return nil
}

// parseTail reads what follows the entries: extensions, algorithm, signature.
func (h *Header) parseTail(tail []byte, lim Limits) error {
	signed := int(h.tbsEnd - h.entriesEnd)
	if signed < 0 || signed > len(tail) {
		return errors.New("list is cut off")
	}
	h.Scope.Reasons = dist.AllReasons
	if signed > 0 {
		in := cryptobyte.String(tail[:signed])
		var exts cryptobyte.String
		if !in.ReadASN1(&exts, cbasn1.Tag(0).ContextSpecific().Constructed()) || !in.Empty() {
			return errors.New("list is malformed behind its entries")
		}
		if h.Version != 2 {
			return errors.New("list has extensions and is not of version 2")
		}
		if err := h.extensions(exts); err != nil {
			return err
		}
	}
	in := cryptobyte.String(tail[signed:])
	var alg cryptobyte.String
	var sig asn1.BitString
	if !in.ReadASN1Element(&alg, cbasn1.SEQUENCE) || !in.ReadASN1BitString(&sig) || !in.Empty() || sig.BitLength%8 != 0 {
		return errors.New("signature of the list is malformed")
	}
	if !bytes.Equal(alg, h.algDER) {
		return errors.New("signature algorithms inside and outside the signed part differ")
	}
	h.signature = bytes.Clone(sig.Bytes)
	if h.Number == nil && !lim.AllowUnnumbered {
		return errors.New("list has no CRL number")
	}
	if h.Delta() && h.Number == nil {
		return errors.New("delta list has no CRL number")
	}
	return nil
}

// extension is one element of Extensions.
type extension struct {
	oid      string
	critical bool
	value    []byte
}

// Identifiers of extensions, as the content octets of their OBJECT IDENTIFIER.
const (
	oidReason       = "\x55\x1d\x15"
	oidHold         = "\x55\x1d\x17"
	oidInvalidity   = "\x55\x1d\x18"
	oidIssuerAlt    = "\x55\x1d\x12"
	oidNumber       = "\x55\x1d\x14"
	oidDelta        = "\x55\x1d\x1b"
	oidScope        = "\x55\x1d\x1c"
	oidCertIssuer   = "\x55\x1d\x1d"
	oidKeyID        = "\x55\x1d\x23"
	oidFreshest     = "\x55\x1d\x2e"
	oidExpiredCerts = "\x55\x1d\x3c"
)

// readExtensions reads the elements of Extensions and refuses duplicates.
func readExtensions(in cryptobyte.String) ([]extension, error) {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("extensions are malformed")
	}
	var out []extension
	for !seq.Empty() {
		var e, oid, value cryptobyte.String
		var critical bool
		if !seq.ReadASN1(&e, cbasn1.SEQUENCE) || !e.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
			return nil, errors.New("extensions are malformed")
		}
		if e.PeekASN1Tag(cbasn1.BOOLEAN) && !e.ReadASN1Boolean(&critical) {
			return nil, errors.New("extensions are malformed")
		}
		if !e.ReadASN1(&value, cbasn1.OCTET_STRING) || !e.Empty() {
			return nil, errors.New("extensions are malformed")
		}
		if len(out) == maxExtensions {
			return nil, fmt.Errorf("more than %d extensions", maxExtensions)
		}
		if slices.ContainsFunc(out, func(x extension) bool { return x.oid == string(oid) }) {
			return nil, fmt.Errorf("extension %s is there twice", oidText(string(oid)))
		}
		out = append(out, extension{string(oid), critical, value})
	}
	return out, nil
}

func oidText(oid string) string {
	var out asn1.ObjectIdentifier
	der := append([]byte{6, byte(len(oid))}, oid...)
	if len(oid) > 64 {
		return hex.EncodeToString([]byte(oid[:64])) + "..."
	}
	if _, err := asn1.Unmarshal(der, &out); err != nil {
		return hex.EncodeToString([]byte(oid))
	}
	return out.String()
}

func (h *Header) extensions(in cryptobyte.String) error {
	exts, err := readExtensions(in)
	if err != nil {
		return err
	}
	for _, e := range exts {
		if err := h.extension(e); err != nil {
			return err
		}
	}
	return nil
}

func (h *Header) extension(e extension) (err error) {
	mustNot := func(what string) error {
		if e.critical {
			return fmt.Errorf("%s is marked critical", what)
		}
		return nil
	}
	switch e.oid {
	case oidNumber:
		if h.Number, err = readNumber(e.value, "CRL number"); err != nil {
			return err
		}
		return mustNot("CRL number")
	case oidDelta:
		if !e.critical {
			return errors.New("delta CRL indicator is not marked critical")
		}
		h.Base, err = readNumber(e.value, "base CRL number")
		return err
	case oidScope:
		if !e.critical {
			h.Warnings = append(h.Warnings, "issuing distribution point is not marked critical")
		}
		h.ScopeDER = bytes.Clone(e.value)
		h.Scope, err = dist.ParseScope(e.value)
		return err
	case oidKeyID:
		if h.KeyID, err = readKeyID(e.value); err != nil {
			return err
		}
		return mustNot("authority key identifier")
	case oidFreshest:
		if h.Freshest, err = dist.Points(e.value); err != nil {
			return err
		}
		return mustNot("freshest CRL")
	case oidExpiredCerts:
		v := cryptobyte.String(e.value)
		if h.ExpiredSince, err = readTime(&v); err != nil || !v.Empty() {
			return errors.New("expiredCertsOnCRL is malformed")
		}
		return nil
	case oidIssuerAlt:
		// Another name of the issuer decides nothing here.
		return nil
	}
	if e.critical {
		return fmt.Errorf("unknown critical extension %s in the list", oidText(e.oid))
	}
	return nil
}

func readNumber(der []byte, what string) (*big.Int, error) {
	in := cryptobyte.String(der)
	n := new(big.Int)
	if len(der) > maxNumber+3 || !in.ReadASN1Integer(n) || !in.Empty() {
		return nil, fmt.Errorf("%s is malformed or longer than %d bytes", what, maxNumber)
	}
	if n.Sign() < 0 || n.BitLen() > maxNumber*8 {
		return nil, fmt.Errorf("%s is negative or longer than %d bytes", what, maxNumber)
	}
	return n, nil
}

func readKeyID(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var seq, id cryptobyte.String
	var have bool
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() ||
		!seq.ReadOptionalASN1(&id, &have, cbasn1.Tag(0).ContextSpecific()) || len(id) > 128 {
		return nil, errors.New("authority key identifier is malformed")
	}
	// The other two fields, name and serial of the issuer's certificate, are
	// hints for building a path and no more.
	return bytes.Clone(id), nil
}

// readTime reads a Time of RFC 5280 section 4.1.2.5: in UTC, to the second.
func readTime(in *cryptobyte.String) (time.Time, error) {
	var s cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&s, &tag) {
		return time.Time{}, errors.New("time is malformed")
	}
	layout := "060102150405Z"
	switch {
	case tag == cbasn1.GeneralizedTime && len(s) == 15:
		layout = "20060102150405Z"
	case tag == cbasn1.UTCTime && len(s) == 13:
	default:
		return time.Time{}, errors.New("time is malformed")
	}
	t, err := time.Parse(layout, string(s))
	if err != nil {
		return time.Time{}, errors.New("time is malformed")
	}
	if tag == cbasn1.UTCTime && t.Year() >= 2050 {
		t = t.AddDate(-100, 0, 0)
	}
	return t, nil
}
