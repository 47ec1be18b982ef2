package crl

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl/internal/fetch"
	"github.com/mooringlib/mooring/crl/internal/list"
	"github.com/mooringlib/mooring/crl/internal/master"
	"github.com/mooringlib/mooring/crl/internal/trust"
	"github.com/mooringlib/mooring/internal/durable"
)

// Manager keeps revocation lists. It is safe for concurrent use.
type Manager struct {
	cfg     Config
	pool    *trust.Pool
	durable durable.Writer
	client  *fetch.Client

	// snap is what answers are given from, and generation counts its changes.
	snap       atomic.Pointer[snapshot]
	generation atomic.Uint64

	// reading admits one list at a time to having its entries read, and slots a
	// few to being fetched, which bounds memory.
	reading sync.Mutex
	slots   chan struct{}
	// telling keeps calls of the alarm sink in order.
	telling sync.Mutex
	// wake tells Run that sources changed.
	wake chan struct{}

	mu      sync.Mutex
	loaded  bool
	marks   *marks
	sources map[string]*source
	known   map[string]sourceState
	inUse   map[string]*x509.Certificate // by identity
	// reported are certificates that OnRevoked was called for, lifted those that
	// were taken out again, which state.json does not say yet.
	reported map[string]time.Time
	lifted   map[string]bool
	alarms   alarms
	pending  []mooring.Alarm
	dirty    bool // state.json is behind
	counters Counters
	stamp    stamp // of the master list that snap is from
}

// Counters count what happened since the manager was made.
type Counters struct {
	FetchSuccess     uint64 `json:"fetch_success"`
	FetchFailure     uint64 `json:"fetch_failure"`
	IngestionSuccess uint64 `json:"ingestion_success"`
	IngestionFailure uint64 `json:"ingestion_failure"`
}

// stamp tells one version of a file from another without opening it.
type stamp struct {
	size int64
	mod  time.Time
	info os.FileInfo
}

// New makes a manager. It reports all bad fields at once and does no I/O; the
// answers are unknown until Load.
func New(cfg Config) (*Manager, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, pool: trust.NewPool(cfg.Issuers, cfg.Intermediates), client: fetch.New(cfg.TLS),
		slots: make(chan struct{}, fetchers), wake: make(chan struct{}, 1), sources: make(map[string]*source), known: make(map[string]sourceState),
		inUse: make(map[string]*x509.Certificate), reported: make(map[string]time.Time), lifted: make(map[string]bool), alarms: make(alarms),
		marks: &marks{Lines: make(map[string]mark)},
	}
	for _, u := range cfg.URLs {
		m.sources[u] = &source{urls: []string{u}, configured: true}
	}
	for _, c := range cfg.Certificates {
		m.learn(c)
	}
	return m, nil
}

// limits are those of the configuration.
func (m *Manager) limits() list.Limits {
	return list.Limits{Bytes: m.cfg.MaxListBytes, Entries: m.cfg.MaxEntries, AllowUnnumbered: m.cfg.AllowUnnumbered}
}

// Load opens what is in the directory, without the network. A directory that
// does not exist yet holds no lists. When a file is damaged, Load raises an
// alarm, makes it anew from the signed lists, and clears the alarm; this needs
// permission to write. Only when that fails does it return an error, which
// wraps [ErrDamaged]; answers are unknown then. With Config.ReadOnly it mends
// nothing, and what was in force before a damage stays in force.
func (m *Manager) Load(ctx context.Context) error {
	m.mu.Lock()
	err := m.load()
	m.mu.Unlock()
	m.tell(ctx)
	if errors.Is(err, ErrDamaged) && !m.cfg.ReadOnly {
		if mend := m.transaction(ctx, func() error { return nil }); mend != nil {
			return errors.Join(err, mend)
		}
		err = nil
	}
	return err
}

// load reads the files. The caller holds mu.
func (m *Manager) load() error {
	st := readState(m.cfg.Directory)
	for k, v := range st.Sources {
		m.known[k] = v
	}
	for k, v := range st.Reported {
		m.reported[k] = v
	}
	for _, a := range st.Alarms {
		if _, ok := m.alarms[a.ID]; !ok && a.Active() {
			m.alarms[a.ID] = a
			m.pending = append(m.pending, a)
		}
	}
	marks, marksErr := readMarks(m.cfg.Directory)
	m.marks = marks
	m.loaded = true
	err := errors.Join(marksErr, m.reopen())
	if err != nil {
		m.raise(alarmDamage, "directory", mooring.SeverityCritical, err.Error()+"; it is made anew from the signed lists")
	}
	m.marks.adopt(m.snapshotMetas())
	m.ages(m.snap.Load(), m.cfg.Now())
	return err
}

