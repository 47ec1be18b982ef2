package crl

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl/internal/master"
)

const (
	masterFile = "master.crl-index"
	marksFile  = "marks.json"
	stateFile  = "state.json"
	listsDir   = "lists"
	patchesDir = "patches"
	spoolDir   = "spool"
)

// mark is the highest that was seen of one line of lists.
type mark struct {
	Number     string `json:"number,omitempty"`
	ThisUpdate int64  `json:"this_update"`
	ID         string `json:"id"`
}

// marks is marks.json: what protects from rollback.
type marks struct {
	Lines map[string]mark `json:"lines"`
	// Seen is the latest time that this manager has seen, in seconds since 1970.
	Seen int64 `json:"seen"`
	// Digest is SHA-256 of the document with an empty digest.
	Digest string `json:"digest"`
}

func (m *marks) digest() string {
	c := *m
	c.Digest = ""
	data, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// readMarks reads marks.json. A missing file gives none; a damaged one gives
// ErrDamaged.
func readMarks(dir string) (*marks, error) {
	m := &marks{Lines: make(map[string]mark)}
	data, err := readSmall(filepath.Join(dir, marksFile))
	if err != nil || data == nil {
		return m, err
	}
	if err := json.Unmarshal(data, m); err != nil || m.Digest != m.digest() || m.Lines == nil {
		return &marks{Lines: make(map[string]mark)}, fmt.Errorf("%w: %s", ErrDamaged, marksFile)
	}
	return m, nil
}

// readSmall reads a bounded file; nil when it is not there.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStateFile+1))
	if err == nil && len(data) > maxStateFile {
		err = fmt.Errorf("%w: %s is longer than %d bytes", ErrDamaged, filepath.Base(path), maxStateFile)
	}
	return data, err
}

// admits says whether a list may follow what was seen of its line.
func (m *marks) admits(meta *master.Meta) error {
	have, ok := m.Lines[meta.Line]
	if !ok {
		return nil
	}
	seen, now := number(have.Number), number(meta.Number)
	if seen != nil && (now == nil || now.Cmp(seen) < 0) {
		return fmt.Errorf("%w: number %s after %s", ErrRollback, orNone(meta.Number), have.Number)
	}
	if meta.ThisUpdate < have.ThisUpdate {
		return fmt.Errorf("%w: thisUpdate %s after %s", ErrRollback, utc(meta.ThisUpdate), utc(have.ThisUpdate))
	}
	if seen != nil && now.Cmp(seen) == 0 && meta.ID != have.ID {
		return fmt.Errorf("%w: number %s was seen with other content", ErrRollback, have.Number)
	}
	return nil
}

func (m *marks) raise(meta *master.Meta) {
	m.Lines[meta.Line] = mark{Number: meta.Number, ThisUpdate: meta.ThisUpdate, ID: meta.ID}
}

// adopt raises marks to what is in force, for when the file was lost.
func (m *marks) adopt(metas []master.Meta) {
	for i := range metas {
		meta := &metas[i]
		have, ok := m.Lines[meta.Line]
		seen, now := number(have.Number), number(meta.Number)
		if !ok || seen == nil && meta.ThisUpdate > have.ThisUpdate || seen != nil && now != nil && now.Cmp(seen) > 0 {
			m.raise(meta)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func utc(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// sourceState is what is remembered of one address.
type sourceState struct {
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	List         string    `json:"list,omitempty"`
	Line         string    `json:"line,omitempty"`
	LastError    string    `json:"last_error,omitempty"`
	Failed       time.Time `json:"failed,omitzero"`
}

// state is state.json: what makes work easier after a restart. Losing it costs
// a fetch and no more.
type state struct {
	Sources  map[string]sourceState `json:"sources"`
	Alarms   []mooring.Alarm        `json:"alarms,omitempty"`
	Reported map[string]time.Time   `json:"reported,omitempty"`
}

func readState(dir string) *state {
	s := &state{}
	data, err := readSmall(filepath.Join(dir, stateFile))
	if err != nil || data == nil || json.Unmarshal(data, s) != nil {
		s = &state{}
	}
	if s.Sources == nil {
		s.Sources = make(map[string]sourceState)
	}
	if s.Reported == nil {
		s.Reported = make(map[string]time.Time)
	}
	return s
}

// writeIfChanged replaces a file when its content differs.
func (m *Manager) writeIfChanged(name string, data []byte) error {
	path := filepath.Join(m.cfg.Directory, name)
	if have, err := readSmall(path); err == nil && have != nil && bytes.Equal(have, data) {
		return nil
	}
	return m.durable.WriteFile(path, data, 0o644)
}
