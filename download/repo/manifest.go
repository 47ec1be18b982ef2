package repo

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"path"
	"strings"
	"time"
)

// Algorithm names the digest of the chunks.
type Algorithm string

// The two algorithms. SHA-256 is the faster one on a CPU with SHA instructions,
// SHA-512/256 on a 64-bit CPU without them (2.6 times).
const (
	SHA256     Algorithm = "sha256"
	SHA512_256 Algorithm = "sha512-256"
)

// New returns a running hash. It panics for a name that is not one of the two,
// which a parsed manifest never holds.
func (a Algorithm) New() hash.Hash {
	switch a {
	case SHA256:
		return sha256.New()
	case SHA512_256:
		return sha512.New512_256()
	}
	panic(fmt.Sprintf("repo: algorithm %q", string(a)))
}

func (a Algorithm) valid() bool { return a == SHA256 || a == SHA512_256 }

// Digest is a 32-byte digest, written as 64 lower-case hexadecimal digits.
type Digest [DigestSize]byte

// String returns the hexadecimal form.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 2*DigestSize || strings.ToLower(string(text)) != string(text) {
		return fmt.Errorf("%w: a digest is %d lower-case hexadecimal digits, not %.80q", ErrMalformed, 2*DigestSize, text)
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Manifest says what one image is. It is a value that [Verifier.Verify] or
// [Make] made; the fields are those of FORMAT.md, section 2.
type Manifest struct {
	// Version is what a user asks for.
	Version string `json:"version"`
	// File is the name of the image file.
	File string `json:"file"`
	// Size is the image's length in bytes.
	Size int64 `json:"size"`
	// SHA256 is the digest of the whole image, for people and for other tools.
	SHA256 Digest `json:"sha256"`
	// Chunks describes the chunk list.
	Chunks ChunkInfo `json:"chunks"`
	// Counter grows with every signature for a version; a client refuses a
	// counter below the highest that it has accepted.
	Counter uint64 `json:"counter"`
	// Created and Expires bound the time of its use.
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`

	envelope []byte
}

// ChunkInfo describes how an image is cut. Every chunk has Size bytes, the last
// one what is left.
type ChunkInfo struct {
	Algorithm Algorithm `json:"algorithm"`
	Size      int64     `json:"size"`
	// List is the SHA-256 of the chunk list: the digests of all chunks, 32
	// bytes each, one after the other.
	List Digest `json:"list"`
}

// Envelope returns the signed form from which the manifest was read, for a node
// that hands it on.
func (m *Manifest) Envelope() []byte { return bytes.Clone(m.envelope) }

// Count returns the number of chunks.
func (m *Manifest) Count() int { return int((m.Size + m.Chunks.Size - 1) / m.Chunks.Size) }

// ChunkRange returns the first byte of chunk i and its length.
func (m *Manifest) ChunkRange(i int) (off, n int64) {
	off = int64(i) * m.Chunks.Size
	return off, min(m.Chunks.Size, m.Size-off)
}

// Identity is a digest over everything that says which bytes the image has. Two
// manifests with one identity differ at most in signature, counter and dates,
// and a partial file of the one goes on as one of the other.
func (m *Manifest) Identity() Digest {
	h := sha256.New()
	fmt.Fprintf(h, "mooring image identity 1\n%s\n%s\n%d\n%s\n%s\n%d\n%s\n",
		m.Version, m.File, m.Size, m.SHA256, m.Chunks.Algorithm, m.Chunks.Size, m.Chunks.List)
	return Digest(h.Sum(nil))
}

// Path is where a repository and a peer keep the image, relative to their base.
func (m *Manifest) Path() string {
	return path.Join(m.Version, m.SHA256.String()[:16], m.File)
}

// ChunkListPath is where they keep the chunk list.
func (m *Manifest) ChunkListPath() string { return m.Path() + ".chunks" }

// CheckExpiry returns an error that wraps [ErrExpired] when now is not before
// the manifest's expiry.
func (m *Manifest) CheckExpiry(now time.Time) error {
	if !now.Before(m.Expires) {
		return fmt.Errorf("repo: version %q: %w on %s", m.Version, ErrExpired, m.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// ParseChunkList checks a chunk list against its signed digest. The result has
// one slice for each chunk and shares memory with list.
func (m *Manifest) ParseChunkList(list []byte) ([][]byte, error) {
	if want := m.Count() * DigestSize; len(list) != want {
		return nil, fmt.Errorf("repo: version %q: %w: %d bytes instead of %d", m.Version, ErrChunkList, len(list), want)
	}
	if sha256.Sum256(list) != m.Chunks.List {
		return nil, fmt.Errorf("repo: version %q: %w: digest differs", m.Version, ErrChunkList)
	}
	out := make([][]byte, m.Count())
	for i := range out {
		out[i] = list[i*DigestSize : (i+1)*DigestSize]
	}
	return out, nil
}

func (m *Manifest) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("repo: manifest: %w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	if err := CheckVersion(m.Version); err != nil {
		return err
	}
	if !plainName(m.File, maxNameBytes) {
		return bad("file name %.80q", m.File)
	}
	switch {
	case m.Size < 1 || m.Size > maxImageSize:
		return bad("size %d", m.Size)
	case !m.Chunks.Algorithm.valid():
		return bad("chunk algorithm %.40q is neither %q nor %q", string(m.Chunks.Algorithm), SHA256, SHA512_256)
	case m.Chunks.Size < minChunkSize || m.Chunks.Size > maxChunkSize:
		return bad("chunk size %d", m.Chunks.Size)
	case (m.Size+m.Chunks.Size-1)/m.Chunks.Size > maxChunks:
		return bad("more than %d chunks", maxChunks)
	case m.Counter < 1 || m.Counter > maxCounter:
		return bad("counter %d", m.Counter)
	case m.Created.IsZero() || !m.Expires.After(m.Created):
		return bad("it expires before it was created")
	}
	return nil
}

// CheckVersion returns an error that names the rule when v cannot be the name
// of a version: 1 to 128 of the characters A-Z a-z 0-9 . _ + ~ -, beginning with
// a letter or a digit.
func CheckVersion(v string) error {
	if !plainName(v, maxVersionBytes) {
		return fmt.Errorf("repo: version %.140q: want 1 to %d of A-Z a-z 0-9 . _ + ~ - that begin with a letter or a digit", v, maxVersionBytes)
	}
	return nil
}

// plainName accepts what is safe as a file name, in a URL and in a log line.
func plainName(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._+~-", rune(c))) {
			return false
		}
	}
	return true
}

func decodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return fmt.Errorf("data after the end")
	}
	return nil
}
