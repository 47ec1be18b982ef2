package cms

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"math"
	"mime"
	"strings"
)

// Kind says what a file is, by its content alone.
type Kind int

const (
	// KindPlain is everything that is none of the others, such as a configuration in the clear.
	KindPlain Kind = iota
	// KindEmpty is a file without any byte.
	KindEmpty
	// KindEncrypted is EnvelopedData or AuthEnvelopedData.
	KindEncrypted
	// KindSigned is SignedData.
	KindSigned
	// KindOther claims to be a CMS message, by its PEM label, MIME type or content type, but is none that this
	// package reads. It must not be taken for plain text.
	KindOther
)

// String returns the kind in words.
func (k Kind) String() string {
	switch k {
	case KindPlain:
		return "plain"
	case KindEmpty:
		return "empty"
	case KindEncrypted:
		return "encrypted"
	case KindSigned:
		return "signed"
	default:
		return "another CMS message"
	}
}

// armor is how the encoded message is wrapped.
type armor int

const (
	armorNone armor = iota
	armorPEM
	armorMIME
)

// pemBegins gives the first lines of PEM: those of openssl smime and cms, and those of gpgsm.
func pemBegins() []string {
	return []string{
		"-----BEGIN PKCS7-----", "-----BEGIN CMS-----",
		"-----BEGIN ENCRYPTED MESSAGE-----", "-----BEGIN SIGNED MESSAGE-----",
	}
}

// Detect tells from the first bytes of a file what it is; head should hold DetectLen bytes or more, or the whole file
// when it is shorter. White space and a byte order mark in front of PEM and MIME are skipped. A PEM block further below is
// part of a plain file: configurations do hold certificates.
func Detect(head []byte) Kind {
	kind, _ := detect(head)
	return kind
}

