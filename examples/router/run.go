package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// The files that "router run" writes beside those of the library.
const (
	fileConfig = "router-config.json"
	fileTunnel = "tunnel.json"
	fileLock   = "run.lock"
)

const (
	forwardLocal  = "local:"
	forwardRemote = "remote:"
)

// errRunning says that another process keeps the tunnel.
var errRunning = errors.New("another \"router run\" is running")

func runRun(ctx context.Context, args []string, std stdio) error {
	f := newFlags("run", `run -dir DIR [-forward [local:]LISTEN=TARGET | -forward remote:LISTEN=TARGET ...]

Keeps the tunnel to the conductor until it is interrupted (SIGINT, SIGTERM), and
lets the conductor initialize this router. With "local", which may be left out,
this router listens and the conductor connects to the target; with "remote" the
conductor listens and this router connects. LISTEN and TARGET are HOST:PORT. The
conductor decides what it allows.`, std)
	dir := f.need("dir", "the router's `DIR`")
	var forwards list
	f.Var(&forwards, "forward", "an address to forward: `[KIND:]LISTEN=TARGET`; repeat it for more")
	pq := f.Bool("require-post-quantum", false, "refuse key exchanges other than mlkem768x25519-sha256")
	if err := f.parse(args); err != nil {
		return err
	}
	local, remote, err := parseForwards(forwards)
	if err != nil {
		return wrongUsage("run", "-forward: %s", err)
	}
	e, err := sco.LoadEnrollment(*dir)
	if err != nil {
		return fmt.Errorf("%w; run \"router onboard\" first", err)
	}
	log := slog.New(slog.NewTextHandler(std.err, nil))
	unlock, err := lockPatiently(ctx, func() (func(), error) { return lockFile(filepath.Join(*dir, fileLock)) })
	if errors.Is(err, errLocked) {
		err = errRunning
	}
	if err != nil {
		return fmt.Errorf("%q: %w", *dir, err)
	}
	defer unlock()
	box := &box{dir: *dir, log: log}
	// What a run that was killed left behind.
	box.write(tunnelState{})
	for {
		client, err := tunnel.NewClient(tunnel.ClientConfig{
			Addresses: e.SSHAddresses, HostKeys: e.HostKeys, Signer: e.Signer(), Local: local, Remote: remote,
			Applier: box, Observer: box, RequirePostQuantum: *pq, Logger: log,
		})
		if err != nil {
			return err
		}
		err = client.Run(ctx)
		switch {
		case ctx.Err() != nil:
			log.Info("stopped")
			return nil
		case errors.Is(err, tunnel.ErrReboot):
			// A product would reboot the machine here. This program is the
			// whole router, and begins again.
			log.Info("rebooting: this program starts over")
		default:
			return err
		}
	}
}

