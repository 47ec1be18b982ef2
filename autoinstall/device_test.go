package autoinstall_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

const config1 = "hostname SN1\nsnmp-server community s3cret\n"

func TestConfigNamesEveryBadField(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	_, err = autoinstall.New(autoinstall.Config{
		Serial: "../x", MaxSize: -1, Owner: &autoinstall.OwnerPolicy{},
		Keys:     []autoinstall.Key{{Name: "vendor"}, {Name: "weak", Private: weak}},
		Schedule: autoinstall.Schedule{Early: -1},
	})
	for _, want := range []string{"Serial", "Dir", "Installer", "MaxSize", "Owner.Roots", `"vendor"`, `"weak"`, "Schedule"} {
		require.ErrorContains(t, err, want)
	}
}

func TestEncryptedAndPlainAreToldByContent(t *testing.T) {
	ec, rs, other := ecIdentity(t, "ec"), rsaIdentity(t, "rsa"), ecIdentity(t, "other")
	encrypted := ec.seal(t, []byte(config1))
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	der, err := cms.Encrypt([]byte(config1), cms.EncryptConfig{Recipients: []*x509.Certificate{ec.cert}})
	require.NoError(t, err)
	tests := map[string]struct {
		file      []byte
		encrypted bool // only
		want      error
	}{
		"EC key":                            {file: encrypted},
		"RSA key":                           {file: rs.seal(t, []byte(config1))},
		"DER":                               {file: der},
		"encrypted, in encrypted-only mode": {file: encrypted, encrypted: true},
		"plain":                             {file: []byte(config1)},
		"plain, in encrypted-only mode":     {file: []byte(config1), encrypted: true, want: autoinstall.ErrPlain},
		"no bytes":                          {want: autoinstall.ErrEmpty},
		"no bytes, in encrypted-only mode":  {encrypted: true, want: autoinstall.ErrEmpty},
		"no bytes inside":                   {file: ec.seal(t, nil), want: autoinstall.ErrEmpty},
		"another device's key":              {file: other.seal(t, []byte(config1)), want: autoinstall.ErrDecrypt},
		"encrypted twice":                   {file: ec.seal(t, encrypted), want: autoinstall.ErrDecrypt},
		"half of the file":                  {file: encrypted[:len(encrypted)/2], want: autoinstall.ErrDecrypt},
		"half of the file in DER":           {file: der[:len(der)/2], want: autoinstall.ErrDecrypt},
		"last octet changed":                {file: flip(der, len(der)-1), want: autoinstall.ErrDecrypt},
		"content changed":                   {file: flip(der, len(der)-30), want: autoinstall.ErrDecrypt},
		"too large":                         {file: make([]byte, autoinstall.DefaultMaxSize+1), want: autoinstall.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(c *autoinstall.Config) {
					c.EncryptedOnly = tt.encrypted
					c.Keys = []autoinstall.Key{ec.asKey("ec"), rs.asKey("rsa")}
				})
				b.shelf.put(fileURL, tt.file)
				d := b.device(t)
				err := d.Once(t.Context())
				if tt.want == nil {
					require.NoError(t, err)
					got, err := os.ReadFile(b.path)
					require.NoError(t, err)
					require.Equal(t, config1, string(got))
					return
				}
				require.ErrorIs(t, err, tt.want)
				require.ErrorIs(t, err, autoinstall.ErrRefused)
				require.NotErrorIs(t, err, autoinstall.ErrNothingYet)
				require.NoFileExists(t, b.path)
				require.Zero(t, b.installer.installs)
				require.NotContains(t, err.Error(), "\n")
				st, err := d.Status(t.Context())
				require.NoError(t, err)
				require.Equal(t, autoinstall.PhaseWaiting, st.Phase)
				require.True(t, st.Refused)
				require.NotEmpty(t, st.Reason)
			})
		})
	}
}

