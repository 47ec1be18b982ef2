package tpmkey_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmkey"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func device(t *testing.T, sim *tpmsim.TPM) *tpmkey.Device {
	t.Helper()
	d, err := tpmkey.New(tpmkey.Config{TPM: sim})
	require.NoError(t, err)
	return d
}

func create(t *testing.T, d *tpmkey.Device, tmpl tpmkey.Template) *tpmkey.Key {
	t.Helper()
	blob, err := d.Create(tmpl)
	require.NoError(t, err)
	k, err := d.Load(blob)
	require.NoError(t, err)
	return k
}

// transients counts the transient objects and loaded sessions that a TPM holds.
func transients(t *testing.T, sim *tpmsim.TPM) int {
	t.Helper()
	n := 0
	for _, first := range []uint32{0x80000000, 0x02000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 16}.Execute(sim)
		require.NoError(t, err)
		h, err := rsp.CapabilityData.Data.Handles()
		require.NoError(t, err)
		n += len(h.Handle)
	}
	return n
}

func TestKey(t *testing.T) {
	t.Parallel()
	kinds := map[string]tpmkey.Template{
		"RSA 2048":  tpmkey.RSA(2048, tpmkey.Sign),
		"ECC P-256": tpmkey.ECC(elliptic.P256(), tpmkey.Sign),
		"ECC P-384": tpmkey.ECC(elliptic.P384(), tpmkey.Sign),
	}
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		sim := b.New(t)
		d := device(t, sim)
		for name, tmpl := range kinds {
			t.Run(name, func(t *testing.T) {
				k := create(t, d, tmpl)
				for _, opts := range []crypto.SignerOpts{
					crypto.SHA256, crypto.SHA384, crypto.SHA512,
					&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256},
					&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA384},
					&rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256},
				} {
					h := opts.HashFunc().New()
					h.Write([]byte("message"))
					digest := h.Sum(nil)
					sig, err := k.Sign(nil, digest, opts)
					pss, isPSS := opts.(*rsa.PSSOptions)
					switch pub := k.Public().(type) {
					case *rsa.PublicKey:
						require.NoError(t, err)
						if isPSS {
							require.NoError(t, rsa.VerifyPSS(pub, opts.HashFunc(), digest, sig, pss))
						} else {
							require.NoError(t, rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig))
						}
					case *ecdsa.PublicKey:
						if isPSS {
							require.ErrorIs(t, err, tpmkey.ErrUnsupported)
							continue
						}
						require.NoError(t, err)
						require.True(t, ecdsa.VerifyASN1(pub, digest, sig))
					}
				}
				require.Zero(t, transients(t, sim), "objects or sessions left in the TPM")

				// The file form loads again and again, and the private half
				// is in none of what it prints.
				again, err := tpmkey.ParsePEM(k.Blob().MarshalPEM())
				require.NoError(t, err)
				require.Equal(t, k.Blob().MarshalPEM(), again.MarshalPEM())
				k2, err := d.Load(again)
				require.NoError(t, err)
				require.Equal(t, k.Public(), k2.Public())

				require.NoError(t, k.Close())
				digest := sha256.Sum256(nil)
				_, err = k.Sign(nil, digest[:], crypto.SHA256)
				require.ErrorIs(t, err, tpmkey.ErrClosed)
			})
		}
		t.Run("survives a reboot", func(t *testing.T) {
			k := create(t, d, kinds["ECC P-256"])
			require.NoError(t, sim.Reset())
			digest := sha256.Sum256(nil)
			_, err := k.Sign(nil, digest[:], crypto.SHA256)
			require.NoError(t, err)
		})
		t.Run("gone after a clear", func(t *testing.T) {
			k := create(t, d, kinds["ECC P-256"])
			require.NoError(t, sim.Clear())
			digest := sha256.Sum256(nil)
			_, err := k.Sign(nil, digest[:], crypto.SHA256)
			require.ErrorIs(t, err, tpmkey.ErrWrongTPM)
			_, err = d.Load(k.Blob())
			require.ErrorIs(t, err, tpmkey.ErrWrongTPM)
			require.Zero(t, transients(t, sim))
		})
	})
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	d := device(t, tpmsim.New(t))
	k := create(t, d, tpmkey.RSA(2048, tpmkey.Sign))
	long := sha512.Sum512(nil)
	for name, c := range map[string]struct {
		digest []byte
		opts   crypto.SignerOpts
		is     error
	}{
		"SHA-1":        {long[:20], crypto.SHA1, tpmkey.ErrUnsupported},
		"no hash":      {long[:], crypto.Hash(0), tpmkey.ErrUnsupported},
		"short digest": {long[:31], crypto.SHA256, nil},
		"odd salt":     {long[:32], &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA256}, tpmkey.ErrUnsupported},
	} {
		_, err := k.Sign(rand.Reader, c.digest, c.opts)
		require.Error(t, err, name)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, name)
		}
	}
	dec := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Decrypt))
	_, err := dec.Sign(nil, long[:32], crypto.SHA256)
	require.ErrorIs(t, err, tpmkey.ErrUnsupported)
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	d := device(t, tpmsim.New(t))
	for _, tmpl := range []tpmkey.Template{
		tpmkey.RSA(1024, tpmkey.Sign), tpmkey.RSA(2304, tpmkey.Sign), tpmkey.RSA(2048, 0),
		tpmkey.ECC(elliptic.P224(), tpmkey.Sign), tpmkey.RSA(4096, tpmkey.Sign),
	} {
		_, err := d.Create(tmpl)
		require.ErrorIs(t, err, tpmkey.ErrUnsupported, tmpl.String())
	}
	_, err := tpmkey.New(tpmkey.Config{})
	require.Error(t, err)
}

