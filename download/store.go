package download

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/internal/durable"
)

// Store is the state directory: what is known of each download, readable and
// steerable from any process. It is safe for concurrent use.
//
//	<version>/status.json   the last status
//	<version>/pause         exists while the download is to stand still
//	<version>/lock          locked by the process that downloads
//	counters.json           the highest manifest counter accepted for each version
type Store struct {
	dir    string
	writer durable.Writer
}

// NewStore returns the store in dir. It does no I/O.
func NewStore(dir string) *Store { return &Store{dir: dir} }

func (s *Store) file(version, name string) string { return filepath.Join(s.dir, version, name) }

// Pause asks for a download to stand still, whichever process runs it, and for
// it to stay so over restarts until [Store.Resume].
func (s *Store) Pause(version, reason string) error {
	if err := s.known(version); err != nil {
		return err
	}
	return s.writePause(version, reason)
}

// known returns an error for a version that was never asked for. A damaged
// status keeps nobody from steering its download.
func (s *Store) known(version string) error {
	_, err := s.read(version)
	if errors.Is(err, ErrDamagedStatus) {
		return nil
	}
	return err
}

// pauseFile says since when and why a download stands still.
type pauseFile struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Deadline is the one that counted when the pause began. To give the time
	// back from there can be repeated after a crash.
	Deadline time.Time `json:"deadline,omitzero"`
}

// extend returns the deadline with the paused time given back.
func (p pauseFile) extend(deadline, now time.Time) time.Time {
	if deadline.IsZero() || p.Since.IsZero() || !now.After(p.Since) {
		return deadline
	}
	if p.Deadline.IsZero() {
		return deadline.Add(now.Sub(p.Since))
	}
	if given := p.Deadline.Add(now.Sub(p.Since)); given.After(deadline) {
		return given
	}
	return deadline
}

// writePause keeps the beginning of a pause that lasts already.
func (s *Store) writePause(version, reason string) error {
	p := pauseFile{Since: time.Now(), Reason: reason}
	if st, err := s.read(version); err == nil && st.State != StateComplete && st.State != StateFailed {
		p.Deadline = st.Deadline
	}
	if old, paused := s.paused(version); paused && !old.Since.IsZero() {
		p.Since, p.Deadline = old.Since, old.Deadline
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.writer.WriteFile(s.file(version, "pause"), data, 0o644)
}

// Resume takes a pause back. It is no error when there is none. running tells
// whether a process has the download and goes on with it. The paused time does
// not count: whoever goes on has that much longer.
func (s *Store) Resume(version string) (running bool, err error) {
	if err := s.known(version); err != nil {
		return false, err
	}
	if p, paused := s.paused(version); paused && !s.owned(version) {
		// The process that has the download would do this itself.
		if st, err := s.read(version); err == nil && !st.Deadline.IsZero() {
			st.Deadline = p.extend(st.Deadline, time.Now())
			if err := s.save(st, true); err != nil {
				return false, fmt.Errorf("download: %w", partial.LocalError(s.dir, err))
			}
		}
	}
	if err := s.writer.Remove(s.file(version, "pause")); err != nil {
		return false, err
	}
	return s.owned(version), nil
}

// paused returns the pause, if there is one. A file that cannot be understood is
// a pause nevertheless.
func (s *Store) paused(version string) (pauseFile, bool) {
	var p pauseFile
	data, err := readLimited(s.file(version, "pause"), maxStatusBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return p, false
	}
	if err != nil || json.Unmarshal(data, &p) != nil {
		p = pauseFile{Reason: "the pause request is damaged"}
	}
	return p, true
}

// read returns the status as it was written.
func (s *Store) read(version string) (Status, error) {
	var st Status
	if err := repo.CheckVersion(version); err != nil {
		return st, fmt.Errorf("download: %w", err)
	}
	data, err := readLimited(s.file(version, "status.json"), maxStatusBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return st, fmt.Errorf("download: version %q: %w", version, ErrUnknown)
	}
	if err != nil {
		return st, fmt.Errorf("download: status of %q: %w", version, err)
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("download: status of %q %w: %w", version, ErrDamagedStatus, err)
	}
	return st, nil
}

// Show returns the status of one download, or an error that wraps [ErrUnknown]
// or [ErrDamagedStatus].
func (s *Store) Show(version string) (Status, error) {
	st, err := s.read(version)
	if err != nil {
		return Status{}, err
	}
	pause, paused := s.paused(version)
	owned := s.owned(version)
	switch {
	case paused && (st.State.active() || st.State == StateInterrupted):
		st.State, st.Reason, st.Rate, st.Connections = StatePaused, pause.Reason, 0, 0
	case st.State.active() && !owned:
		st.State, st.Rate, st.Connections = StateInterrupted, 0, 0
		st.Reason = "no process is downloading it"
	}
	return st, nil
}

// List returns every download that the store knows, by version. A status that
// cannot be read makes an error, beside those that can.
func (s *Store) List() ([]Status, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	var out []Status
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || repo.CheckVersion(e.Name()) != nil {
			continue
		}
		st, err := s.Show(e.Name())
		switch {
		case errors.Is(err, ErrUnknown):
		case err != nil:
			errs = append(errs, err)
		default:
			out = append(out, st)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Version < out[j].Version })
	return out, errors.Join(errs...)
}

