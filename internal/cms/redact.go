package cms

import "log/slog"

// The types that hold keys or plain text say what they are and nothing of what they hold, however they are printed.

// String names the message without its content.
func (m Message) String() string { return m.Cipher + " with " + m.KeyManagement }

// GoString is String.
func (m Message) GoString() string { return m.String() }

// LogValue implements slog.LogValuer without the content.
func (m Message) LogValue() slog.Value { return slog.StringValue(m.String()) }

// String names the signed message without its content.
func (s Signed) String() string {
	if s.Signer == nil {
		return "signed message"
	}
	return "message signed by " + quote(s.Signer.Subject.String())
}

// GoString is String.
func (s Signed) GoString() string { return s.String() }

// LogValue implements slog.LogValuer without the content.
func (s Signed) LogValue() slog.Value { return slog.StringValue(s.String()) }

// String hides the key.
func (DecrypterConfig) String() string { return "cms.DecrypterConfig" }

// GoString is String.
func (c DecrypterConfig) GoString() string { return c.String() }

// String hides the key.
func (*Decrypter) String() string { return "cms.Decrypter" }

// GoString is String.
func (d *Decrypter) GoString() string { return d.String() }

// String hides the key.
func (SignConfig) String() string { return "cms.SignConfig" }

// GoString is String.
func (c SignConfig) GoString() string { return c.String() }
