package operator

import "log/slog"

// String hides the key.
func (o Owner) String() string {
	if o.Certificate == nil {
		return "owner"
	}
	return "owner " + quote(o.Certificate.Subject.String())
}

// GoString is String.
func (o Owner) GoString() string { return o.String() }

// LogValue implements slog.LogValuer without the key.
func (o Owner) LogValue() slog.Value { return slog.StringValue(o.String()) }
