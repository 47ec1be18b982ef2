package integrity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/internal/durable"
)

// Mode is how the wrapped key becomes the key of the kernel.
type Mode string

// The modes.
const (
	// ModeDirect makes the wrapped key the fscrypt master key.
	ModeDirect Mode = "direct"
	// ModeCompat makes the wrapped key the raw key protector in the metadata of
	// the fscrypt command line tool, below .fscrypt on each file system.
	ModeCompat Mode = "compat"
)

func (m Mode) number() (record.Mode, error) {
	switch m {
	case ModeDirect:
		return record.Direct, nil
	case ModeCompat:
		return record.Compat, nil
	}
	return 0, fmt.Errorf("mode is direct or compat, not %.32q", string(m))
}

// NetworkGate is how networking waits for the protected directories. Both
// methods are idempotent, return only once they took effect, and may be called
// again after an error.
type NetworkGate interface {
	// Block keeps networking down, or takes it down. reason is one line.
	Block(ctx context.Context, reason string) error
	// Allow lets networking come up.
	Allow(ctx context.Context) error
}

// Config is what a [Handler] is made of.
type Config struct {
	// Wrapper wraps the key. Required.
	Wrapper KeyWrapper
	// StateDir keeps the record. It is made when it is not there, and must not
	// be in a protected directory. Required.
	StateDir string
	// Directories are protected: absolute, clean paths, none in another.
	// Required.
	Directories []string
	// Mode is direct when empty. It is chosen once, at enabling.
	Mode Mode
	// Kernel is the file system encryption; nil means the running kernel's.
	Kernel fscrypt.Kernel
	// Emergency hears of integrity events; nil means nobody does, beside the
	// log, the alarms and the events.
	Emergency EmergencySink
	// Network is blocked while the system is not trusted; nil means that
	// something else (such as the order of services) sees to it.
	Network NetworkGate
	// Notify gets states in the form of sd_notify, such as "READY=1"; see
	// [SystemdNotify]. It may be nil.
	Notify func(state string) error
	// EnableOnFirstRun lets Run enable a system that nothing says was ever
	// enabled. Otherwise that is an integrity event.
	EnableOnFirstRun bool
	// RetryMin and RetryMax are the first and the longest wait between two
	// attempts after an integrity event; zero means 5 seconds and 5 minutes.
	RetryMin, RetryMax time.Duration
	// WatchInterval is how often Run looks at the open directories; zero means
	// 10 seconds.
	WatchInterval time.Duration

	// Alarms and Events may be nil. Node names this machine in events.
	Alarms mooring.AlarmSink
	Events mooring.EventSink
	Node   string
	// Now is time.Now when nil.
	Now func() time.Time
	// Logger may be nil.
	Logger *slog.Logger

	writer durable.Writer
}

var (
	// ErrAlreadyEnabled is returned by [Handler.Enable] on a system that was
	// enabled: that is done once.
	ErrAlreadyEnabled = errors.New("integrity: already enabled; nothing was changed")
	// ErrBusy is returned by [Handler.Lock] when files are still in use. The key
	// is gone, what is open stays readable until it is closed.
	ErrBusy = errors.New("integrity: files in protected directories are still in use; close them and lock again")
)

// Handler is Configuration Integrity on one machine. Its methods are safe for
// concurrent use and run one after the other; Run gives way between attempts.
// One Handler at a time, of all processes, works on a StateDir.
type Handler struct {
	cfg   Config
	mode  record.Mode
	slots record.Slots

	mu sync.Mutex
	// manifest is what was last verified, for the watch, and remembered the
	// event that was last kept; both guarded by mu.
	manifest   *record.Manifest
	remembered string
}

// New returns a Handler. It reports all that is wrong with cfg at once and does
// nothing else.
func New(cfg Config) (*Handler, error) {
	var errs []error
	if cfg.Wrapper == nil {
		errs = append(errs, errors.New("Config.Wrapper is nil"))
	}
	if !filepath.IsAbs(cfg.StateDir) || filepath.Clean(cfg.StateDir) != cfg.StateDir {
		errs = append(errs, fmt.Errorf("StateDir %.256q is not an absolute, clean path", cfg.StateDir))
	}
	if err := record.CheckPaths(cfg.Directories); err != nil {
		errs = append(errs, err)
	} else if err := record.CheckPaths(append([]string{cfg.StateDir}, cfg.Directories...)); err != nil {
		errs = append(errs, fmt.Errorf("StateDir and Directories: %w", err))
	}
	if cfg.Mode == "" {
		cfg.Mode = ModeDirect
	}
	mode, err := cfg.Mode.number()
	errs = append(errs, err)
	if cfg.RetryMin < 0 || cfg.RetryMax < 0 || cfg.WatchInterval < 0 {
		errs = append(errs, errors.New("RetryMin, RetryMax or WatchInterval is negative"))
	}
	if cfg.Kernel == nil {
		if cfg.Kernel, err = fscrypt.System(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("integrity: config: %w", err)
	}
	cfg.Directories = append([]string(nil), cfg.Directories...)
	cfg.defaults()
	return &Handler{cfg: cfg, mode: mode, slots: record.Slots{Dir: cfg.StateDir, Writer: cfg.writer}}, nil
}

func (c *Config) defaults() {
	if c.RetryMin == 0 {
		c.RetryMin = defaultRetryMin
	}
	if c.RetryMax == 0 {
		c.RetryMax = max(defaultRetryMax, c.RetryMin)
	}
	if c.WatchInterval == 0 {
		c.WatchInterval = defaultWatch
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Network == nil {
		c.Network = noGate{}
	}
	if c.Notify == nil {
		c.Notify = func(string) error { return nil }
	}
}

type noGate struct{}

func (noGate) Block(context.Context, string) error { return nil }
func (noGate) Allow(context.Context) error         { return nil }

var errInUse = errors.New("another integrity handler is at work")

// exclusive runs f while no other Handler works on the state directory. It waits
// for one that does, such as a check during the start, up to lockWait.
func (h *Handler) exclusive(ctx context.Context, f func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.cfg.writer.MkdirAll(h.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("integrity: state directory: %w", err)
	}
	unlock, err := lockDir(h.cfg.StateDir)
	for waited := time.Duration(0); errors.Is(err, errInUse) && waited < lockWait && ctx.Err() == nil; waited += lockPoll {
		t := time.NewTimer(lockPoll)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
			unlock, err = lockDir(h.cfg.StateDir)
		}
	}
	if err != nil {
		return fmt.Errorf("integrity: state directory %q: %w", h.cfg.StateDir, err)
	}
	defer unlock()
	return f()
}