func (m *Manager) snapshotMetas() []master.Meta {
	if s := m.snap.Load(); s != nil && s.file != nil {
		return s.file.Lists
	}
	return nil
}

// reopen opens the master list if it is another one than before. The caller
// holds mu.
func (m *Manager) reopen() error {
	path := filepath.Join(m.cfg.Directory, masterFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if m.snap.Load() == nil {
			m.answerFrom(nil)
		}
		return nil
	}
	if err == nil && m.stamp.info != nil && os.SameFile(info, m.stamp.info) && info.Size() == m.stamp.size && info.ModTime().Equal(m.stamp.mod) {
		return nil
	}
	var f *master.File
	if err == nil {
		f, err = master.Open(path)
	}
	if err != nil {
		if m.snap.Load() == nil {
			m.answerFrom(nil)
		}
		if errors.Is(err, master.ErrCorrupt) {
			return errors.Join(ErrDamaged, err)
		}
		return err
	}
	m.stamp = stamp{info.Size(), info.ModTime(), info}
	m.answerFrom(f)
	return nil
}

// answerFrom puts a master list, or none, in force.
func (m *Manager) answerFrom(f *master.File) {
	m.snap.Store(newSnapshot(f, m.pool))
	m.generation.Add(1)
}

// RevocationGeneration changes whenever other lists come into force, so that
// whoever remembers answers knows when to ask again. It does no I/O.
func (m *Manager) RevocationGeneration() uint64 { return m.generation.Load() }

// Counters returns the counters.
func (m *Manager) Counters() Counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counters
}

// saveState writes state.json if it is behind. The caller holds mu and the
// lock of the directory.
func (m *Manager) saveState() error {
	if !m.dirty {
		return nil
	}
	data, err := json.Marshal(state{Sources: m.known, Alarms: m.sortedAlarms(), Reported: m.reported})
	if err != nil {
		return err
	}
	if err := m.writeIfChanged(stateFile, data); err != nil {
		return err
	}
	m.dirty = false
	clear(m.lifted)
	return nil
}

// ListInfo describes a list in force.
type ListInfo struct {
	// Issuer is the issuer's name in one line.
	Issuer string `json:"issuer"`
	// Source is where it came from.
	Source string `json:"source"`
	// Number is the CRL number, Base the base CRL number of a delta list.
	Number string `json:"number,omitempty"`
	Base   string `json:"base,omitempty"`
	// ThisUpdate and NextUpdate are as signed; NextUpdate may be zero.
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update,omitzero"`
	// Entries and Size are of the signed list, IndexSize is in the master list.
	Entries   int   `json:"entries"`
	Size      int64 `json:"size"`
	IndexSize int   `json:"index_size"`
	// State is "in date", or why it is not.
	State string `json:"state"`
	// LastError is why the last fetch from Source failed; empty when it did not.
	LastError string `json:"last_error,omitempty"`
	// Warnings are defects that did not make the list unusable.
	Warnings []string `json:"warnings,omitempty"`
}

// Lists describes the lists in force.
func (m *Manager) Lists() []ListInfo {
	s := m.snap.Load()
	if s == nil || s.file == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]ListInfo, 0, len(s.lists))
	for i := range s.lists {
		l := &s.lists[i]
		info := ListInfo{
			Issuer: oneLine(l.meta.Issuer), Source: l.meta.Source, Number: l.meta.Number, Base: l.meta.Base,
			ThisUpdate: l.this.UTC(), Entries: l.meta.Entries, Size: l.meta.Size, IndexSize: s.file.IndexSize(i),
			State: "in date", LastError: m.known[l.meta.Source].LastError, Warnings: l.meta.Warnings,
		}
		if l.meta.NextUpdate != 0 {
			info.NextUpdate = l.next.UTC()
		}
		if l.signer == nil {
			info.State = "not in force: its signer is not trusted"
		} else if ok, why := l.fresh(m.cfg.Now()); !ok {
			info.State = "stale: " + why
		}
		out = append(out, info)
	}
	return out
}