func TestEveryFlippedBitAndEveryTruncationIsRefused(t *testing.T) {
	// AES-GCM: nothing that was changed on the way is installed.
	id := ecIdentity(t, "ec")
	der, err := cms.Encrypt([]byte(config1), cms.EncryptConfig{Recipients: []*x509.Certificate{id.cert}})
	require.NoError(t, err)
	b := newBench(t, func(c *autoinstall.Config) {
		c.EncryptedOnly = true
		c.Keys = []autoinstall.Key{id.asKey("vendor")}
		c.Installer = never{t}
	})
	d := b.device(t)
	for i := range der {
		require.ErrorIs(t, d.Load(t.Context(), der[:i], autoinstall.Load{}), autoinstall.ErrRefused, "first %d octets", i)
	}
	same := 0
	b2 := newBench(t, func(c *autoinstall.Config) {
		c.EncryptedOnly = true
		c.Keys = []autoinstall.Key{id.asKey("vendor")}
	})
	d2 := b2.device(t)
	for i := range der {
		changed := bytes.Clone(der)
		changed[i] ^= 1 << (i % 8)
		if err := d2.Load(t.Context(), changed, autoinstall.Load{}); err == nil {
			// Fields that say nothing about the content, such as the name of
			// the recipient, may change. The content may not.
			got, err := os.ReadFile(b2.path)
			require.NoError(t, err)
			require.Equal(t, config1, string(got), "octet %d changed", i)
			same++
		} else {
			require.ErrorIs(t, err, autoinstall.ErrRefused, "octet %d changed", i)
		}
	}
	require.Less(t, same, len(der)/3)
}

type never struct{ t *testing.T }

func (never) Current(context.Context) (string, error) { return "", nil }
func (n never) Install(context.Context, *autoinstall.Configuration) error {
	n.t.Error("installed")
	return nil
}
func (never) Remove(context.Context) error { return nil }

func TestTheSecondKeyIsTriedWhenTheFirstDoesNotFit(t *testing.T) {
	vendor, operator := ecIdentity(t, "vendor"), ecIdentity(t, "operator")
	for _, id := range []identity{vendor, operator} {
		b := newBench(t, func(c *autoinstall.Config) {
			c.Keys = []autoinstall.Key{operator.asKey("operator"), vendor.asKey("vendor")}
		})
		b.shelf.put(fileURL, id.seal(t, []byte(config1)))
		d := b.device(t)
		require.NoError(t, d.Once(t.Context()))
		st, err := d.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, id.cert.Subject.CommonName, st.Installed.Key)
		require.True(t, st.Installed.Authenticated)
	}
}

func TestMessageToACertificateThatTheDeviceDoesNotKnow(t *testing.T) {
	// The vendor's directory wraps a raw public key into a certificate of its
	// own. The device knows its key and not that certificate.
	for _, id := range []identity{ecIdentity(t, "device"), rsaIdentity(t, "device")} {
		wrapped := newIdentity(t, "wrapped", id.key)
		b := newBench(t, func(c *autoinstall.Config) { c.Keys = []autoinstall.Key{id.asKey("vendor")} })
		require.NoError(t, b.device(t).Load(t.Context(), wrapped.seal(t, []byte(config1)), autoinstall.Load{}))
	}
}

func TestPlacesAreTriedInTheirOrder(t *testing.T) {
	urls, err := autoinstall.ServerURLs("192.0.2.1", autoinstall.FileNames(serialNumber)...)
	require.NoError(t, err)
	b := newBench(t, func(c *autoinstall.Config) { c.Discoverer = autoinstall.Static(urls) })
	b.shelf.put("tftp://192.0.2.1/SN19842256.cfg", []byte(config1))
	require.NoError(t, b.device(t).Once(t.Context()))
	require.Equal(t, urls, b.shelf.fetched)

	b = newBench(t, func(c *autoinstall.Config) { c.Discoverer = autoinstall.Static(urls) })
	err = b.device(t).Once(t.Context())
	require.ErrorIs(t, err, autoinstall.ErrNothingYet)
	require.ErrorIs(t, err, autoinstall.ErrNotFound)
	b.shelf.put(urls[0], nil)
	err = b.device(t).Once(t.Context())
	require.ErrorIs(t, err, autoinstall.ErrRefused, "what was refused is told before what is missing")

	b = newBench(t, func(c *autoinstall.Config) { c.Discoverer = autoinstall.Static{"file:///etc/passwd"} })
	require.ErrorIs(t, b.device(t).Once(t.Context()), autoinstall.ErrRefused)
	require.Empty(t, b.shelf.fetched)
}