// lockPatiently tries for a moment, because "router status" holds the lock of
// "router run" for an instant.
func lockPatiently(ctx context.Context, lock func() (func(), error)) (unlock func(), err error) {
	for range 20 {
		if unlock, err = lock(); !errors.Is(err, errLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, err
}

func parseForwards(forwards list) (local, remote []tunnel.Forward, err error) {
	for _, s := range forwards {
		var out *[]tunnel.Forward
		rest := ""
		switch {
		case strings.HasPrefix(s, forwardLocal):
			out, rest = &local, s[len(forwardLocal):]
		case strings.HasPrefix(s, forwardRemote):
			out, rest = &remote, s[len(forwardRemote):]
		default:
			out, rest = &local, s
		}
		f, err := tunnel.ParseForward(rest)
		if err != nil {
			return nil, nil, err
		}
		*out = append(*out, f)
	}
	return local, remote, nil
}

// box is this router: it stores what the conductor delivers, and how the tunnel
// is.
type box struct {
	dir string
	log *slog.Logger
	w   durable.Writer
}

// Apply implements [tunnel.Applier]. A configuration that is new takes a reboot.
func (b *box) Apply(_ context.Context, config []byte) (tunnel.Result, error) {
	if !json.Valid(config) {
		return 0, errors.New("the configuration is not JSON")
	}
	path := filepath.Join(b.dir, fileConfig)
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, config) {
		return tunnel.Applied, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("reading the present configuration: %w", err)
	}
	if err := b.w.WriteFile(path, config, 0o600); err != nil {
		return 0, fmt.Errorf("storing the configuration: %w", err)
	}
	return tunnel.RebootNeeded, nil
}

// tunnelState is the content of tunnel.json.
type tunnelState struct {
	Up          bool      `json:"up"`
	Since       time.Time `json:"since,omitzero"`
	Conductor   string    `json:"conductor,omitempty"`
	KeyExchange string    `json:"key-exchange,omitempty"`
	LastError   string    `json:"last-error,omitempty"`
}

// Connected implements [tunnel.Observer].
func (b *box) Connected(_ context.Context, s tunnel.Session) {
	b.write(tunnelState{Up: true, Since: s.Since.UTC(), Conductor: s.RemoteAddr, KeyExchange: s.KeyExchange})
}

// Disconnected implements [tunnel.Observer].
func (b *box) Disconnected(_ context.Context, _ tunnel.Session, reason error) {
	b.write(tunnelState{Since: time.Now().UTC(), LastError: reason.Error()})
}

func (b *box) write(s tunnelState) {
	out, err := json.Marshal(s)
	if err == nil {
		err = b.w.WriteFile(filepath.Join(b.dir, fileTunnel), append(out, '\n'), 0o600)
	}
	if err != nil {
		b.log.Error("writing the tunnel's state failed", "error", err)
	}
}

// status is what "router status -json" prints.
type status struct {
	State       string       `json:"state"` // not-onboarded, onboarded, connected
	Router      string       `json:"router,omitempty"`
	Node        string       `json:"node,omitempty"`
	AssetID     string       `json:"asset-id,omitempty"`
	OnboardedAt time.Time    `json:"onboarded-at,omitzero"`
	Conductors  []string     `json:"conductors,omitempty"`
	SSHKey      string       `json:"ssh-key,omitempty"`
	Initialized bool         `json:"initialized"`
	Running     bool         `json:"running"`
	Tunnel      *tunnelState `json:"tunnel,omitempty"`
}

func runStatus(args []string, std stdio) error {
	f := newFlags("status", "status -dir DIR [-json]\n\nShows how far this router is.", std)
	dir := f.need("dir", "the router's `DIR`")
	asJSON := f.Bool("json", false, "print a JSON object")
	if err := f.parse(args); err != nil {
		return err
	}
	s, err := readStatus(*dir)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	fmt.Fprintf(std.out, "state:        %s\n", s.State)
	if s.State == stateNone {
		return nil
	}
	fmt.Fprintf(std.out, "router:       %s\nnode:         %s\nasset-id:     %s\nonboarded at: %s\nconductors:   %s\nssh key:      %s\ninitialized:  %t\nrunning:      %t\n",
		s.Router, s.Node, s.AssetID, s.OnboardedAt.Format(time.RFC3339), strings.Join(s.Conductors, " "), s.SSHKey, s.Initialized, s.Running)
	if s.Tunnel.Up {
		fmt.Fprintf(std.out, "tunnel:       up since %s, to %s, %s\n", s.Tunnel.Since.Format(time.RFC3339), s.Tunnel.Conductor, s.Tunnel.KeyExchange)
	} else if s.Tunnel.LastError != "" {
		fmt.Fprintf(std.out, "tunnel:       down: %s\n", s.Tunnel.LastError)
	}
	return nil
}

// The states of a router.
const (
	stateNone      = "not-onboarded"
	stateOnboarded = "onboarded"
	stateConnected = "connected"
)

func readStatus(dir string) (*status, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%w; run \"router onboard\" first", err)
	}
	e, err := sco.LoadEnrollment(dir)
	if errors.Is(err, sco.ErrNotOnboarded) {
		return &status{State: stateNone}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &status{State: stateOnboarded, Router: e.Router, Node: e.Node, AssetID: e.AssetID, OnboardedAt: e.At,
		Conductors: e.SSHAddresses, SSHKey: ssh.FingerprintSHA256(e.Signer().PublicKey()), Tunnel: &tunnelState{}}
	if _, err := os.Stat(filepath.Join(dir, fileConfig)); err == nil {
		s.Initialized = true
	}
	// Whether somebody keeps the tunnel is told by the lock, which ends with
	// the process, however that ended.
	if s.Running, err = isLocked(filepath.Join(dir, fileLock)); err != nil || !s.Running {
		return s, err
	}
	b, err := os.ReadFile(filepath.Join(dir, fileTunnel))
	if err == nil {
		err = json.Unmarshal(b, s.Tunnel)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.Tunnel.Up {
		s.State = stateConnected
	}
	return s, nil
}
