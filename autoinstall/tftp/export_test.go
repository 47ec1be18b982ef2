package tftp

// Parsed is what a packet was taken for.
type Parsed struct {
	Op      uint16
	Block   uint16
	Data    []byte
	Options map[string]int64
	Code    uint16
	Message string
}

// Parse gives the fuzz target the decoder.
func Parse(b []byte) (Parsed, error) {
	p, err := parsePacket(b)
	out := Parsed{Op: uint16(p.op), Block: p.block, Data: p.data, Options: map[string]int64{}, Code: p.code, Message: p.message}
	for _, o := range p.options {
		out.Options[o.name] = o.value
	}
	return out, err
}

// AppendRRQ gives the tests the encoder.
func AppendRRQ(file string) []byte {
	return appendRRQ(nil, file, []option{{optSize, 0}, {optBlockSize, 1468}})
}