func TestNewlinesOfMail(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"all CR LF":         {"a\r\nb\r\n", "a\nb\n"},
		"LF":                {"a\nb\n", "a\nb\n"},
		"mixed":             {"a\r\nb\n", "a\r\nb\n"},
		"CR inside a line":  {"a\rb\r\n", "a\rb\r\n"},
		"no end at the end": {"a\r\nb", "a\nb"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *autoinstall.Config) { c.UnixNewlines = true })
			require.NoError(t, b.device(t).Load(t.Context(), []byte(tt.in), autoinstall.Load{}))
			got, err := os.ReadFile(b.path)
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got))
		})
	}
	b := newBench(t, nil)
	require.NoError(t, b.device(t).Load(t.Context(), []byte("a\r\n"), autoinstall.Load{}))
	got, err := os.ReadFile(b.path)
	require.NoError(t, err)
	require.Equal(t, "a\r\n", string(got))
}

func TestSaneDecides(t *testing.T) {
	b := newBench(t, func(c *autoinstall.Config) {
		c.Sane = func(_ context.Context, content []byte) error {
			if !bytes.HasPrefix(content, []byte("hostname")) {
				return errors.New("line 1: unknown command")
			}
			return nil
		}
	})
	d := b.device(t)
	err := d.Load(t.Context(), []byte("garbage"), autoinstall.Load{Source: "usb"})
	require.ErrorIs(t, err, autoinstall.ErrInsane)
	require.ErrorContains(t, err, `"usb"`)
	require.ErrorContains(t, err, "unknown command")
	require.NoFileExists(t, b.path)
	require.NoError(t, d.Load(t.Context(), []byte(config1), autoinstall.Load{}))
}

func TestOwnerPolicy(t *testing.T) {
	owner, stranger, dev := ecIdentity(t, "owner"), ecIdentity(t, "stranger"), ecIdentity(t, "dev")
	claims := cms.OwnerClaims{Serial: serialNumber, Counter: 7}
	trusting := autoinstall.OwnerPolicy{Roots: owner.pool()}
	optional, strict := trusting, trusting
	optional.Optional = true
	strict.RequireSerial, strict.RequireCounter = true, true
	tests := map[string]struct {
		file   []byte
		policy *autoinstall.OwnerPolicy
		want   error
	}{
		"signed by the owner":              {owner.sign(t, config1, claims), &strict, nil},
		"signed without claims":            {owner.sign(t, config1, cms.OwnerClaims{}), &trusting, nil},
		"without serial, which is needed":  {owner.sign(t, config1, cms.OwnerClaims{Counter: 1}), &strict, autoinstall.ErrOtherDevice},
		"without counter, which is needed": {owner.sign(t, config1, cms.OwnerClaims{Serial: serialNumber}), &strict, autoinstall.ErrRollback},
		"signed by a stranger":             {stranger.sign(t, config1, claims), &trusting, autoinstall.ErrUntrusted},
		"signed by a stranger, optional":   {stranger.sign(t, config1, claims), &optional, autoinstall.ErrUntrusted},
		"for another device":               {owner.sign(t, config1, cms.OwnerClaims{Serial: "SN2"}), &optional, autoinstall.ErrOtherDevice},
		"not signed":                       {[]byte(config1), &trusting, autoinstall.ErrPlain},
		"not signed, optional":             {[]byte(config1), &optional, nil},
		"nobody trusted":                   {stranger.sign(t, config1, claims), nil, nil},
		"nobody trusted, other device":     {stranger.sign(t, config1, cms.OwnerClaims{Serial: "SN2"}), nil, autoinstall.ErrOtherDevice},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *autoinstall.Config) {
				c.Owner, c.EncryptedOnly = tt.policy, true
				c.Keys = []autoinstall.Key{dev.asKey("vendor")}
			})
			d := b.device(t)
			err := d.Load(t.Context(), dev.seal(t, tt.file), autoinstall.Load{})
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				require.NoFileExists(t, b.path)
				return
			}
			require.NoError(t, err)
			got, err := os.ReadFile(b.path)
			require.NoError(t, err)
			require.Equal(t, config1, string(got))
			st, err := d.Status(t.Context())
			require.NoError(t, err)
			if tt.policy == nil {
				require.Zero(t, st.Counter, "the counter of somebody unknown must not lock the owner out")
				require.Empty(t, st.Installed.Owner)
			}
		})
	}
}

