package cms

// Sealed gives the parts of a message to tests that build broken ones.
func Sealed(der []byte) (ciphertext, mac []byte, err error) {
	e, err := parseEnvelope(der, false)
	if err != nil {
		return nil, nil, err
	}
	return e.ciphertext, e.mac, nil
}

// Wrapped gives the encrypted content keys of a message.
func Wrapped(der []byte) ([][]byte, error) {
	e, err := parseEnvelope(der, false)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, r := range e.recipients {
		out = append(out, r.wrapped)
	}
	return out, nil
}

// ContentKeys gives the content keys that a Decrypter gets out of a message, or makes up.
func ContentKeys(d *Decrypter, der []byte) ([][]byte, error) {
	e, err := parseEnvelope(der, false)
	if err != nil {
		return nil, err
	}
	candidates, err := d.candidates(e.recipients)
	if err != nil {
		return nil, err
	}
	return d.contentKeys(candidates, e.alg.keyLen)
}

// ToDER rewrites one BER element.
func ToDER(ber []byte) ([]byte, error) {
	r := &berReader{buf: ber}
	return r.element("test")
}

// The key wrap and the key binding, for their published vectors.
var (
	BindKey   = bindKey
	WrapKey   = wrapKey
	UnwrapKey = unwrapKey
)

// Limits that tests go to.
const (
	MaxRecipients = maxRecipients
	MaxTries      = maxTries
	MaxNesting    = maxNesting
	MaxMeta       = maxMeta
	MaxElements   = maxElements
)
