package cms

import (
	"bytes"
	"crypto/aes"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// envelope is a parsed EnvelopedData or AuthEnvelopedData. Nothing in it was used with a key yet.
type envelope struct {
	recipients []recipient
	alg        contentAlg
	ciphertext []byte
	aad        []byte // DER of the authenticated attributes with the SET tag (RFC 5083, section 2.2), or nil
	mac        []byte // nil for EnvelopedData
}

// contentAlg is a content encryption algorithm with its parameters.
type contentAlg struct {
	name   string
	gcm    bool
	keyLen int
	iv     []byte
	tagLen int
	bound  []byte // DER of the algorithm that the content key is bound to, or nil
}

// parseEnvelope reads one message. own says that buf may be overwritten.
func parseEnvelope(buf []byte, own bool) (*envelope, error) {
	r := &berReader{buf: buf}
	if err := r.enter(tagSequence, "content info"); err != nil {
		return nil, err
	}
	oid, err := readOID(r, "content type")
	if err != nil {
		return nil, err
	}
	if oid != oidEnveloped && oid != oidAuthEnv {
		return nil, unsupported("the message holds %s, not an encrypted message", oidName(oid))
	}
	if err := r.enter(context0, "content"); err != nil {
		return nil, err
	}
	e := &envelope{}
	if err := e.parse(r, oid == oidAuthEnv, own); err != nil {
		return nil, err
	}
	for _, what := range []string{"content", "content info"} {
		if err := r.leave(what); err != nil {
			return nil, err
		}
	}
	if r.pos != len(buf) {
		return nil, malformed("%d bytes after the message", len(buf)-r.pos)
	}
	return e, e.check()
}

// parse reads what is in the content (RFC 5652, section 6.1; RFC 5083, section 2.1).
func (e *envelope) parse(r *berReader, authenticated, own bool) error {
	if err := r.enter(tagSequence, "enveloped data"); err != nil {
		return err
	}
	if _, err := r.expect(tagInteger, "version"); err != nil {
		return err
	}
	if r.peek() == context0 {
		if _, err := r.element("originator info"); err != nil {
			return err
		}
	}
	if err := e.parseRecipients(r); err != nil {
		return err
	}
	if err := e.parseContent(r, authenticated, own); err != nil {
		return err
	}
	if r.peek() == context1 {
		attrs, err := r.element("attributes")
		if err != nil {
			return err
		}
		if authenticated {
			if e.aad, err = setOfDER(attrs); err != nil {
				return err
			}
		}
	}
	if authenticated {
		mac, err := r.octets(tagOctets, false, "authentication tag")
		if err != nil {
			return err
		}
		if len(mac) != e.alg.tagLen {
			return malformed("authentication tag has %d bytes, its parameters say %d", len(mac), e.alg.tagLen)
		}
		e.mac = bytes.Clone(mac)
		if r.peek() == context2 {
			if _, err := r.element("unauthenticated attributes"); err != nil {
				return err
			}
		}
	}
	return r.leave("enveloped data")
}

func (e *envelope) parseRecipients(r *berReader) error {
	if err := r.enter(tagSet, "recipients"); err != nil {
		return err
	}
	for infos := 0; !r.atEnd(); infos++ {
		der, err := r.element("recipient")
		if err != nil {
			return err
		}
		rs, err := parseRecipient(der)
		if err != nil {
			return err
		}
		e.recipients = append(e.recipients, rs...)
		if infos >= maxRecipients || len(e.recipients) > maxRecipients {
			return malformed("more than %d recipients", maxRecipients)
		}
	}
	return r.leave("recipients")
}

// parseContent reads EncryptedContentInfo.
func (e *envelope) parseContent(r *berReader, authenticated, own bool) error {
	if err := r.enter(tagSequence, "encrypted content"); err != nil {
		return err
	}
	if _, err := readOID(r, "inner content type"); err != nil {
		return err
	}
	der, err := r.expect(tagSequence, "content encryption algorithm")
	if err != nil {
		return err
	}
	if e.alg, err = parseContentAlg(der); err != nil {
		return err
	}
	if e.alg.gcm != authenticated {
		return malformed("%s in the wrong kind of message", e.alg.name)
	}
	if r.peek() == 0 {
		return unsupported("the encrypted content is not in the message")
	}
	if e.ciphertext, err = r.octets(context0Plain, own, "encrypted content"); err != nil {
		return err
	}
	return r.leave("encrypted content")
}

// check looks at what can be wrong with the sizes, all of which are public.
func (e *envelope) check() error {
	if !e.alg.gcm && (len(e.ciphertext) == 0 || len(e.ciphertext)%aes.BlockSize != 0) {
		return malformed("encrypted content of %d bytes is not a multiple of the block size", len(e.ciphertext))
	}
	return nil
}

// parseContentAlg reads the algorithms of RFC 3565 (CBC) and RFC 5084 (GCM), as they are or within that of RFC 9709.
func parseContentAlg(der []byte) (contentAlg, error) {
	oid, params, err := parseAlgorithm(der)
	if err != nil {
		return contentAlg{}, err
	}
	a := contentAlg{}
	if oid == oidCEKHKDF {
		a.bound = params
		if oid, params, err = parseAlgorithm(params); err != nil {
			return a, err
		}
	}
	switch oid {
	case oidAES + "\x02", oidAES + "\x06":
		a.keyLen, a.name = 16, "AES-128"
	case oidAES + "\x16", oidAES + "\x1a":
		a.keyLen, a.name = 24, "AES-192"
	case oidAES + "\x2a", oidAES + "\x2e":
		a.keyLen, a.name = 32, "AES-256"
	default:
		return a, unsupported("content encryption: %s", oidName(oid))
	}
	var iv cryptobyte.String
	switch oid[len(oid)-1] {
	case 0x02, 0x16, 0x2a:
		a.name += "-CBC"
		if !params.ReadASN1(&iv, cbasn1.OCTET_STRING) || !params.Empty() || len(iv) != aes.BlockSize {
			return a, malformed("parameters of %s", a.name)
		}
		a.iv = iv
		return a, nil
	}
	a.gcm, a.tagLen = true, minTag
	a.name += "-GCM"
	var seq cryptobyte.String
	if !params.ReadASN1(&seq, cbasn1.SEQUENCE) || !params.Empty() || !seq.ReadASN1(&iv, cbasn1.OCTET_STRING) ||
		!seq.Empty() && !seq.ReadASN1Integer(&a.tagLen) || !seq.Empty() {
		return a, malformed("parameters of %s", a.name)
	}
	// The lengths are bounded here, before anything uses them: senders have broken decoders with them.
	if len(iv) < minNonce || len(iv) > maxNonce || a.tagLen < minTag || a.tagLen > maxTag {
		return a, malformed("%s with a nonce of %d and a tag of %d bytes", a.name, len(iv), a.tagLen)
	}
	if len(iv) != minNonce && a.tagLen != maxTag {
		return a, unsupported("%s with a nonce of %d and a tag of %d bytes", a.name, len(iv), a.tagLen)
	}
	a.iv = iv
	return a, nil
}

// setOfDER turns an implicitly tagged SET OF into what is authenticated: the DER encoding with the SET tag, which is
// in ascending order (X.690, section 11.6) whatever the order on the wire was.
func setOfDER(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var body cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&body, &tag) || !in.Empty() {
		return nil, malformed("attributes")
	}
	elements, err := setElements(body)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(elements, bytes.Compare)
	return tlv(tagSet, elements...), nil
}

func setElements(body cryptobyte.String) ([][]byte, error) {
	var out [][]byte
	for !body.Empty() {
		var e cryptobyte.String
		var tag cbasn1.Tag
		if !body.ReadAnyASN1Element(&e, &tag) || len(out) == maxAttributes {
			return nil, malformed("attributes")
		}
		out = append(out, e)
	}
	return out, nil
}

func readOID(r *berReader, what string) (string, error) {
	der, err := r.expect(tagOID, what)
	if err != nil {
		return "", err
	}
	return string(der[2:]), nil
}

// parseAlgorithm splits an AlgorithmIdentifier. Parameters that are absent and NULL both give an empty string for
// callers that use dropNull.
func parseAlgorithm(der []byte) (oid string, params cryptobyte.String, err error) {
	in := cryptobyte.String(der)
	var seq, id cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) {
		return "", nil, malformed("algorithm identifier")
	}
	return string(id), seq, nil
}

// dropNull gives the parameters without a NULL, which means the same as none for most algorithms.
func dropNull(params cryptobyte.String) cryptobyte.String {
	if bytes.Equal(params, []byte{0x05, 0x00}) {
		return nil
	}
	return params
}
