package cms

// Tags of the values that CMS is made of (X.690, section 8.1.2), constructed bit included.
const (
	tagInteger     = 0x02
	tagBits        = 0x03
	tagOctets      = 0x04
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	constructed    = 0x20
	tagOctetsBuilt = tagOctets | constructed
	context0       = 0xa0
	context1       = 0xa1
	context2       = 0xa2
	context0Plain  = 0x80
	indefinite     = -1
)

// berReader walks through a BER encoded message in a single pass. A constructed value is entered and left, so that the
// content, which may be large and cut into many pieces, is never copied to find out where it ends. Everything else is
// small and is rewritten to DER by element.
type berReader struct {
	buf    []byte
	pos    int
	frames []frame
	// elements counts what was rewritten, because many tiny elements cost more than their bytes tell.
	elements int
}

// frame is a constructed value that was entered.
type frame struct {
	end   int  // offset of its end, or of the innermost known end around it when indefinite
	indef bool // ended by an end-of-contents mark
}

func (r *berReader) end() int {
	if n := len(r.frames); n > 0 {
		return r.frames[n-1].end
	}
	return len(r.buf)
}

// header reads tag and length. The length is indefinite (-1) or lies within the enclosing value.
func (r *berReader) header() (tag byte, length int, err error) {
	end := r.end()
	if end-r.pos < 2 {
		return 0, 0, malformed("truncated at offset %d", r.pos)
	}
	tag = r.buf[r.pos]
	if tag&0x1f == 0x1f {
		return 0, 0, malformed("multi-byte tag at offset %d", r.pos)
	}
	first := r.buf[r.pos+1]
	pos := r.pos + 2
	switch {
	case first < 0x80:
		length = int(first)
	case first == 0x80:
		if tag&constructed == 0 {
			return 0, 0, malformed("indefinite length of a primitive value at offset %d", r.pos)
		}
		r.pos = pos
		return tag, indefinite, nil
	default:
		n := int(first & 0x7f)
		if n > 8 || end-pos < n {
			return 0, 0, malformed("bad length at offset %d", r.pos)
		}
		var l uint64
		for _, b := range r.buf[pos : pos+n] {
			l = l<<8 | uint64(b)
		}
		pos += n
		if l > uint64(end-pos) {
			return 0, 0, malformed("value at offset %d is longer than what holds it", r.pos)
		}
		length = int(l)
	}
	if length > end-pos {
		return 0, 0, malformed("value at offset %d is longer than what holds it", r.pos)
	}
	r.pos = pos
	return tag, length, nil
}

// peek returns the tag of the next element, or 0 when the value that was entered last is at its end.
func (r *berReader) peek() byte {
	if r.atEnd() || r.pos >= r.end() {
		return 0
	}
	return r.buf[r.pos]
}

func (r *berReader) atEnd() bool {
	n := len(r.frames)
	if n == 0 || !r.frames[n-1].indef {
		return r.pos >= r.end()
	}
	return r.end()-r.pos >= 2 && r.buf[r.pos] == 0 && r.buf[r.pos+1] == 0
}

// enter steps into a constructed value with the given tag.
func (r *berReader) enter(tag byte, what string) error {
	at := r.pos
	got, length, err := r.header()
	if err != nil {
		return err
	}
	if got != tag {
		return malformed("%s: tag 0x%02x at offset %d, want 0x%02x", what, got, at, tag)
	}
	return r.push(length)
}

func (r *berReader) push(length int) error {
	if len(r.frames) >= maxNesting {
		return malformed("nested deeper than %d", maxNesting)
	}
	f := frame{end: r.end(), indef: length == indefinite}
	if !f.indef {
		f.end = r.pos + length
	}
	r.frames = append(r.frames, f)
	return nil
}

// leave steps out of the value that was entered last, which has to be at its end.
func (r *berReader) leave(what string) error {
	n := len(r.frames) - 1
	if !r.atEnd() {
		return malformed("%s: unexpected data or missing end at offset %d", what, r.pos)
	}
	if r.frames[n].indef {
		r.pos += 2
	}
	r.frames = r.frames[:n]
	return nil
}

// element reads the next element of any kind and returns it in DER, in memory of its own.
func (r *berReader) element(what string) ([]byte, error) {
	out, err := r.appendDER(nil)
	if err != nil {
		return nil, err
	}
	if len(out) > maxMeta {
		return nil, malformed("%s is larger than %d bytes", what, maxMeta)
	}
	return out, nil
}

