package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/tpmdev"
	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/jwtauth"
	"github.com/mooringlib/mooring/pki/keystore"
)

// stateDir holds what is certd's own, beside the keys and certificates.
const stateDir = "certd"

// maxAudit bounds the audit file; the one before it is kept.
const maxAudit = 16 << 20

// checkInterval is how often the server looks whether files have changed.
const checkInterval = 2 * time.Second

// revocationGrace is how long a certificate that was known to be good passes
// while its revocation list is out of date.
const revocationGrace = 24 * time.Hour

// settings is what init was told.
type settings struct {
	// TPM is where keys are made; empty for files.
	TPM string `json:"tpm,omitempty"`
	// CRLs is the directory of a manager of revocation lists; empty for none.
	CRLs string `json:"crl_dir,omitempty"`
}

// site is an open directory.
type site struct {
	c     *cli
	m     *pki.Manager
	audit *auditFile
	tpm   transport.TPMCloser
	local *localCA
}

func (c *cli) state(elem ...string) string {
	return filepath.Join(append([]string{c.dir, stateDir}, elem...)...)
}

// open opens the directory for one command.
func (c *cli) open(ctx context.Context) (*site, error) { return c.openWith(ctx, nil) }

func (c *cli) openWith(ctx context.Context, logger *slog.Logger) (*site, error) {
	if err := (durable.Writer{}).MkdirAll(c.state(), 0o700); err != nil {
		return nil, err
	}
	s := &site{c: c, audit: &auditFile{path: c.state("audit.jsonl"), limit: maxAudit, stderr: c.stderr}}
	cfg := pki.Config{Dir: c.dir, AllNames: true, Events: s.audit, Logger: logger, CheckInterval: checkInterval}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	cfg.Node = host
	set, err := c.settings()
	if err != nil {
		return nil, err
	}
	if set.TPM != "" {
		if s.tpm, err = tpmdev.Open(set.TPM, c.state("tpm")); err != nil {
			return nil, err
		}
		store, err := keystore.NewTPM(s.tpm, nil)
		if err != nil {
			s.close()
			return nil, err
		}
		cfg.Keys = store
	}
	if s.local, err = c.loadCA(); err != nil {
		s.close()
		return nil, err
	}
	if s.local != nil {
		cfg.Enroller = s.local
	}
	if set.CRLs != "" {
		cfg.Revocation = &revocation{dir: set.CRLs, local: s.local, logger: logger}
		cfg.RevocationGrace = revocationGrace
	}
	if s.m, err = pki.New(cfg); err == nil {
		err = s.m.Open(ctx)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *site) close() {
	if s.tpm != nil {
		_ = s.tpm.Close()
	}
}

// settings returns those of init, or none when there was no init.
func (c *cli) settings() (settings, error) {
	var set settings
	data, err := os.ReadFile(c.state("settings.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return set, nil
	}
	if err != nil {
		return set, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&set); err != nil {
		return set, fmt.Errorf("%s is damaged: %w", c.state("settings.json"), err)
	}
	return set, nil
}

// initDir makes a directory ready: settings, an authority for the HTTPS
// certificate, that certificate, and a user.
func initDir(ctx context.Context, c *cli, args []string) error {
	user := c.flags.String("user", "", "`name` of a user who may log in over HTTPS")
	file := c.flags.String("password-file", "", "`file` whose first line is the password")
	tpm := c.flags.String("tpm", "", tpmdev.Help+" (default: keys in files)")
	crls := c.flags.String("crl-dir", "", "`directory` in which crld keeps revocation lists; without it nothing is known of revocation")
	if err := c.parse(args); err != nil {
		return err
	}
	if (*user == "") != (*file == "") {
		return badUsage("-user and -password-file belong together")
	}
	fresh := true
	if _, err := os.Stat(c.state("settings.json")); err == nil {
		fresh = false
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !fresh && (*user == "" || *tpm != "" || *crls != "") {
		return fmt.Errorf("%s is set up already; init with -user and -password-file adds or changes a user", c.dir)
	}
	w := durable.Writer{}
	if err := w.MkdirAll(c.state(), 0o700); err != nil {
		return err
	}
	if *user != "" {
		if err := c.addUser(*user, *file); err != nil {
			return err
		}
	}
	if fresh {
		if err := c.makeCA(); err != nil {
			return err
		}
		set := settings{TPM: *tpm}
		if *crls != "" {
			abs, err := filepath.Abs(*crls)
			if err != nil {
				return err
			}
			set.CRLs = abs
		}
		data, err := json.Marshal(set)
		if err != nil {
			return err
		}
		if err := w.WriteFile(c.state("settings.json"), data, 0o600); err != nil {
			return err
		}
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.ensureHTTPS(ctx, ""); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]string{"dir": c.dir, "ca": c.state("ca.pem")})
	}
	_, err = fmt.Fprintf(c.stdout, "%s is ready; clients trust %s\n", c.dir, c.state("ca.pem"))
	return err
}

func (c *cli) addUser(name, file string) error {
	data, err := c.readFile(file)
	if err != nil {
		return err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	u, err := jwtauth.NewUser(name, string(bytes.TrimSuffix(line, []byte("\r"))))
	if err != nil {
		return err
	}
	users, err := c.users()
	if err != nil {
		return err
	}
	kept := []jwtauth.User{u}
	for _, old := range users {
		if old.Name != name {
			kept = append(kept, old)
		}
	}
	if data, err = jwtauth.Marshal(kept); err != nil {
		return err
	}
	return durable.Writer{}.WriteFile(c.state("users.json"), data, 0o600)
}

func (c *cli) users() ([]jwtauth.User, error) {
	data, err := os.ReadFile(c.state("users.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return jwtauth.Unmarshal(data)
}

// auditFile appends events to a file, one JSON object a line.
type auditFile struct {
	path   string
	limit  int64
	stderr io.Writer
	mu     sync.Mutex
}

// RecordEvent implements mooring.EventSink.
func (a *auditFile) RecordEvent(_ context.Context, e mooring.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.append(e); err != nil {
		fmt.Fprintln(a.stderr, "certd: audit record not written:", err)
	}
}

func (a *auditFile) append(e mooring.Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	// The server and commands write at the same time. Without a lock two could
	// rename one after the other, and the older file would be lost.
	unlock, err := lockFile(a.path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if info, err := os.Stat(a.path); err == nil && info.Size() > a.limit {
		if err := os.Rename(a.path, a.path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
