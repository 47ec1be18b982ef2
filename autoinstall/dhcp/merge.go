package dhcp

import (
	"bytes"
	"errors"
	"fmt"
)

// The fixed part of a DHCPv4 packet, RFC 2131 section 2.
const (
	snameAt, snameLen = 44, 64
	fileAt, fileLen   = 108, 128
	optionsAt         = 240 // after the magic cookie

	optPad      = 0
	optOverload = 52
	optEnd      = 255
)

var cookie = []byte{99, 130, 83, 99}

// Merge puts the options that a DHCPv4 packet carries in its fields sname and
// file (option 52, RFC 2132 section 9.3) behind the other options, in the order
// of RFC 3396 section 5, and empties the fields. A packet without option 52 is
// returned as it is. The result may share memory with packet.
func Merge(packet []byte) ([]byte, error) {
	if len(packet) < optionsAt || !bytes.Equal(packet[optionsAt-4:optionsAt], cookie) {
		return nil, errors.New("dhcp: not a DHCP packet")
	}
	options, overload, err := readOptions(nil, packet[optionsAt:], true)
	if err != nil {
		return nil, err
	}
	if overload == 0 {
		return packet, nil
	}
	out := bytes.Clone(packet[:optionsAt])
	if overload&1 != 0 {
		if options, _, err = readOptions(options, packet[fileAt:fileAt+fileLen], false); err != nil {
			return nil, fmt.Errorf("%w (in the field file)", err)
		}
		clear(out[fileAt : fileAt+fileLen])
	}
	if overload&2 != 0 {
		if options, _, err = readOptions(options, packet[snameAt:snameAt+snameLen], false); err != nil {
			return nil, fmt.Errorf("%w (in the field sname)", err)
		}
		clear(out[snameAt : snameAt+snameLen])
	}
	return append(append(out, options...), optEnd), nil
}

// readOptions appends the options in b to dst, without option 52, padding and
// end. Only the option field itself may hold option 52.
func readOptions(dst, b []byte, outer bool) (options []byte, overload byte, err error) {
	for len(b) > 0 {
		switch b[0] {
		case optPad:
			b = b[1:]
			continue
		case optEnd:
			return dst, overload, nil
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return nil, 0, fmt.Errorf("dhcp: option %d is cut off", b[0])
		}
		one := b[:2+int(b[1])]
		b = b[len(one):]
		if one[0] != optOverload {
			dst = append(dst, one...)
			continue
		}
		if len(one) != 3 || one[2] < 1 || one[2] > 3 || !outer || overload != 0 {
			return nil, 0, errors.New("dhcp: option 52 is not in order")
		}
		overload = one[2]
	}
	// RFC 2131 demands an end; packets without one are common and harmless.
	return dst, overload, nil
}