// expect is element for a value of a known tag.
func (r *berReader) expect(tag byte, what string) ([]byte, error) {
	if r.peek() != tag {
		return nil, malformed("%s: missing or of another type at offset %d", what, r.pos)
	}
	return r.element(what)
}

// appendDER rewrites the next element: lengths become definite and minimal, an octet string in pieces becomes one.
// The order in a SET is kept, since only the sender knows whether it was signed as it stands.
func (r *berReader) appendDER(out []byte) ([]byte, error) {
	if r.elements++; r.elements > maxElements {
		return nil, malformed("more than %d elements", maxElements)
	}
	at := r.pos
	tag, length, err := r.header()
	if err != nil {
		return nil, err
	}
	if tag == 0 {
		return nil, malformed("unexpected end-of-contents at offset %d", at)
	}
	if length > maxMeta || len(out) > maxMeta {
		return nil, malformed("element at offset %d is larger than %d bytes", at, maxMeta)
	}
	if tag&constructed == 0 {
		out = appendHeader(out, tag, length)
		out = append(out, r.buf[r.pos:r.pos+length]...)
		r.pos += length
		return out, nil
	}
	var body []byte
	if tag == tagOctetsBuilt {
		tag = tagOctets
		body, err = r.pieces(length, nil)
	} else if tag < 0x40 && tag != tagSequence && tag != tagSet {
		return nil, malformed("string in pieces at offset %d", at)
	} else if err = r.push(length); err == nil {
		for !r.atEnd() {
			if body, err = r.appendDER(body); err != nil {
				return nil, err
			}
		}
		err = r.leave("element")
	}
	if err != nil {
		return nil, err
	}
	if len(body) > maxMeta {
		return nil, malformed("element at offset %d is larger than %d bytes", at, maxMeta)
	}
	return append(appendHeader(out, tag, len(body)), body...), nil
}

// octets reads an octet string that may be large: tag is that of the primitive form, the constructed form is taken
// too. The result is part of the buffer; with own the string in pieces is joined in place, and the result may be
// appended to once everything else was read.
func (r *berReader) octets(tag byte, own bool, what string) ([]byte, error) {
	at := r.pos
	got, length, err := r.header()
	if err != nil {
		return nil, err
	}
	switch got {
	case tag:
		start := r.pos
		r.pos += length
		if own {
			return r.buf[start:r.pos], nil
		}
		return r.buf[start:r.pos:r.pos], nil
	case tag | constructed:
		if own {
			return r.pieces(length, r.buf[at:at])
		}
		hint := length
		if length == indefinite {
			hint = r.end() - r.pos
		}
		return r.pieces(length, make([]byte, 0, hint))
	}
	return nil, malformed("%s: tag 0x%02x at offset %d", what, got, at)
}

// pieces joins the pieces of a constructed octet string, whose header was read, into out. Where out is a part of the
// buffer it begins before the first piece, so that no piece is overwritten before it was moved.
func (r *berReader) pieces(length int, out []byte) ([]byte, error) {
	if err := r.push(length); err != nil {
		return nil, err
	}
	depth := len(r.frames)
	for {
		for !r.atEnd() {
			at := r.pos
			tag, n, err := r.header()
			if err != nil {
				return nil, err
			}
			switch tag {
			case tagOctets:
				out = append(out, r.buf[r.pos:r.pos+n]...)
				r.pos += n
			case tagOctetsBuilt:
				if err := r.push(n); err != nil {
					return nil, err
				}
			default:
				return nil, malformed("piece of an octet string has tag 0x%02x at offset %d", tag, at)
			}
		}
		if err := r.leave("octet string"); err != nil {
			return nil, err
		}
		if len(r.frames) < depth {
			return out, nil
		}
	}
}

// appendHeader appends a tag and a minimal definite length.
func appendHeader(out []byte, tag byte, length int) []byte {
	if length < 0x80 {
		return append(out, tag, byte(length))
	}
	n := 1
	for l := length >> 8; l > 0; l >>= 8 {
		n++
	}
	out = append(out, tag, 0x80|byte(n))
	for i := n - 1; i >= 0; i-- {
		out = append(out, byte(length>>(8*i)))
	}
	return out
}

// tlv encodes one value from the parts of its body.
func tlv(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := appendHeader(make([]byte, 0, n+6), tag, n)
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
