package autoinstall

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/mooringlib/mooring/internal/cms"
)

// errVague is the one answer to a message without integrity that the key was
// used on and that came to nothing. Whoever changes such a message on its way
// would learn about the plain text from more (a padding oracle), wherever the
// text is shown. A failed decryption with integrity reads the same: there is
// nothing more to say about it.
var errVague = fmt.Errorf("%w, or what came out is not acceptable: empty, not signed as it has to be, or %w",
	ErrDecrypt, ErrInsane)

// examine turns a file into a configuration that passed every check, or says
// why it is refused. It changes nothing.
func (d *Device) examine(ctx context.Context, file []byte, source string, s *state) (*Configuration, error) {
	c := &Configuration{Content: file, Source: source}
	refuse := func(err error) (*Configuration, error) {
		r := &RefusedError{Source: source, Err: err}
		if c.Encrypted && !c.Authenticated && c.Owner == nil || errors.Is(err, cms.ErrDecrypt) {
			r.Err, r.vague = errVague, true
		}
		return nil, r
	}
	if int64(len(file)) > d.cfg.MaxSize {
		return refuse(fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(file), d.cfg.MaxSize))
	}
	kind := detect(file)
	if kind == cms.KindEncrypted {
		if err := d.decrypt(c); err != nil {
			if errors.Is(err, cms.ErrKeyUnavailable) {
				return nil, fmt.Errorf("autoinstall: use the device key: %w", err)
			}
			return refuse(err)
		}
		kind = detect(c.Content)
	} else if d.cfg.EncryptedOnly && kind != cms.KindEmpty {
		return refuse(fmt.Errorf("%w: it is %v and only encrypted ones are taken", ErrPlain, kind))
	}
	switch kind {
	case cms.KindEmpty:
		return refuse(ErrEmpty)
	case cms.KindSigned:
		if err := d.verify(c, s); err != nil {
			return refuse(err)
		}
	case cms.KindPlain:
		if d.cfg.Owner != nil && !d.cfg.Owner.Optional {
			return refuse(fmt.Errorf("%w: it is not signed by its owner", ErrPlain))
		}
		if d.cfg.Owner != nil && s.Counter > 0 {
			return refuse(fmt.Errorf("%w: it has no counter, %d is installed", ErrRollback, s.Counter))
		}
	default:
		return refuse(fmt.Errorf("%w: it holds %v", ErrDecrypt, kind))
	}
	if d.cfg.UnixNewlines {
		c.Content = unixNewlines(c.Content)
	}
	if len(c.Content) == 0 {
		return refuse(ErrEmpty)
	}
	sum := sha256.Sum256(c.Content)
	c.Digest = hex.EncodeToString(sum[:])
	if c.Counter > 0 && c.Counter == s.Counter && c.Digest != s.CounterDigest {
		return refuse(fmt.Errorf("%w: counter %d was used for another configuration", ErrRollback, c.Counter))
	}
	if d.cfg.Sane != nil {
		if err := d.cfg.Sane(ctx, c.Content); err != nil {
			return refuse(fmt.Errorf("%w: %w", ErrInsane, err))
		}
	}
	return c, nil
}

func detect(b []byte) cms.Kind { return cms.Detect(b[:min(len(b), cms.DetectLen)]) }

// decrypt tries the keys in their order.
func (d *Device) decrypt(c *Configuration) error {
	if len(d.keys) == 0 {
		return fmt.Errorf("%w: this device has no key", ErrDecrypt)
	}
	var failed error
	for _, k := range d.keys {
		msg, err := k.decrypter.DecryptBytes(c.Content)
		if err == nil {
			c.Content, c.Encrypted, c.Authenticated, c.Key = msg.Content, true, msg.Authenticated, k.name
			return nil
		}
		if errors.Is(err, cms.ErrUnauthenticated) {
			return fmt.Errorf("%w: its encryption has no integrity (AES-CBC) and only AES-GCM is taken", ErrPlain)
		}
		// A key that doesn't answer is a fault of the device, and stands
		// before what the other keys say.
		if failed == nil || errors.Is(err, cms.ErrKeyUnavailable) || errors.Is(failed, cms.ErrNotRecipient) {
			failed = err
		}
	}
	return fmt.Errorf("%w: %w", ErrDecrypt, failed)
}

// verify opens a signed configuration and checks who signed it, whom it is for,
// and whether it is newer than what was installed.
func (d *Device) verify(c *Configuration, s *state) error {
	cfg := cms.VerifyConfig{CurrentTime: d.clock(), MaxSize: d.cfg.MaxSize}
	if d.cfg.Owner != nil {
		cfg.Roots = d.cfg.Owner.Roots
	} else {
		// Nobody is trusted, so nothing is won by the signature; it has to be
		// whole, as a checksum, and its claims can only narrow what is taken.
		cfg.AnySigner = true
	}
	signed, err := cms.Verify(c.Content, cfg)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if d.cfg.Owner != nil {
		c.Owner = signed.Signer
	}
	claims, err := cms.ParseOwnerClaims(signed.Attributes)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if claims.Serial != "" && claims.Serial != d.cfg.Serial {
		return fmt.Errorf("%w: it is for %.64q", ErrOtherDevice, claims.Serial)
	}
	c.Content = signed.Content
	if d.cfg.Owner == nil {
		return nil
	}
	if claims.Serial == "" && d.cfg.Owner.RequireSerial {
		return fmt.Errorf("%w: it names no device and has to", ErrOtherDevice)
	}
	if claims.Counter == 0 && (d.cfg.Owner.RequireCounter || s.Counter > 0) {
		return fmt.Errorf("%w: it has no counter, %d is installed", ErrRollback, s.Counter)
	}
	if claims.Counter > 0 && claims.Counter < s.Counter {
		return fmt.Errorf("%w: its counter is %d, %d is installed", ErrRollback, claims.Counter, s.Counter)
	}
	c.Counter = claims.Counter
	return nil
}

// clock is now, but never before the floor.
func (d *Device) clock() time.Time {
	now := d.cfg.Now()
	if now.Before(d.cfg.ClockFloor) {
		return d.cfg.ClockFloor
	}
	return now
}

// unixNewlines undoes what the canonical form of S/MIME (RFC 8551 section
// 3.1.1) does to text, when it was done to all of it.
func unixNewlines(b []byte) []byte {
	crlf := bytes.Count(b, []byte("\r\n"))
	if crlf == 0 || crlf != bytes.Count(b, []byte("\n")) || crlf != bytes.Count(b, []byte("\r")) {
		return b
	}
	return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
}
