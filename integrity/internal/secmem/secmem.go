package secmem

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
)

// MaxSize bounds one buffer.
const MaxSize = 1 << 16

var errSize = errors.New("secmem: size is not between 1 and 65536 bytes")

// Buffer is one piece of protected memory. Its bytes are for one goroutine at a
// time; Destroy may be called at any time after their last use.
type Buffer struct {
	mu   sync.Mutex
	page []byte
	n    int
}

// New returns a zeroed buffer of n bytes.
func New(n int) (*Buffer, error) {
	if n <= 0 || n > MaxSize {
		return nil, errSize
	}
	page, err := alloc(n)
	if err != nil {
		return nil, err
	}
	b := &Buffer{page: page, n: n}
	// Destroy is the rule. The finalizer only keeps a forgotten buffer from
	// staying readable for the life of the process.
	runtime.SetFinalizer(b, (*Buffer).Destroy)
	return b, nil
}

// Bytes returns the memory itself, nil after Destroy. The slice must not be
// used after Destroy.
func (b *Buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.page == nil {
		return nil
	}
	return b.page[:b.n:b.n]
}

// Destroy wipes the memory and gives it back. More calls do nothing.
func (b *Buffer) Destroy() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.page == nil {
		return
	}
	Wipe(b.page)
	free(b.page)
	b.page = nil
	runtime.SetFinalizer(b, nil)
}

// Wipe overwrites p with zeros.
func Wipe(p []byte) {
	clear(p)
	// Reading the memory afterwards keeps the stores from being left out.
	if len(p) > 0 && subtle.ConstantTimeByteEq(p[0], 0) == 0 {
		panic("secmem: memory is not wiped")
	}
	runtime.KeepAlive(p)
}

const redacted = "secmem.Buffer(redacted)"

// Format never shows the content, whatever the verb.
func (b *Buffer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue is as Format.
func (b *Buffer) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON is as Format.
func (b *Buffer) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
