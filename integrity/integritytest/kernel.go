package integritytest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/mooringlib/mooring/integrity/fscrypt"
)

// Kernel is an fscrypt.Kernel over ordinary directories. Locking a directory
// encrypts the files and names in it, so that a search of the disk finds what it
// would find on a real one. It is safe for concurrent use.
type Kernel struct {
	root string

	mu sync.Mutex
	// policies and keys are guarded by mu.
	policies map[string]*encrypted
	keys     map[fscrypt.Identifier][]byte
	unable   bool
	failing  map[uint]error
}

type encrypted struct {
	info   fs.FileInfo
	policy []byte
	open   bool
}

// NewKernel returns a Kernel without keys and encrypted directories. Its one file
// system is what is below root.
func NewKernel(root string) *Kernel {
	return &Kernel{root: filepath.Clean(root), policies: make(map[string]*encrypted), keys: make(map[fscrypt.Identifier][]byte), failing: make(map[uint]error)}
}

// Reboot forgets every key, which locks every directory.
func (k *Kernel) Reboot() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.keys)
	return k.settle()
}

// SetUnsupported makes every file system one that cannot encrypt, or can again.
func (k *Kernel) SetUnsupported(unable bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unable = unable
}

// Fail makes one kind of request fail with err; nil ends that.
func (k *Kernel) Fail(request uint, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing[request] = err
}

// Move tells the Kernel that a directory, with what is below, was renamed.
func (k *Kernel) Move(from, to string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if e, ok := k.policies[from]; ok {
		delete(k.policies, from)
		k.policies[to] = e
	}
	return nil
}

// Device implements fscrypt.Kernel.
func (k *Kernel) Device(path string) (uint64, error) {
	const outside, inside = 1, 2
	if _, err := os.Lstat(path); err != nil {
		return 0, err
	}
	if path == k.root || strings.HasPrefix(path, k.root+string(filepath.Separator)) {
		return inside, nil
	}
	return outside, nil
}

// find returns what is known of a directory, nil for a plain one.
func (k *Kernel) find(dir string) (*encrypted, error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &os.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	e := k.policies[dir]
	if e == nil || !os.SameFile(e.info, info) {
		return nil, nil
	}
	return e, nil
}

// Probe implements fscrypt.Kernel.
func (k *Kernel) Probe(dir string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, err := k.find(dir)
	if err != nil {
		return err
	}
	if e != nil && !e.open {
		return fscrypt.ErrLocked
	}
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Ioctl implements fscrypt.Kernel, with the kernel's layouts.
func (k *Kernel) Ioctl(dir string, request uint, arg []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing[request]; err != nil {
		return &os.PathError{Op: "ioctl", Path: dir, Err: err}
	}
	e, err := k.find(dir)
	if err != nil {
		return err
	}
	if k.unable {
		return &os.PathError{Op: "ioctl", Path: dir, Err: syscall.EOPNOTSUPP}
	}
	switch request {
	case fscrypt.RequestGetPolicy:
		if e == nil {
			return &os.PathError{Op: "ioctl", Path: dir, Err: syscall.ENODATA}
		}
		binary.NativeEndian.PutUint64(arg, uint64(copy(arg[8:], e.policy)))
		return nil
	case fscrypt.RequestSetPolicy:
		return k.setPolicy(dir, e, arg)
	case fscrypt.RequestAddKey:
		key := append([]byte(nil), arg[80:]...)
		id, err := fscrypt.Identify(key)
		if err != nil {
			return syscall.EINVAL
		}
		copy(arg[8:], id[:])
		k.keys[id] = key
		return k.settle()
	case fscrypt.RequestRemoveKey:
		id := fscrypt.Identifier(arg[8:24])
		if _, ok := k.keys[id]; !ok {
			return fscrypt.NoKey
		}
		delete(k.keys, id)
		return k.settle()
	case fscrypt.RequestKeyStatus:
		status := uint32(1)
		if _, ok := k.keys[fscrypt.Identifier(arg[8:24])]; ok {
			status = 2
		}
		binary.NativeEndian.PutUint32(arg[64:], status)
		return nil
	}
	return syscall.ENOTTY
}

func (k *Kernel) setPolicy(dir string, e *encrypted, arg []byte) error {
	if e != nil {
		if string(e.policy) == string(arg) {
			return nil
		}
		return syscall.EEXIST
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return syscall.ENOTEMPTY
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	k.policies[dir] = &encrypted{info: info, policy: append([]byte(nil), arg...)}
	return k.settle()
}

// settle brings every directory to the state that the present keys ask for.
func (k *Kernel) settle() error {
	for dir, e := range k.policies {
		_, have := k.keys[fscrypt.Identifier(e.policy[8:24])]
		if have == e.open {
			continue
		}
		e.open = have
		if err := transform(dir, e.key(), have); err != nil {
			return err
		}
	}
	return nil
}

// key derives what encrypts a directory. The identifier is enough for a fake.
func (e *encrypted) key() []byte {
	sum := sha256.Sum256(e.policy)
	return sum[:]
}

// transform encrypts or decrypts the files of a tree and their names.
func transform(dir string, key []byte, decrypt bool) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	turn := func(data []byte) ([]byte, error) {
		if decrypt {
			if len(data) < aead.NonceSize() {
				return nil, errors.New("integritytest: file is not encrypted")
			}
			return aead.Open(nil, data[:aead.NonceSize()], data[aead.NonceSize():], nil)
		}
		nonce := make([]byte, aead.NonceSize())
		_, _ = rand.Read(nonce)
		return aead.Seal(nonce, nonce, data, nil), nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if entry.IsDir() {
			if err := transform(path, key, decrypt); err != nil {
				return err
			}
		} else if err := turnFile(path, turn); err != nil {
			return err
		}
		name := []byte(entry.Name())
		if decrypt {
			if name, err = hex.DecodeString(entry.Name()); err != nil {
				return err
			}
		}
		if name, err = turn(name); err != nil {
			return fmt.Errorf("integritytest: name %q: %w", entry.Name(), err)
		}
		if !decrypt {
			name = hex.AppendEncode(nil, name)
		}
		if err := os.Rename(path, filepath.Join(dir, string(name))); err != nil {
			return err
		}
	}
	return nil
}

func turnFile(path string, turn func([]byte) ([]byte, error)) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if data, err = turn(data); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
