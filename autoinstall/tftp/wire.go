package tftp

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
)

type opcode uint16

const (
	opRRQ   opcode = 1
	opData  opcode = 3
	opAck   opcode = 4
	opError opcode = 5
	opOAck  opcode = 6
)

// Names of options. They are compared without regard to case (RFC 2347).
const (
	optBlockSize  = "blksize"
	optSize       = "tsize"
	optTimeout    = "timeout"
	optWindowSize = "windowsize"
)

type option struct {
	name  string
	value int64
}

// packet is one packet from a server, decoded. Data aliases the input.
type packet struct {
	op      opcode
	block   uint16 // opData
	data    []byte // opData
	options []option
	code    uint16 // opError
	message string // opError
}

// parsePacket decodes what a server may send: DATA, ERROR and OACK.
func parsePacket(b []byte) (packet, error) {
	if len(b) < 2 {
		return packet{}, protocolError("packet of %d octets", len(b))
	}
	p := packet{op: opcode(binary.BigEndian.Uint16(b))}
	body := b[2:]
	switch p.op {
	case opData:
		if len(body) < 2 {
			return packet{}, protocolError("DATA of %d octets", len(b))
		}
		p.block, p.data = binary.BigEndian.Uint16(body), body[2:]
		return p, nil
	case opError:
		if len(body) < 2 {
			return packet{}, protocolError("ERROR of %d octets", len(b))
		}
		p.code = binary.BigEndian.Uint16(body)
		// Servers exist that leave the final zero out; the text is only shown.
		text, _, _ := bytes.Cut(body[2:], []byte{0})
		p.message = strings.ToValidUTF8(string(text[:min(len(text), maxErrorText)]), "\uFFFD")
		return p, nil
	case opOAck:
		var err error
		p.options, err = parseOptions(body)
		return p, err
	default:
		return packet{}, protocolError("opcode %d from a server", uint16(p.op))
	}
}

// parseOptions decodes the name and value pairs of an OACK. All options that
// exist for reading have whole numbers as values.
func parseOptions(b []byte) ([]option, error) {
	var opts []option
	for len(b) > 0 {
		if len(opts) == maxOptions {
			return nil, protocolError("OACK with more than %d options", maxOptions)
		}
		name, rest, err := cutText(b)
		if err != nil {
			return nil, err
		}
		text, rest, err := cutText(rest)
		if err != nil {
			return nil, err
		}
		name = strings.ToLower(name)
		for _, o := range opts {
			if o.name == name {
				return nil, protocolError("OACK with option %q twice", name)
			}
		}
		value, err := parseNumber(text)
		if err != nil {
			return nil, protocolError("OACK with option %q of value %q", name, text)
		}
		opts = append(opts, option{name, value})
		b = rest
	}
	return opts, nil
}

// cutText takes one text that ends with a zero octet.
func cutText(b []byte) (text string, rest []byte, err error) {
	i := bytes.IndexByte(b, 0)
	switch {
	case i < 0:
		return "", nil, protocolError("OACK text without its end")
	case i > maxOptionText:
		return "", nil, protocolError("OACK text of %d octets", i)
	case i == 0:
		return "", nil, protocolError("OACK with an empty text")
	}
	return string(b[:i]), b[i+1:], nil
}

// parseNumber takes decimal digits only: no sign, no space.
func parseNumber(s string) (int64, error) {
	for _, r := range s {
		if r < '0' || r > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseInt(s, 10, 64)
}

// appendRRQ writes a read request in octet mode.
func appendRRQ(b []byte, file string, opts []option) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(opRRQ))
	b = append(append(b, file...), 0)
	b = append(append(b, "octet"...), 0)
	for _, o := range opts {
		b = append(append(b, o.name...), 0)
		b = append(strconv.AppendInt(b, o.value, 10), 0)
	}
	return b
}

func appendAck(b []byte, block uint16) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(opAck))
	return binary.BigEndian.AppendUint16(b, block)
}

func appendError(b []byte, code uint16, text string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(opError))
	b = binary.BigEndian.AppendUint16(b, code)
	return append(append(b, text...), 0)
}

// checkFileName refuses names that would change the meaning of a request. What
// a name may be beyond that is the caller's policy.
func checkFileName(name string) error {
	if name == "" {
		return protocolError("empty file name")
	}
	if len(name) > maxFileName {
		return protocolError("file name of %d octets, the limit is %d", len(name), maxFileName)
	}
	for i := range len(name) {
		if name[i] < 0x20 || name[i] == 0x7f {
			return protocolError("file name %q holds a control character", name)
		}
	}
	return nil
}