func TestTamperedSignatureIsRefusedWhereNobodyIsTrusted(t *testing.T) {
	signed := ecIdentity(t, "x").sign(t, config1, cms.OwnerClaims{})
	at := bytes.Index(signed, []byte("hostname"))
	signed[at] ^= 0x20
	b := newBench(t, nil)
	require.ErrorIs(t, b.device(t).Load(t.Context(), signed, autoinstall.Load{}), autoinstall.ErrUntrusted)
}

func TestCounterNeverGoesBack(t *testing.T) {
	owner := ecIdentity(t, "owner")
	b := newBench(t, func(c *autoinstall.Config) { c.Owner = &autoinstall.OwnerPolicy{Roots: owner.pool(), Optional: true} })
	load := func(content string, counter uint64) error {
		// A new Device each time: nothing may depend on memory.
		return b.device(t).Load(t.Context(), owner.sign(t, content, cms.OwnerClaims{Counter: counter}), autoinstall.Load{})
	}
	require.NoError(t, load("five", 5))
	require.ErrorIs(t, load("four", 4), autoinstall.ErrRollback)
	require.ErrorIs(t, load("five again", 5), autoinstall.ErrRollback)
	require.ErrorIs(t, load("none", 0), autoinstall.ErrRollback)
	require.ErrorIs(t, b.device(t).Load(t.Context(), []byte("not signed"), autoinstall.Load{}), autoinstall.ErrRollback)
	require.NoError(t, load("five", 5), "the same once more changes nothing")
	require.Equal(t, 1, b.installer.installs)
	require.NoError(t, load("nine", 9))
	require.NoError(t, b.device(t).Reset(t.Context()))
	require.NoFileExists(t, b.path)
	require.ErrorIs(t, load("five", 5), autoinstall.ErrRollback, "a factory reset is no way back")
	require.NoError(t, load("nine", 9), "the newest one may be installed again after a reset")
	require.NoError(t, load("nine", 10), "same content, higher counter")
	require.ErrorIs(t, load("x", 9), autoinstall.ErrRollback)
	require.Equal(t, 3, b.installer.installs)
}

func TestExpiredOwnerAndClockThatForgotTheTime(t *testing.T) {
	owner := ecIdentity(t, "owner")
	floor := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		now  time.Time
		want error
	}{
		"1970":         {time.Unix(0, 0), nil},
		"after expiry": {time.Date(2130, 1, 1, 0, 0, 0, 0, time.UTC), autoinstall.ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *autoinstall.Config) {
				c.Owner = &autoinstall.OwnerPolicy{Roots: owner.pool()}
				c.Now = func() time.Time { return tt.now }
				c.ClockFloor = floor
			})
			err := b.device(t).Load(t.Context(), owner.sign(t, config1, cms.OwnerClaims{}), autoinstall.Load{})
			require.ErrorIs(t, err, tt.want)
		})
	}
}

func TestDeviceWithAConfigurationDoesNotLook(t *testing.T) {
	b := newBench(t, nil)
	require.NoError(t, os.MkdirAll(filepath.Dir(b.path), 0o700))
	require.NoError(t, os.WriteFile(b.path, []byte("by hand"), 0o600))
	d := b.device(t)
	require.NoError(t, d.Run(t.Context()))
	require.Empty(t, b.shelf.fetched)
	st, err := d.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, autoinstall.PhaseInstalled, st.Phase)
	require.Empty(t, st.Installed.Source)
}

