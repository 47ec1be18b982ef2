package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mooringlib/mooring/pki/internal/pairfs"
	"github.com/mooringlib/mooring/pki/verify"
)

// Manager keeps the certificates of one directory. It is safe for concurrent
// use. Calls that write wait for each other, also over processes.
type Manager struct {
	cfg   Config
	files pairfs.Dir

	// op is held by one operation that writes or sweeps at a time.
	op sync.Mutex

	// mu guards what follows; nothing outside is called while it is held.
	mu       sync.RWMutex
	entries  map[string]*entry
	bundles  map[string]*bundle
	anchors  *verify.Trust // of all bundles
	peers    map[string]*peerState
	trustGen uint64

	revokedGen atomic.Uint64
	cache      resultCache
	good       goodMemory
	alarms     alarmBook
	counters   counterSet
}

// entry is one name.
type entry struct {
	name string
	// pair is what TLS uses; nil while there is none.
	pair atomic.Pointer[tls.Certificate]

	// The rest belongs to the holder of Manager.op.
	stamp     string
	read      bool           // stamp is of files that were read
	unsettled string         // stamp of files that did not fit each other
	problem   []verify.Issue // why the files on disk are not in use
	again     bool           // what was wrong may pass although no file changes
	atStart   bool           // the problem is as old as this process
	refused   *candidate     // a pair that fits, but was refused
	missing   bool           // no certificate on disk
	pending   bool           // a key waits for its certificate
	state     State
	inUse     State // of the pair that TLS uses
	renew     renewState
}

// candidate is a pair on disk that is not in use. It is kept open, because
// opening a key may take a TPM a while.
type candidate struct {
	pair *tls.Certificate
	text []byte
}

// New checks cfg and returns a Manager. It touches nothing: call Open next.
func New(cfg Config) (*Manager, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, files: pairfs.Dir{Path: cfg.Dir},
		entries: map[string]*entry{}, bundles: map[string]*bundle{}, peers: map[string]*peerState{},
		anchors: verify.NewTrust(nil),
	}
	m.cache.init()
	return m, nil
}

// Open makes the directory when it is not there, ends what a crash interrupted,
// and loads bundles and certificates. It raises no alarms: that is the work of
// [Manager.Sweep].
func (m *Manager) Open(ctx context.Context) error {
	m.op.Lock()
	defer m.op.Unlock()
	if err := m.files.Writer.MkdirAll(filepath.Join(m.cfg.Dir, trustDir), 0o700); err != nil {
		return fmt.Errorf("pki: open: %w", err)
	}
	unlock, err := m.lockFiles(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.files.Init(); err != nil {
		return fmt.Errorf("pki: open: %w", err)
	}
	if err := m.files.Writer.Sweep(filepath.Join(m.cfg.Dir, trustDir)); err != nil {
		return fmt.Errorf("pki: open: %w", err)
	}
	if err := m.loadTrust(ctx); err != nil {
		return err
	}
	return m.refresh(ctx, true)
}

// lockFiles keeps other processes out.
func (m *Manager) lockFiles(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	unlock, err := m.files.Lock(ctx)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return unlock, nil
}

// write runs fn as the one operation that writes.
func (m *Manager) write(ctx context.Context, fn func() error) error {
	m.op.Lock()
	defer m.op.Unlock()
	unlock, err := m.lockFiles(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Another process may have changed what is trusted.
	if err := m.loadTrust(ctx); err != nil {
		return err
	}
	return fn()
}

func (m *Manager) now() time.Time { return m.cfg.Now() }

// entry returns the entry of a name, making it when need be.
func (m *Manager) entry(name string) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[name]
	if e == nil {
		e = &entry{name: name}
		m.entries[name] = e
	}
	return e
}

// lookup returns the entry of a name, or nil.
func (m *Manager) lookup(name string) *entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries[name]
}

