package autoinstall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	stateFile  = "state.json"
	statusFile = "status.json"
	lockFile   = "lock"
)

// state is what must not be lost. See the package's README for the format.
type state struct {
	Version int `json:"version"`
	// Counter is the highest that was installed, with the digest it came with.
	// It stays through a factory reset: otherwise a reset would open the way
	// back to old configurations.
	Counter       uint64 `json:"counter,omitempty"`
	CounterDigest string `json:"counter_digest,omitempty"`
	// Intent is written before the Installer is called and removed after it.
	Intent *record `json:"intent,omitempty"`
	// Uncertain says that an installation was cut off and nobody can tell
	// which parts are in force: nothing counts as repeated until the next one
	// has succeeded.
	Uncertain bool `json:"uncertain,omitempty"`
	// Installed is the whole configuration that we installed last.
	Installed *record `json:"installed,omitempty"`
	// Part is the part that was installed last, if that came after Installed.
	Part *record `json:"part,omitempty"`
}

// record says what was installed.
type record = InstalledConfiguration

// InstalledConfiguration is what the device remembers of an installation.
type InstalledConfiguration struct {
	Digest        string    `json:"digest"`
	Size          int       `json:"size"`
	Time          time.Time `json:"time"`
	Source        string    `json:"source"`
	Part          bool      `json:"part,omitempty"`
	Encrypted     bool      `json:"encrypted"`
	Authenticated bool      `json:"authenticated"`
	Key           string    `json:"key,omitempty"`
	Owner         string    `json:"owner,omitempty"`
	Counter       uint64    `json:"counter,omitempty"`
}

func (d *Device) loadState() (*state, error) {
	var s state
	err := readJSON(filepath.Join(d.cfg.Dir, stateFile), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Version: 1}, nil
	}
	if err == nil && s.Version != 1 {
		err = fmt.Errorf("version %d is not known", s.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrState, stateFile, err)
	}
	return &s, nil
}

func (d *Device) saveState(s *state) error {
	return d.writeJSON(stateFile, s)
}

func (d *Device) writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("autoinstall: encode %s: %w", name, err)
	}
	if err := d.cfg.disk.WriteFile(filepath.Join(d.cfg.Dir, name), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("autoinstall: write %s: %w", name, err)
	}
	return nil
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStateSize+1))
	if err != nil {
		return err
	}
	if len(b) > maxStateSize {
		return fmt.Errorf("larger than %d bytes", maxStateSize)
	}
	return json.Unmarshal(b, v)
}

// commit records that the intent has come into force.
func (s *state) commit() {
	r := s.Intent
	s.Intent, s.Uncertain = nil, false
	if r.Part {
		s.Part = r
	} else {
		s.Installed, s.Part = r, nil
	}
	s.raise(r)
}

// raise keeps the counter of what is, or may be, in force.
func (s *state) raise(r *record) {
	if r.Counter > 0 {
		s.Counter, s.CounterDigest = r.Counter, r.Digest
	}
}

// last is the newest installation.
func (s *state) last() *record {
	if s.Part != nil {
		return s.Part
	}
	return s.Installed
}