func detect(head []byte) (Kind, armor) {
	if len(head) == 0 {
		return KindEmpty, armorNone
	}
	head = head[:min(len(head), DetectLen)]
	if kind := binaryKind(head); kind != KindPlain {
		return kind, armorNone
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	for _, begin := range pemBegins() {
		if rest, ok := bytes.CutPrefix(text, []byte(begin)); ok {
			return bodyKind(rest), armorPEM
		}
	}
	h, err := readMIMEHeader(bufio.NewReader(bytes.NewReader(text)))
	if err != nil || !h.isCMS() {
		return KindPlain, armorNone
	}
	if h.binary() {
		if kind := binaryKind(text[h.size:]); kind != KindPlain {
			return kind, armorMIME
		}
		return KindOther, armorMIME
	}
	return bodyKind(text[h.size:]), armorMIME
}

// bodyKind looks at the first bytes of base64 text.
func bodyKind(text []byte) Kind {
	var compact []byte
	for _, c := range text {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		if compact = append(compact, c); len(compact) == 64 {
			break
		}
	}
	raw := make([]byte, 48)
	n, err := base64.StdEncoding.Decode(raw, compact[:len(compact)&^3])
	if err != nil && n == 0 {
		return KindOther
	}
	if kind := binaryKind(raw[:n]); kind != KindPlain {
		return kind
	}
	return KindOther
}

// binaryKind recognises a ContentInfo (RFC 5652, section 3) by its outer tag and its content type.
func binaryKind(b []byte) Kind {
	if len(b) < 2 || b[0] != tagSequence {
		return KindPlain
	}
	skip := 2
	if b[1] > 0x80 {
		skip += int(b[1] & 0x7f)
	}
	if skip > 10 || len(b) < skip+2 || b[skip] != tagOID || len(b) < skip+2+int(b[skip+1]) {
		return KindPlain
	}
	switch oid := string(b[skip+2:][:b[skip+1]]); {
	case oid == oidEnveloped || oid == oidAuthEnv:
		return KindEncrypted
	case oid == oidSignedData:
		return KindSigned
	case strings.HasPrefix(oid, oidPKCS7) || strings.HasPrefix(oid, oidSMIMEct):
		return KindOther
	}
	return KindPlain
}

// mimeHeader is what matters of the header of a MIME text.
type mimeHeader struct {
	contentType string
	encoding    string
	size        int // bytes up to and including the empty line
}

func (h mimeHeader) binary() bool {
	return h.encoding == "binary" || h.encoding == "8bit" || h.encoding == "7bit"
}

// isCMS reports whether the text is one of the S/MIME types (RFC 8551, section 3.2; RFC 7193) or a signed multipart.
func (h mimeHeader) isCMS() bool {
	media, params, err := mime.ParseMediaType(h.contentType)
	if err != nil {
		return false
	}
	switch media {
	case "application/pkcs7-mime", "application/x-pkcs7-mime", "application/cms":
		return true
	case "multipart/signed":
		return strings.Contains(params["protocol"], "pkcs7-signature")
	}
	return false
}

// readMIMEHeader reads up to the empty line. It fails on the first line that is no header field, so that ordinary
// text is told apart quickly.
func readMIMEHeader(r *bufio.Reader) (mimeHeader, error) {
	var h mimeHeader
	var field, value string
	store := func() {
		switch strings.ToLower(field) {
		case "content-type":
			h.contentType = strings.TrimSpace(value)
		case "content-transfer-encoding":
			h.encoding = strings.ToLower(strings.TrimSpace(value))
		}
	}
	for {
		line, err := r.ReadSlice('\n')
		h.size += len(line)
		if err != nil || h.size > DetectLen {
			return h, malformed("MIME header without end")
		}
		text := strings.TrimRight(string(line), "\r\n")
		switch {
		case text == "":
			store()
			return h, nil
		case text[0] == ' ' || text[0] == '\t':
			if field == "" {
				return h, malformed("not a MIME header: %s", quote(text))
			}
			value += " " + strings.TrimSpace(text)
		default:
			store()
			var ok bool
			field, value, ok = strings.Cut(text, ":")
			if !ok || field == "" || strings.ContainsFunc(field, notFieldName) {
				return h, malformed("not a MIME header: %s", quote(text))
			}
		}
	}
}

func notFieldName(c rune) bool {
	return c <= ' ' || c > '~'
}

// load reads a whole message, takes its armor off and returns its bytes, which belong to the caller. want is the kind
// that the caller can use; anything else is an error that says what it is.
func load(src io.Reader, limit int64, want Kind) ([]byte, error) {
	if limit <= 0 {
		limit = DefaultMaxSize
	}
	limit = min(limit, math.MaxInt64-1)
	size := sizeHint(src, limit)
	capped := &io.LimitedReader{R: src, N: limit + 1}
	r := bufio.NewReaderSize(capped, 64<<10)
	head, err := r.Peek(DetectLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	kind, arm := detect(head)
	if err := checkKind(kind, want, head); err != nil {
		return nil, err
	}
	var out []byte
	switch arm {
	case armorPEM:
		out, err = decodePEM(r, size)
	case armorMIME:
		out, err = decodeMIME(r, size)
	default:
		out, err = readAll(r, size)
	}
	if capped.N <= 0 {
		return nil, ErrTooLarge
	}
	return out, err
}

func checkKind(got, want Kind, head []byte) error {
	switch {
	case got == want:
		return nil
	case got == KindEmpty:
		return ErrEmpty
	case got == KindPlain:
		return ErrPlain
	case bytes.Contains(head, []byte("multipart/signed")):
		return unsupported("multipart/signed text; sign with -nodetach")
	case got == KindOther:
		return unsupported("the file looks like a CMS message, but holds none that is encrypted or signed")
	}
	return unsupported("the message is %v, not %v", got, want)
}

// sizeHint is how many bytes the source says it has, for one allocation of the right size. It is only a hint.
func sizeHint(src io.Reader, limit int64) int {
	var n int64
	switch s := src.(type) {
	case interface{ Len() int }:
		n = int64(s.Len())
	case interface{ Stat() (fs.FileInfo, error) }:
		if fi, err := s.Stat(); err == nil && fi.Mode().IsRegular() {
			n = fi.Size()
		}
	}
	return int(min(max(n, 0), limit))
}

func readAll(r io.Reader, size int) ([]byte, error) {
	out := make([]byte, 0, size+512)
	for {
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(out) == cap(out) {
			out = append(out, 0)[:len(out)]
		}
	}
}

func decodePEM(r *bufio.Reader, size int) ([]byte, error) {
	if bom, err := r.Peek(3); err == nil && string(bom) == "\xef\xbb\xbf" {
		if _, err := r.Discard(3); err != nil {
			return nil, err
		}
	}
	label := ""
	for label == "" {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, malformed("PEM block without content")
		}
		label = strings.TrimSpace(string(line))
	}
	out, rest, err := decodeBase64(r, size)
	if err != nil {
		return nil, err
	}
	tail, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return nil, err
	}
	end := strings.TrimSpace(string(rest) + string(tail))
	if want := strings.Replace(label, "BEGIN", "END", 1); end != want {
		return nil, malformed("PEM block ends with %s, want %s", quote(end), quote(want))
	}
	return out, nil
}

