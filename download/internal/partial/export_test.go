package partial

// EncodeJournal and EncodePassport write what the parsers read.
func EncodeJournal(j Journal) []byte   { return j.encode() }
func EncodePassport(p Passport) []byte { return p.encode() }
