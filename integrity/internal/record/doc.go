// Package record holds what Configuration Integrity keeps on disk: the wrapped
// key and the manifest of the protected directories.
//
// A record is
//
//	"MOORINGREC" | version u16 | generation u64 | flags u8 |
//	manifest (u32 length) | wrapped key (u32 length) | SHA-256 of all before
//
// in big-endian order. There are two slots, the files record-a and record-b. A
// new record goes to the slot that does not hold the newest one, so the old one
// is there until the new one was proved, and is then dropped.
//
// The checksum finds damage. That nobody changed a record on purpose follows
// from the TPM, which vouches for the digest of the manifest and checks the
// wrapped key itself.
//
// A manifest is
//
//	version u8 | mode u8 | salt [16] | count u16 |
//	count times: path (u16 length) | identifier [16] | policy version u8 |
//	contents mode u8 | names mode u8 | flags u8 | log2 data unit u8
package record