func decodeMIME(r *bufio.Reader, size int) ([]byte, error) {
	for {
		c, err := r.Peek(1)
		if err != nil {
			return nil, malformed("MIME text without header")
		}
		if !strings.ContainsRune("\xef\xbb\xbf \t\r\n", rune(c[0])) && c[0] < 0x80 {
			break
		}
		if _, err := r.Discard(1); err != nil {
			return nil, err
		}
	}
	h, err := readMIMEHeader(r)
	if err != nil {
		return nil, err
	}
	if h.binary() {
		return readAll(r, size)
	}
	if h.encoding != "base64" {
		return nil, unsupported("MIME transfer encoding %s", quote(h.encoding))
	}
	out, rest, err := decodeBase64(r, size)
	if err == nil && len(rest) > 0 {
		err = malformed("text after the message: %s", quote(string(rest)))
	}
	return out, err
}

// decodeBase64 decodes up to the end of the text or to the first dash, and returns what it read from the dash on.
func decodeBase64(r io.Reader, size int) (out, rest []byte, err error) {
	const chunk = 64 << 10
	out = make([]byte, 0, size/4*3+512)
	in := make([]byte, chunk)
	compact := make([]byte, 0, chunk+4)
	closed := false
	for done := false; !done; {
		n, err := r.Read(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, err
		}
		done = errors.Is(err, io.EOF)
		text := in[:n]
		if i := bytes.IndexByte(text, '-'); i >= 0 {
			rest, text, done = bytes.Clone(text[i:]), text[:i], true
		}
		compact = appendCompact(compact, text)
		whole := len(compact) &^ 3
		if whole == 0 {
			continue
		}
		if closed {
			return nil, nil, malformed("base64 goes on after its end")
		}
		have := len(out)
		out = grow(out, whole/4*3)
		m, err := base64.StdEncoding.Decode(out[have:cap(out)], compact[:whole])
		if err != nil {
			return nil, nil, malformed("bad base64 near byte %d", have)
		}
		out = out[:have+m]
		closed = compact[whole-1] == '='
		compact = append(compact[:0], compact[whole:]...)
	}
	if len(compact) != 0 {
		return nil, nil, malformed("base64 is cut off")
	}
	return out, rest, nil
}

// appendCompact appends text without its white space, by line, because the lines are what there is most of.
func appendCompact(out, text []byte) []byte {
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		for len(line) > 0 && (line[len(line)-1] == '\r' || line[len(line)-1] == ' ' || line[len(line)-1] == '\t') {
			line = line[:len(line)-1]
		}
		for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			line = line[1:]
		}
		out = append(out, line...)
	}
	return out
}

// grow makes room for n more bytes.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	bigger := make([]byte, len(b), len(b)+len(b)/2+n)
	copy(bigger, b)
	return bigger
}