// owned reports whether a process has the download.
func (s *Store) owned(version string) bool {
	f, err := os.Open(s.file(version, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return partial.Locked(f)
}

// own takes the download of a version for this process.
func (s *Store) own(version string) (*os.File, error) {
	if err := s.writer.MkdirAll(filepath.Join(s.dir, version), 0o755); err != nil {
		return nil, partial.LocalError(s.dir, err)
	}
	f, err := os.OpenFile(s.file(version, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("download: %w", partial.LocalError(s.dir, err))
	}
	if err := partial.Lock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("download: version %q: %w", version, err)
	}
	return f, nil
}

// save replaces the status. Progress is not synced: after a power cut the
// journal says where the download stands. A change of state is.
func (s *Store) save(st Status, sync bool) error {
	data, err := json.MarshalIndent(st, "", " ")
	if err != nil {
		return err
	}
	name := s.file(st.Version, "status.json")
	if sync {
		return s.writer.WriteFile(name, data, 0o644)
	}
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// counter is the highest manifest that was accepted for a version.
type counter struct {
	Counter  uint64      `json:"counter"`
	Identity repo.Digest `json:"identity"`
	Accepted time.Time   `json:"accepted"`
}

// counters reads the rollback memory. A damaged file refuses everything: going
// on without it would be the rollback that it is there to stop.
func (s *Store) counters() (map[string]counter, error) {
	out := map[string]counter{}
	data, err := readLimited(filepath.Join(s.dir, "counters.json"), maxCounterBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("download: rollback counters in %q cannot be read: %w", filepath.Join(s.dir, "counters.json"), err)
	}
	return out, nil
}

// accept remembers a manifest, durably, before anything of it is used.
func (s *Store) accept(ctx context.Context, m *repo.Manifest, now time.Time) error {
	name := filepath.Join(s.dir, "counters.json")
	f, err := os.OpenFile(filepath.Join(s.dir, "counters.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("download: %w", partial.LocalError(name, err))
	}
	defer f.Close()
	for range 100 {
		if err = partial.Lock(f); !errors.Is(err, partial.ErrLocked) {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err != nil {
		return fmt.Errorf("download: rollback counters: %w", err)
	}
	all, err := s.counters()
	if err != nil {
		return err
	}
	if old, ok := all[m.Version]; ok && old.Counter >= m.Counter {
		return nil
	}
	all[m.Version] = counter{m.Counter, m.Identity(), now}
	data, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return partial.LocalError(name, s.writer.WriteFile(name, data, 0o644))
}

func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}