func TestPartsAndReinstall(t *testing.T) {
	b := newBench(t, nil)
	d := b.device(t)
	require.NoError(t, d.Load(t.Context(), []byte("whole"), autoinstall.Load{}))
	require.NoError(t, d.Load(t.Context(), []byte("part"), autoinstall.Load{Part: true}))
	require.NoError(t, d.Load(t.Context(), []byte("part"), autoinstall.Load{Part: true}))
	require.Equal(t, 2, b.installer.installs)
	parts, err := autoinstall.NewFileInstaller(b.path).Parts(t.Context())
	require.NoError(t, err)
	require.Len(t, parts, 1)
	st, err := d.Status(t.Context())
	require.NoError(t, err)
	require.True(t, st.Part.Part)
	require.NoError(t, d.Load(t.Context(), []byte("whole"), autoinstall.Load{}))
	require.Equal(t, 3, b.installer.installs, "the whole takes the part's place")
	parts, err = autoinstall.NewFileInstaller(b.path).Parts(t.Context())
	require.NoError(t, err)
	require.Empty(t, parts)
}

func TestStopAtEveryStepOfAnInstallation(t *testing.T) {
	owner := ecIdentity(t, "owner")
	type world struct {
		b    *bench
		file []byte
	}
	durabletest.EachStop(t,
		func(t *testing.T) world {
			b := newBench(t, func(c *autoinstall.Config) { c.Owner = &autoinstall.OwnerPolicy{Roots: owner.pool()} })
			require.NoError(t, b.device(t).Load(t.Context(), owner.sign(t, "old", cms.OwnerClaims{Counter: 1}), autoinstall.Load{}))
			b.installer.installs = 0
			return world{b, owner.sign(t, "new", cms.OwnerClaims{Counter: 2})}
		},
		func(w world, disk durable.Writer) error {
			w.b.installer.Installer = autoinstall.NewFileInstaller(w.b.path).WithDisk(disk)
			d, err := autoinstall.New(w.b.cfg.WithDisk(disk))
			if err != nil {
				return err
			}
			return d.Load(context.Background(), w.file, autoinstall.Load{Source: "file"})
		},
		func(t *testing.T, w world, done bool) {
			w.b.installer.Installer = autoinstall.NewFileInstaller(w.b.path)
			got, err := os.ReadFile(w.b.path)
			require.NoError(t, err)
			require.Contains(t, []string{"old", "new"}, string(got))
			d := w.b.device(t)
			before, err := d.Status(t.Context())
			require.NoError(t, err)
			if done {
				require.Equal(t, "new", string(got))
				require.EqualValues(t, 2, before.Counter)
			}
			installs := w.b.installer.installs
			require.NoError(t, d.Load(t.Context(), w.file, autoinstall.Load{Source: "file"}))
			if string(got) == "new" {
				require.Equal(t, installs, w.b.installer.installs, "not twice the same")
			}
			after, err := d.Status(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 2, after.Counter)
			require.Equal(t, "file", after.Installed.Source)
			require.ErrorIs(t, d.Load(t.Context(), owner.sign(t, "old", cms.OwnerClaims{Counter: 1}), autoinstall.Load{}), autoinstall.ErrRollback)
			got, err = os.ReadFile(w.b.path)
			require.NoError(t, err)
			require.Equal(t, "new", string(got))
		})
}

func TestDamagedStateStopsTheDevice(t *testing.T) {
	for name, text := range map[string]string{"no JSON": "{", "another version": `{"version":2}`, "empty": "", "huge": strings.Repeat(" ", 70<<10)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			require.NoError(t, os.MkdirAll(b.cfg.Dir, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(b.cfg.Dir, "state.json"), []byte(text), 0o600))
			d := b.device(t)
			require.ErrorIs(t, d.Run(t.Context()), autoinstall.ErrState)
			require.ErrorIs(t, d.Load(t.Context(), []byte(config1), autoinstall.Load{}), autoinstall.ErrState)
			require.NoFileExists(t, b.path)
		})
	}
}

func TestKeysDoNotPrintThemselves(t *testing.T) {
	k := ecIdentity(t, "x").asKey("vendor")
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		require.Equal(t, "key vendor", fmt.Sprintf(format, k))
	}
}
