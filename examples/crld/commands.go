package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl"
)

// Exit codes of check.
const (
	exitFailed  exitCode = 1
	exitRevoked exitCode = 3
	exitUnknown exitCode = 4
)

// environment is what a command works with.
type environment struct {
	stdout, stderr io.Writer
	cfg            *config
	explain, json  bool
	from           string
	files          []string
}

// sink writes alarms and events to the log.
type sink struct{ log *slog.Logger }

func (s sink) SetAlarm(ctx context.Context, a mooring.Alarm) {
	msg := "alarm"
	if !a.Active() {
		msg = "alarm cleared"
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, msg, slog.String("id", a.ID), slog.String("severity", a.Severity.String()), slog.String("text", a.Text))
}

func (s sink) RecordEvent(ctx context.Context, e mooring.Event) {
	s.log.LogAttrs(ctx, slog.LevelInfo, "event", slog.String("type", e.Type), slog.String("description", e.Description), slog.String("detail", string(e.Detail)))
}

// open makes and loads a manager. A command that answers stays quiet beside its
// answer; others log to stderr.
func (e *environment) open(ctx context.Context, quiet bool, helpers ...*x509.Certificate) (*crl.Manager, error) {
	cfg, err := e.cfg.manager()
	if err != nil {
		return nil, err
	}
	cfg.Intermediates = append(cfg.Intermediates, helpers...)
	if !quiet {
		log := slog.New(slog.NewTextHandler(e.stderr, nil))
		cfg.Logger, cfg.Alarms, cfg.Events = log, sink{log}, sink{log}
		cfg.OnRevoked = func(ctx context.Context, cert *x509.Certificate, r crl.Result) {
			log.LogAttrs(ctx, slog.LevelError, "certificate in use is revoked", slog.String("subject", cert.Subject.String()),
				slog.String("serial", cert.SerialNumber.Text(16)), slog.String("reason", r.Reason), slog.Time("at", r.RevokedAt))
		}
	}
	m, err := crl.New(cfg)
	if err != nil {
		return nil, err
	}
	return m, m.Load(ctx)
}

func runCommand(ctx context.Context, e *environment) error {
	m, err := e.open(ctx, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	if e.cfg.Listen == "" {
		served <- nil
	} else {
		l, err := net.Listen("tcp", e.cfg.Listen)
		if err != nil {
			return fmt.Errorf("listening for routers: %w", err)
		}
		fmt.Fprintf(e.stdout, "listening on http://%s\n", l.Addr())
		go func() {
			err := serve(ctx, l, m.Handler())
			cancel()
			served <- err
		}()
	}
	err = m.Run(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	cancel()
	return errors.Join(err, <-served)
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 15 * time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if s.Shutdown(stop) != nil {
			_ = s.Close()
		}
	}()
	err := s.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return nil
	}
	return fmt.Errorf("serving routers: %w", err)
}

func fetchCommand(ctx context.Context, e *environment) error {
	m, err := e.open(ctx, false)
	if err != nil {
		return err
	}
	err = m.Fetch(ctx)
	e.summary(m)
	if err != nil {
		return fmt.Errorf("not every list was fetched, see crld alarms: %w", err)
	}
	return nil
}

func syncCommand(ctx context.Context, e *environment) error {
	m, err := e.open(ctx, false)
	if err != nil {
		return err
	}
	err = m.Sync(ctx, e.from)
	e.summary(m)
	return err
}

func (e *environment) summary(m *crl.Manager) {
	for _, l := range m.Lists() {
		fmt.Fprintf(e.stdout, "%s number %s: %d entries, %s\n", l.Issuer, orNone(l.Number), l.Entries, l.State)
	}
}

func checkCommand(ctx context.Context, e *environment) error {
	type question struct {
		file string
		cert *x509.Certificate
		err  error
	}
	var questions []question
	var helpers []*x509.Certificate
	for _, f := range e.files {
		certs, err := readCertificates(f)
		q := question{file: f, err: err}
		if err == nil {
			q.cert = certs[0]
			helpers = append(helpers, certs[1:]...)
		}
		questions = append(questions, q)
	}
	m, err := e.open(ctx, true, helpers...)
	if err != nil && !errors.Is(err, crl.ErrDamaged) {
		return err
	}
	if err != nil {
		fmt.Fprintln(e.stderr, "crld:", line(err))
	}
	worst := exitCode(0)
	for _, q := range questions {
		if q.err != nil {
			fmt.Fprintln(e.stderr, "crld:", line(q.err))
			worst = max(worst, exitFailed)
			continue
		}
		r, steps := m.Explain(q.cert, nil)
		code := e.answer(q.file, r)
		// Revoked is the gravest answer.
		if worst != exitRevoked && code > worst || code == exitRevoked {
			worst = code
		}
		if e.explain {
			for _, s := range steps {
				fmt.Fprintln(e.stdout, "  "+s)
			}
			policy := "accepted"
			if m.Permit(q.cert, r) != nil {
				policy = "refused"
			}
			fmt.Fprintf(e.stdout, "  rule: %s\n  source: %s\n  a connection with it would be %s\n", r.Why, orNone(r.Source), policy)
		}
	}
	if worst != 0 {
		return worst
	}
	return nil
}

func (e *environment) answer(file string, r crl.Result) exitCode {
	switch r.Status {
	case crl.StatusGood:
		fmt.Fprintf(e.stdout, "%s: good as of %s\n", file, r.AsOf.UTC().Format(time.RFC3339))
		return 0
	case crl.StatusRevoked, crl.StatusOnHold:
		fmt.Fprintf(e.stdout, "%s: revoked %s %s\n", file, r.RevokedAt.UTC().Format(time.RFC3339), r.Reason)
		return exitRevoked
	case crl.StatusStale:
		fmt.Fprintf(e.stdout, "%s: stale: %s\n", file, r.Why)
		return exitUnknown
	}
	fmt.Fprintf(e.stdout, "%s: unknown: %s\n", file, r.Why)
	return exitUnknown
}

func showCommand(ctx context.Context, e *environment) error {
	m, err := e.open(ctx, true)
	if err != nil {
		return err
	}
	lists := m.Lists()
	if e.json {
		if lists == nil {
			lists = []crl.ListInfo{}
		}
		return e.writeJSON(lists)
	}
	if len(lists) == 0 {
		fmt.Fprintln(e.stdout, "no lists: run crld fetch")
		return nil
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ISSUER\tNUMBER\tTHIS UPDATE\tNEXT UPDATE\tENTRIES\tSTATE\tSOURCE\tLAST ERROR")
	for _, l := range lists {
		next := "none"
		if !l.NextUpdate.IsZero() {
			next = l.NextUpdate.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Issuer, orNone(l.Number), l.ThisUpdate.Format(time.RFC3339), next, l.Entries, l.State, l.Source, orNone(l.LastError))
	}
	return w.Flush()
}

func alarmsCommand(ctx context.Context, e *environment) error {
	m, err := e.open(ctx, true)
	if err != nil && !errors.Is(err, crl.ErrDamaged) {
		return err
	}
	alarms := m.Alarms()
	if e.json {
		return e.writeJSON(alarms)
	}
	if len(alarms) == 0 {
		fmt.Fprintln(e.stdout, "no alarms")
	}
	for _, a := range alarms {
		fmt.Fprintf(e.stdout, "%s %s since %s: %s\n", a.Severity, a.ID, a.Raised.Format(time.RFC3339), a.Text)
	}
	return nil
}

func (e *environment) writeJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