// configured reports whether a name that has no certificate deserves an alarm.
func (m *Manager) configured(name string) bool {
	return m.cfg.AllNames || slices.Contains(m.cfg.Names, name)
}

// managed returns the names that the directory holds.
func (m *Manager) managed() ([]string, error) {
	names, err := m.files.Names()
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return slices.DeleteFunc(names, func(n string) bool { return checkName(n) != nil }), nil
}

// refresh looks for files that have changed. It needs op. first is set when it
// is called to load, not to notice replacements.
func (m *Manager) refresh(ctx context.Context, first bool) error {
	names, err := m.managed()
	if err != nil {
		return err
	}
	if len(names) > maxManaged {
		return fmt.Errorf("pki: %d names in %q are more than %d", len(names), m.cfg.Dir, maxManaged)
	}
	m.mu.RLock()
	for name := range m.entries {
		names = append(names, name)
	}
	m.mu.RUnlock()
	names = append(names, m.cfg.Names...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		e := m.entry(name)
		if e.read && e.stamp == m.files.Stamp(name) && e.unsettled == "" {
			if e.refused != nil {
				m.tryAgain(ctx, e)
				continue
			}
			if !e.again {
				continue
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		m.reload(ctx, e, first)
	}
	return nil
}

// reload reads the files of a name. When they fit each other and hold something
// new, they are put in use.
func (m *Manager) reload(ctx context.Context, e *entry, first bool) {
	p, err := m.files.Read(e.name)
	if err != nil {
		e.problem = []verify.Issue{{Class: verify.Malformed, Text: fmt.Sprintf("the files cannot be read: %v", err)}}
		return
	}
	// A key that could not be opened at the start is still loaded, not replaced,
	// when it opens later.
	first = first || e.atStart && e.stamp == p.Stamp
	e.stamp, e.read, e.pending = p.Stamp, true, p.Pending != nil
	e.missing = p.Cert == nil
	e.again, e.atStart, e.refused = false, false, nil
	if e.missing {
		e.problem, e.unsettled = nil, ""
		return
	}
	pair, issues, again := m.open(ctx, p.Key, p.Cert)
	if pair == nil {
		// Somebody may be half-way through replacing two files by hand: what
		// is in use stays, and only a second look makes it a problem.
		if !first && e.unsettled != p.Stamp {
			e.unsettled = p.Stamp
			return
		}
		e.problem, e.unsettled = issues, ""
		e.again, e.atStart = again, first
		return
	}
	e.unsettled = ""
	old := e.pair.Load()
	if old != nil && samePair(old, pair) {
		e.problem = nil
		return
	}
	if old == nil && first {
		// At the start there is nothing better; its status tells what is wrong.
		e.problem = nil
		e.pair.Store(pair)
		return
	}
	// Put in place by hand. It has to pass what an ingested one has to.
	ev := m.evaluate(ctx, evaluation{name: e.name, text: p.Cert, current: pair.Leaf.PublicKey})
	if err := ev.err(); err != nil {
		e.problem = ev.issues()
		e.refused = &candidate{pair: pair, text: p.Cert}
		m.counters.importFailure.Add(1)
		m.auditIngest(ctx, e.name, ev, false)
		return
	}
	m.take(ctx, e, pair, ev)
}

// tryAgain judges a refused pair again: time, trust and what is known of
// revocation may have changed. A refusal was recorded when it was first made.
func (m *Manager) tryAgain(ctx context.Context, e *entry) {
	c := e.refused
	ev := m.evaluate(ctx, evaluation{name: e.name, text: c.text, current: c.pair.Leaf.PublicKey})
	if ev.err() != nil {
		e.problem = ev.issues()
		return
	}
	m.take(ctx, e, c.pair, ev)
}

// take puts a pair in use that was put in place by hand.
func (m *Manager) take(ctx context.Context, e *entry, pair *tls.Certificate, ev evaluation) {
	e.problem, e.refused = nil, nil
	e.pair.Store(pair)
	m.counters.importSuccess.Add(1)
	m.auditIngest(ctx, e.name, ev, true)
	m.replaced(ctx, e.name, pair.Leaf)
}

func samePair(a, b *tls.Certificate) bool {
	return slices.EqualFunc(a.Certificate, b.Certificate, func(x, y []byte) bool { return string(x) == string(y) })
}

// replaced tells the product that a pair is in force.
func (m *Manager) replaced(ctx context.Context, name string, leaf *x509.Certificate) {
	m.cfg.Logger.InfoContext(ctx, "certificate in force", "name", name, "not_after", leaf.NotAfter)
	if m.cfg.Hooks != nil {
		m.cfg.Hooks.Reauthenticate(ctx, name)
	}
}

// open makes a pair of the texts of two files. It returns nil and the reasons
// when they are not a pair. again says that the same texts may be one later: a
// TPM may be busy.
func (m *Manager) open(ctx context.Context, key, cert []byte) (pair *tls.Certificate, issues []verify.Issue, again bool) {
	certs, issues := parseCertificates(cert, maxIngestCerts)
	if len(issues) > 0 {
		return nil, issues, false
	}
	if key == nil {
		return nil, []verify.Issue{{Class: verify.KeyMismatch, Text: "there is a certificate but no private key"}}, false
	}
	signer, err := m.cfg.Keys.Open(ctx, key)
	if err != nil {
		return nil, []verify.Issue{{Class: verify.KeyMismatch, Text: fmt.Sprintf("the private key cannot be used: %v", err)}}, true
	}
	leaf := leafFor(certs, signer.Public())
	if leaf == nil {
		return nil, []verify.Issue{{Class: verify.KeyMismatch, Text: "certificate and private key on disk do not belong together"}}, false
	}
	return newPair(leaf, certs, signer), nil, false
}

// newPair puts the leaf first, as TLS needs it (RFC 8446 section 4.4.2).
func newPair(leaf *x509.Certificate, certs []*x509.Certificate, signer crypto.Signer) *tls.Certificate {
	pair := &tls.Certificate{PrivateKey: signer, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, c := range certs {
		if !c.Equal(leaf) {
			pair.Certificate = append(pair.Certificate, c.Raw)
		}
	}
	return pair
}

// certificate returns the pair of a name that is in use.
func (m *Manager) certificate(name string) (*tls.Certificate, error) {
	if e := m.lookup(name); e != nil {
		if pair := e.pair.Load(); pair != nil {
			return pair, nil
		}
	}
	return nil, fmt.Errorf("%w: %q has no certificate", ErrNotFound, name)
}

// Certificate returns the certificates of a name that are in use, leaf first.
func (m *Manager) Certificate(name string) ([]*x509.Certificate, error) {
	pair, err := m.certificate(name)
	if err != nil {
		return nil, err
	}
	return pairCertificates(pair), nil
}

func pairCertificates(pair *tls.Certificate) []*x509.Certificate {
	out := []*x509.Certificate{pair.Leaf}
	for _, der := range pair.Certificate[1:] {
		// They parsed before.
		if c, err := x509.ParseCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// storedKeys opens the keys of a name: the one that waits, then the one in
// force. Either may be nil.
func (m *Manager) storedKeys(ctx context.Context, name string) (pending, current crypto.Signer, p pairfs.Pair, err error) {
	p, err = m.files.Read(name)
	if err != nil {
		return nil, nil, p, fmt.Errorf("pki: %w", err)
	}
	var errs []error
	get := func(text []byte) crypto.Signer {
		if text == nil {
			return nil
		}
		s, err := m.cfg.Keys.Open(ctx, text)
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		return s
	}
	pending, current = get(p.Pending), get(p.Key)
	if pending == nil && current == nil && len(errs) > 0 {
		return nil, nil, p, fmt.Errorf("pki: key of %q: %w", name, errors.Join(errs...))
	}
	return pending, current, p, nil
}
