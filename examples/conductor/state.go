package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	_ "modernc.org/sqlite"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/internal/pemfile"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/sqlstore"
)

// The files in the conductor's directory.
const (
	fileMarker  = "conductor.json"
	fileCA      = "ca.pem"
	fileCAKey   = "ca.key"
	fileCert    = "server.pem"
	fileKey     = "server.key"
	fileHostKey = "ssh_host_key"
	fileRoots   = "device-roots.pem"
	fileStore   = "routers.db"
	fileEvents  = "events.jsonl"
)

// maxFile bounds the files that are read as a whole.
const maxFile = 4 << 20

// state is an open conductor directory.
type state struct {
	dir      string
	db       *sql.DB
	registry *sco.Registry
	settings *settings
	events   *eventFile
}

// open opens a directory that init has completed.
func open(ctx context.Context, dir, node string, log *slog.Logger) (*state, error) {
	if _, err := os.Stat(filepath.Join(dir, fileMarker)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%q is not a conductor's directory; run \"conductor init -dir %s\" first", dir, dir)
		}
		return nil, err
	}
	if node == "" {
		node, _ = os.Hostname()
	}
	s := &state{dir: dir, settings: &settings{dir: dir}, events: &eventFile{path: filepath.Join(dir, fileEvents), log: log}}
	db, store, err := openStore(ctx, filepath.Join(dir, fileStore))
	if err != nil {
		return nil, err
	}
	s.db = db
	s.registry, err = sco.NewRegistry(sco.RegistryConfig{Store: store, Node: node, Events: s.events, Logger: log})
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// alone keeps other processes from doing the same at the same time, by the store's
// lock.
func (s *state) alone(ctx context.Context, f func() error) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("locking %q: %w", s.dir, err)
	}
	err = f()
	_, end := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	return errors.Join(err, end)
}

func (s *state) Close() error { return s.db.Close() }

func openStore(ctx context.Context, path string) (*sql.DB, *sqlstore.Store, error) {
	// The store and its journals hold secrets. SQLite gives the journals the
	// mode of the database, so it must be right before SQLite is there.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	_ = f.Close()
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "_pragma=busy_timeout(10000)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(8)
	store, err := sqlstore.New(sqlstore.Config{DB: db, Dialect: sqlstore.SQLite})
	if err == nil {
		err = store.Migrate(ctx)
	}
	if err != nil {
		_ = db.Close()
		return nil, nil, err
	}
	return db, store, nil
}

// settings reads the conductor's own files, again when one of them changes.
type settings struct {
	dir string

	mu      sync.Mutex
	seen    string
	current *sco.Settings
	// sshPort and hostKey are those of the running SSH server.
	sshPort uint16
	hostKey ssh.PublicKey
}

// get is a [sco.SettingsFunc].
func (s *settings) get(context.Context) (*sco.Settings, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := ""
	for _, name := range []string{fileCA, fileCert, fileKey, fileHostKey, fileRoots} {
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			seen += "-;"
			continue
		}
		seen += fmt.Sprintf("%d %d;", info.Size(), info.ModTime().UnixNano())
	}
	if s.current != nil && seen == s.seen {
		return s.current, nil
	}
	fresh, err := readSettings(s.dir)
	if err != nil {
		return nil, err
	}
	if s.hostKey != nil {
		fresh.SSHHostKeys = []ssh.PublicKey{s.hostKey}
	}
	fresh.SSHPort = s.sshPort
	s.current, s.seen = fresh, seen
	return fresh, nil
}

// complete says which files are missing.
func (s *settings) complete(ctx context.Context) error {
	set, err := s.get(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for _, x := range []struct {
		name string
		gone bool
	}{{fileCA, set.CA == nil}, {fileCert, set.Certificate == nil}, {fileKey, set.Key == nil}} {
		if x.gone {
			missing = append(missing, x.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%q lacks %s; put the files back, or run \"conductor init\" with a new directory", s.dir, strings.Join(missing, ", "))
	}
	return nil
}

// setSSH is called once, before the onboarding port is served: routers must be
// told of the key that the SSH server has, not of one that has come into its file
// since. port is 0 when it is not known.
func (s *settings) setSSH(port uint16, hostKey ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sshPort, s.hostKey, s.current = port, hostKey, nil
}

// readSettings leaves out what has no file: the library then names all that is
// missing, in one error.
func readSettings(dir string) (*sco.Settings, error) {
	var s sco.Settings
	var err error
	missing := func() bool { return errors.Is(err, fs.ErrNotExist) }
	if s.Certificate, err = readCertificate(filepath.Join(dir, fileCert)); err != nil && !missing() {
		return nil, err
	}
	if s.CA, err = readCertificate(filepath.Join(dir, fileCA)); err != nil && !missing() {
		return nil, err
	}
	if s.Key, err = readKey(filepath.Join(dir, fileKey)); err != nil && !missing() {
		return nil, err
	}
	host, err := readHostKey(dir)
	if err == nil {
		s.SSHHostKeys = []ssh.PublicKey{host.PublicKey()}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	roots, err := readCertificates(filepath.Join(dir, fileRoots))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		s.DeviceIDRoots = x509.NewCertPool()
		for _, c := range roots {
			s.DeviceIDRoots.AddCert(c)
		}
	}
	return &s, nil
}

func readHostKey(dir string) (ssh.Signer, error) {
	path := filepath.Join(dir, fileHostKey)
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%q is not an SSH private key: %w", path, err)
	}
	return key, nil
}

func readFile(path string) ([]byte, error) { return pemfile.Read(path, maxFile) }

// readCertificates reads the certificates of a PEM file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	return pemfile.Certificates(path, maxFile)
}

func readCertificate(path string) (*x509.Certificate, error) {
	all, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// readKey reads a private key in PEM: PKCS #8, PKCS #1 or SEC 1.
func readKey(path string) (crypto.Signer, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return nil, fmt.Errorf("%q holds no PEM private key (PKCS #8, PKCS #1 or SEC 1, not encrypted)", path)
		}
		var key any
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%q: private key can't be read: %w", path, err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%q: a key of type %T can't sign", path, key)
		}
		return signer, nil
	}
}

// eventFile is the audit record: events are appended to a file, one JSON object
// a line, in one write each, so that several processes may share it.
type eventFile struct {
	path string
	log  *slog.Logger
}

// RecordEvent implements [mooring.EventSink].
func (e *eventFile) RecordEvent(ctx context.Context, ev mooring.Event) {
	err := func() error {
		line, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(e.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err = f.Write(append(line, '\n')); err == nil {
			// What was permitted must not be forgotten by a power failure.
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	}()
	if err != nil {
		e.log.ErrorContext(ctx, "audit record can't be written", "error", err)
	}
	e.log.InfoContext(ctx, "event", "type", ev.Type, "permitted", ev.Permitted, "description", ev.Description, "time", ev.Time.Format(time.RFC3339))
}
