package fsmeta

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
	"github.com/mooringlib/mooring/internal/durable"
)

const (
	rawKeySize       = 32
	protectorKeySize = 32
	// PolicyKeySize is the size of the key that the kernel gets.
	PolicyKeySize = 64

	base       = ".fscrypt"
	protectors = "protectors"
	policies   = "policies"
	dirPerm    = 0o755
	filePerm   = 0o600
)

var (
	// ErrNoMetadata means that the tool's metadata does not know the policy.
	ErrNoMetadata = errors.New("fsmeta: no metadata for this policy")
	// ErrWrongKey means that none of a policy's protectors opens with the key.
	ErrWrongKey = errors.New("fsmeta: the raw key opens no protector of this policy")
)

// Store is the metadata of one file system.
type Store struct {
	// Mount is the root of the file system.
	Mount string
	// Writer is how files are replaced.
	Writer durable.Writer
}

func (s Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.Mount, base}, elem...)...)
}

// Derive computes the policy key that Ensure stores: it follows from the raw key
// and salt, so metadata that was lost can be written again.
func Derive(raw, salt []byte) (*secmem.Buffer, error) {
	return derive(raw, salt, "mooring integrity: fscrypt policy key", PolicyKeySize)
}

func derive(raw, salt []byte, info string, size int) (*secmem.Buffer, error) {
	out, err := hkdf.Key(sha512.New, raw, salt, info, size)
	if err != nil {
		return nil, fmt.Errorf("fsmeta: derive key: %w", err)
	}
	defer clear(out)
	buf, err := secmem.New(size)
	if err != nil {
		return nil, err
	}
	copy(buf.Bytes(), out)
	return buf, nil
}

// Ensure writes the metadata by which the tool opens the derived policy with the
// raw key. What is there already stays.
func (s Store) Ensure(raw, salt []byte, name string) error {
	if len(raw) != rawKeySize {
		return fscrypt.ErrKeySize
	}
	secret, err := Derive(raw, salt)
	if err != nil {
		return err
	}
	defer secret.Destroy()
	id, err := fscrypt.Identify(secret.Bytes())
	if err != nil {
		return err
	}
	if key, err := s.Open(raw, id); err == nil {
		key.Destroy()
		return nil
	} else if !errors.Is(err, ErrNoMetadata) {
		return err
	}
	protectorKey, err := derive(raw, salt, "mooring integrity: fscrypt protector key", protectorKeySize)
	if err != nil {
		return err
	}
	defer protectorKey.Destroy()
	prot := protector{descriptor: descriptor(protectorKey.Bytes()), source: sourceRawKey, name: name}
	if prot.key, err = wrap(raw, protectorKey.Bytes()); err != nil {
		return err
	}
	pol := policy{descriptor: id.String(), padding: 32, contents: uint64(fscrypt.ModeAES256XTS), names: uint64(fscrypt.ModeAES256CTS), version: 2}
	inner, err := wrap(protectorKey.Bytes(), secret.Bytes())
	if err != nil {
		return err
	}
	pol.keys = []policyKey{{protector: prot.descriptor, key: inner}}
	for _, dir := range []string{s.path(protectors), s.path(policies)} {
		if err := s.Writer.MkdirAll(dir, dirPerm); err != nil {
			return err
		}
	}
	// The policy comes last: it is what Open looks for.
	if err := s.Writer.WriteFile(s.path(protectors, prot.descriptor), prot.marshal(), filePerm); err != nil {
		return err
	}
	return s.Writer.WriteFile(s.path(policies, pol.descriptor), pol.marshal(), filePerm)
}

// Open finds the policy key of an identifier with the raw key, whoever wrote the
// metadata. The caller destroys the key.
func (s Store) Open(raw []byte, id fscrypt.Identifier) (*secmem.Buffer, error) {
	data, err := readFile(s.path(policies, id.String()))
	if err != nil {
		return nil, err
	}
	pol, err := parsePolicy(data)
	if err != nil {
		return nil, err
	}
	for _, k := range pol.keys {
		key, err := s.through(raw, k)
		if errors.Is(err, errMAC) || errors.Is(err, ErrNoMetadata) || errors.Is(err, errWire) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if got, err := fscrypt.Identify(key.Bytes()); err != nil || got != id {
			key.Destroy()
			continue
		}
		return key, nil
	}
	return nil, ErrWrongKey
}

func (s Store) through(raw []byte, k policyKey) (*secmem.Buffer, error) {
	if b, err := hex.DecodeString(k.protector); err != nil || len(b) != 8 {
		return nil, errWire
	}
	data, err := readFile(s.path(protectors, k.protector))
	if err != nil {
		return nil, err
	}
	prot, err := parseProtector(data)
	if err != nil {
		return nil, err
	}
	if prot.source != sourceRawKey {
		return nil, errMAC
	}
	protectorKey, err := unwrap(raw, prot.key, protectorKeySize)
	if err != nil {
		return nil, err
	}
	defer protectorKey.Destroy()
	return unwrap(protectorKey.Bytes(), k.key, PolicyKeySize)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoMetadata
	}
	if err != nil {
		return nil, fmt.Errorf("fsmeta: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("fsmeta: %w", err)
	}
	if len(data) > maxFile {
		return nil, errWire
	}
	return data, nil
}

// descriptor names a protector key as the tool does.
func descriptor(key []byte) string {
	once := sha512.Sum512(key)
	twice := sha512.Sum512(once[:])
	return hex.EncodeToString(twice[:8])
}

var errMAC = errors.New("fsmeta: wrong key")

// stretch derives the encryption and the authentication key.
func stretch(key []byte) (out []byte, err error) {
	if out, err = hkdf.Key(sha256.New, key, nil, "", 64); err != nil {
		return nil, fmt.Errorf("fsmeta: stretch key: %w", err)
	}
	return out, nil
}

func wrap(key, secret []byte) (wrapped, error) {
	keys, err := stretch(key)
	if err != nil {
		return wrapped{}, err
	}
	defer clear(keys)
	w := wrapped{iv: make([]byte, aes.BlockSize), key: make([]byte, len(secret))}
	if _, err := rand.Read(w.iv); err != nil {
		return wrapped{}, fmt.Errorf("fsmeta: %w", err)
	}
	if err := ctr(keys[:32], w.iv, w.key, secret); err != nil {
		return wrapped{}, err
	}
	w.mac = mac(keys[32:], w)
	return w, nil
}

func unwrap(key []byte, w wrapped, size int) (*secmem.Buffer, error) {
	if len(w.iv) != aes.BlockSize || len(w.key) != size {
		return nil, errWire
	}
	keys, err := stretch(key)
	if err != nil {
		return nil, err
	}
	defer clear(keys)
	if !hmac.Equal(mac(keys[32:], w), w.mac) {
		return nil, errMAC
	}
	out, err := secmem.New(size)
	if err != nil {
		return nil, err
	}
	if err := ctr(keys[:32], w.iv, out.Bytes(), w.key); err != nil {
		out.Destroy()
		return nil, err
	}
	return out, nil
}

func ctr(key, iv, dst, src []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return fmt.Errorf("fsmeta: %w", err)
	}
	cipher.NewCTR(block, iv).XORKeyStream(dst, src)
	return nil
}

func mac(key []byte, w wrapped) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(w.iv)
	h.Write(w.key)
	return h.Sum(nil)
}