func TestParents(t *testing.T) {
	t.Parallel()
	sim := tpmsim.New(t)
	d := device(t, sim)
	owner := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
	require.Equal(t, tpm2.TPMRHOwner, owner.Blob().Parent())

	name := persistSRK(t, sim)
	k := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
	require.Equal(t, tpmkey.SRKHandle, k.Blob().Parent())

	// Each key still finds its own parent.
	digest := sha256.Sum256(nil)
	for _, key := range []*tpmkey.Key{owner, k} {
		_, err := key.Sign(nil, digest[:], crypto.SHA256)
		require.NoError(t, err)
	}

	pinned, err := tpmkey.New(tpmkey.Config{TPM: sim, SRKName: name})
	require.NoError(t, err)
	_, err = pinned.Load(k.Blob())
	require.NoError(t, err)
	_, err = pinned.Load(owner.Blob())
	require.ErrorIs(t, err, tpmkey.ErrSRK)
	require.Zero(t, transients(t, sim))
}

func persistSRK(t *testing.T, sim transport.TPM) []byte {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.RSASRKTemplate),
	}.Execute(sim)
	require.NoError(t, err)
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		PersistentHandle: tpmkey.SRKHandle,
	}.Execute(sim)
	require.NoError(t, err)
	_, err = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(sim)
	require.NoError(t, err)
	return rsp.Name.Buffer
}

// TestWire shows that what is signed does not cross the bus in the clear.
func TestWire(t *testing.T) {
	t.Parallel()
	sim := tpmsim.New(t)
	d := device(t, sim)
	k := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
	var mu sync.Mutex
	var seen bytes.Buffer
	sim.Wire(func(cmd, rsp []byte) {
		mu.Lock()
		defer mu.Unlock()
		seen.Write(cmd)
		seen.Write(rsp)
	})
	digest := sha256.Sum256([]byte("secret of the handshake"))
	_, err := k.Sign(nil, digest[:], crypto.SHA256)
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.NotZero(t, seen.Len())
	require.False(t, bytes.Contains(seen.Bytes(), digest[:]))
}

func TestConcurrentTLS(t *testing.T) {
	t.Parallel()
	sim := tpmsim.New(t)
	d := device(t, sim)
	for _, tmpl := range []tpmkey.Template{tpmkey.RSA(2048, tpmkey.Sign), tpmkey.ECC(elliptic.P256(), tpmkey.Sign)} {
		k := create(t, d, tmpl)
		der := selfSigned(t, k)
		leaf, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		pool := x509.NewCertPool()
		pool.AddCert(leaf)
		cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range 4 {
			a, b := net.Pipe()
			server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13})
			client := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "router.example", MinVersion: tls.VersionTLS13})
			wg.Go(func() { errs <- server.Handshake() })
			wg.Go(func() {
				err := client.Handshake()
				if err == nil {
					_, err = client.Read(make([]byte, 0))
				}
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	}
	require.Zero(t, transients(t, sim))
}

func selfSigned(t *testing.T, k *tpmkey.Key) []byte {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "router"}, DNSNames: []string{"router.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	require.NoError(t, err)
	return der
}

type brokenTPM struct{}

func (brokenTPM) Send([]byte) ([]byte, error) { return nil, errors.New("bus error") }

func TestBrokenTPM(t *testing.T) {
	t.Parallel()
	d, err := tpmkey.New(tpmkey.Config{TPM: brokenTPM{}})
	require.NoError(t, err)
	_, err = d.Create(tpmkey.RSA(2048, tpmkey.Sign))
	require.ErrorIs(t, err, tpmkey.ErrSRK)
	require.ErrorContains(t, err, "bus error")
}

// busyTPM says that it is busy for the first commands.
type busyTPM struct {
	left int
	rc   tpm2.TPMRC
}

func (b *busyTPM) Send([]byte) ([]byte, error) {
	rc := tpm2.TPMRCFailure
	if b.left > 0 {
		b.left--
		rc = b.rc
	}
	return []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, byte(rc >> 8), byte(rc)}, nil
}

func TestBusyTPM(t *testing.T) {
	t.Parallel()
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCTesting} {
		d, err := tpmkey.New(tpmkey.Config{TPM: &busyTPM{left: 3, rc: rc}})
		require.NoError(t, err)
		_, err = d.Create(tpmkey.RSA(2048, tpmkey.Sign))
		require.ErrorIs(t, err, tpm2.TPMRCFailure)
	}
	synctest.Test(t, func(t *testing.T) {
		d, err := tpmkey.New(tpmkey.Config{TPM: &busyTPM{left: 1 << 20, rc: tpm2.TPMRCRetry}})
		require.NoError(t, err)
		_, err = d.Create(tpmkey.RSA(2048, tpmkey.Sign))
		require.ErrorIs(t, err, tpm2.TPMRCRetry)
	})
}

func Example() {
	sim, err := tpmsim.Open() // a product opens /dev/tpmrm0
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sim.Close()
	d, err := tpmkey.New(tpmkey.Config{TPM: sim})
	if err != nil {
		fmt.Println(err)
		return
	}
	blob, err := d.Create(tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := d.Load(blob)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()
	digest := sha256.Sum256([]byte("hello"))
	sig, err := key.Sign(nil, digest[:], crypto.SHA256)
	fmt.Println(ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig), err)
	// Output: true <nil>
}
