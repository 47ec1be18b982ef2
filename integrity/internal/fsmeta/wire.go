package fsmeta

import (
	"encoding/binary"
	"errors"
	"slices"
)

// maxFile bounds a metadata file, maxFields the fields of one message.
const (
	maxFile   = 64 << 10
	maxFields = 256
)

var errWire = errors.New("fsmeta: malformed metadata")

// value is a field of a protocol buffer: a number or bytes.
type value struct {
	field int
	num   uint64
	data  []byte
}

const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// fields splits a message. Later fields of the same number follow earlier ones.
func fields(msg []byte) ([]value, error) {
	if len(msg) > maxFile {
		return nil, errWire
	}
	var out []value
	for len(msg) > 0 {
		tag, n := binary.Uvarint(msg)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 || len(out) == maxFields {
			return nil, errWire
		}
		msg = msg[n:]
		v := value{field: int(tag >> 3)}
		switch tag & 7 {
		case wireVarint:
			if v.num, n = binary.Uvarint(msg); n <= 0 {
				return nil, errWire
			}
		case wireBytes:
			size, m := binary.Uvarint(msg)
			if m <= 0 || size > uint64(len(msg)-m) {
				return nil, errWire
			}
			n = m + int(size)
			v.data = msg[m:n]
		case wire64, wire32:
			n = 8
			if tag&7 == wire32 {
				n = 4
			}
			if len(msg) < n {
				return nil, errWire
			}
		default:
			return nil, errWire
		}
		msg = msg[n:]
		out = append(out, v)
	}
	return out, nil
}

func appendBytes(msg []byte, field int, data []byte) []byte {
	msg = binary.AppendUvarint(msg, uint64(field)<<3|wireBytes)
	msg = binary.AppendUvarint(msg, uint64(len(data)))
	return append(msg, data...)
}

func appendNumber(msg []byte, field int, n uint64) []byte {
	if n == 0 {
		return msg
	}
	msg = binary.AppendUvarint(msg, uint64(field)<<3)
	return binary.AppendUvarint(msg, n)
}

// wrapped is the message WrappedKeyData.
type wrapped struct{ iv, key, mac []byte }

func parseWrapped(msg []byte) (wrapped, error) {
	var w wrapped
	list, err := fields(msg)
	if err != nil {
		return w, err
	}
	for _, v := range list {
		switch v.field {
		case 1:
			w.iv = v.data
		case 2:
			w.key = v.data
		case 3:
			w.mac = v.data
		}
	}
	return w, nil
}

func (w wrapped) marshal() []byte {
	return appendBytes(appendBytes(appendBytes(nil, 1, w.iv), 2, w.key), 3, w.mac)
}

// protector is the message ProtectorData, as far as a raw key needs it.
type protector struct {
	descriptor string
	source     uint64
	name       string
	key        wrapped
}

const sourceRawKey = 3

func (p protector) marshal() []byte {
	msg := appendBytes(nil, 1, []byte(p.descriptor))
	msg = appendNumber(msg, 2, p.source)
	msg = appendBytes(msg, 3, []byte(p.name))
	return appendBytes(msg, 7, p.key.marshal())
}

func parseProtector(msg []byte) (protector, error) {
	var p protector
	list, err := fields(msg)
	for _, v := range list {
		switch v.field {
		case 1:
			p.descriptor = string(v.data)
		case 2:
			p.source = v.num
		case 3:
			p.name = string(v.data)
		case 7:
			var werr error
			if p.key, werr = parseWrapped(v.data); werr != nil {
				return p, werr
			}
		}
	}
	return p, err
}

// policy is the message PolicyData.
type policy struct {
	descriptor               string
	padding, contents, names uint64
	version                  uint64
	keys                     []policyKey
}

// policyKey is the message WrappedPolicyKey.
type policyKey struct {
	protector string
	key       wrapped
}

func (p policy) marshal() []byte {
	var options []byte
	options = appendNumber(options, 1, p.padding)
	options = appendNumber(options, 2, p.contents)
	options = appendNumber(options, 3, p.names)
	options = appendNumber(options, 4, p.version)
	msg := appendBytes(nil, 1, []byte(p.descriptor))
	msg = appendBytes(msg, 2, options)
	for _, k := range p.keys {
		msg = appendBytes(msg, 3, appendBytes(appendBytes(nil, 1, []byte(k.protector)), 2, k.key.marshal()))
	}
	return msg
}

func parsePolicy(msg []byte) (policy, error) {
	var p policy
	list, err := fields(msg)
	if err != nil {
		return p, err
	}
	for _, v := range list {
		switch v.field {
		case 1:
			p.descriptor = string(v.data)
		case 2:
			options, err := fields(v.data)
			if err != nil {
				return p, err
			}
			for _, o := range options {
				if o.field >= 1 && o.field <= 4 {
					*[]*uint64{&p.padding, &p.contents, &p.names, &p.version}[o.field-1] = o.num
				}
			}
		case 3:
			k, err := parsePolicyKey(v.data)
			if err != nil {
				return p, err
			}
			p.keys = append(p.keys, k)
		}
	}
	p.keys = slices.Clip(p.keys)
	return p, nil
}

func parsePolicyKey(msg []byte) (policyKey, error) {
	var k policyKey
	list, err := fields(msg)
	if err != nil {
		return k, err
	}
	for _, v := range list {
		switch v.field {
		case 1:
			k.protector = string(v.data)
		case 2:
			if k.key, err = parseWrapped(v.data); err != nil {
				return k, err
			}
		}
	}
	return k, nil
}
