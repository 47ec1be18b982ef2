package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// The defaults of what routers may ask for: services on this machine that need
// no privilege to listen, and listeners that only this machine reaches.
var (
	defaultDial   = list{"127.0.0.1:1024-65535", "[::1]:1024-65535", "localhost:1024-65535"}
	defaultListen = list{"127.0.0.1:0", "127.0.0.1:1024-65535", "[::1]:0", "[::1]:1024-65535", "localhost:0", "localhost:1024-65535"}
)

func runServe(ctx context.Context, args []string, std stdio) error {
	f := newFlags("serve", `serve -dir DIR [-onboarding :933] [-ssh :930] [-legacy 4505,4506] [flags]

Serves the onboarding port and the SSH port until it is interrupted (SIGINT,
SIGTERM). It logs on standard error on which addresses it listens. What other
conductor commands change, and certificates that change, take effect at once; a
changed ssh_host_key needs a restart.

The legacy ports are opened only while some router's mode is disabled. This
program has no legacy onboarding behind them: a device sends its asset-id in one
line and gets "allowed" or "refused". Why it was refused is logged, and told by
"conductor legacy".`, std)
	dir := f.dir()
	onboarding := f.String("onboarding", ":933", "`ADDRESS` of the onboarding port")
	sshAddr := f.String("ssh", ":930", "`ADDRESS` of the SSH port")
	legacy := f.String("legacy", "", "comma-separated `PORTS` or addresses of the legacy way, such as 4505,4506 (default: none)")
	node := f.String("node", "", "`NAME` of this conductor node in the audit record; one serve per node (default: the host name)")
	var dial, listen list
	f.Var(&dial, "allow-dial", "`HOST:PORTS` that routers may connect to through their tunnels, or \"none\"; repeat it for more (default: "+strings.Join(defaultDial, " ")+")")
	f.Var(&listen, "allow-listen", "`HOST:PORTS` that routers may have this machine listen on, or \"none\" (default: "+strings.Join(defaultListen, " ")+")")
	if err := f.parse(args); err != nil {
		return err
	}
	policy, err := parsePolicy(dial, listen)
	if err != nil {
		return wrongUsage("serve", "%s", err)
	}
	legacyAddrs, err := parseLegacy(*legacy)
	if err != nil {
		return wrongUsage("serve", "-legacy: %s", err)
	}
	log := slog.New(slog.NewTextHandler(std.err, nil))
	s, err := open(ctx, *dir, *node, log)
	if err != nil {
		return err
	}
	return errors.Join(s.serve(ctx, serveConfig{*onboarding, *sshAddr, legacyAddrs, policy, len(dial) == 0, len(listen) == 0, log}), s.Close())
}

// warnDefaults says that every router may use this machine's own services. The
// defaults are there for trying forwards out.
func warnDefaults(ctx context.Context, log *slog.Logger, dial, listen bool) {
	var attrs []any
	if dial {
		attrs = append(attrs, "-allow-dial", strings.Join(defaultDial, " "))
	}
	if listen {
		attrs = append(attrs, "-allow-listen", strings.Join(defaultListen, " "))
	}
	if len(attrs) > 0 {
		log.WarnContext(ctx, "every onboarded router may use these addresses of this machine by default; give the flags with what you need, or none", attrs...)
	}
}

func parsePolicy(dial, listen list) (tunnel.Policy, error) {
	var p tunnel.Policy
	var errs []error
	for _, x := range []struct {
		flag  string
		rules list
		def   list
		out   *tunnel.Rules
	}{{"-allow-dial", dial, defaultDial, &p.Dial}, {"-allow-listen", listen, defaultListen, &p.Listen}} {
		rules := x.rules
		if len(rules) == 0 {
			rules = x.def
		}
		if len(rules) == 1 && rules[0] == "none" {
			continue
		}
		r, err := tunnel.ParseRules(rules...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", x.flag, err))
		}
		*x.out = r
	}
	return p, errors.Join(errs...)
}

type serveConfig struct {
	onboarding, ssh string
	legacy          []string
	policy          tunnel.Policy
	// dialDefault and listenDefault say which of the policy are the defaults.
	dialDefault, listenDefault bool
	log                        *slog.Logger
}

// serve runs all ports until ctx ends, which is not an error.
func (s *state) serve(ctx context.Context, cfg serveConfig) error {
	host, err := readHostKey(s.dir)
	if err != nil {
		return err
	}
	if err := s.settings.complete(ctx); err != nil {
		return err
	}
	links := &links{registry: s.registry, log: cfg.log}
	server, err := tunnel.NewServer(tunnel.ServerConfig{
		HostKeys: []ssh.Signer{host}, Authorizer: links, Observer: links, Initializer: links,
		Policy: func(tunnel.Peer) tunnel.Policy { return cfg.policy }, Logger: cfg.log,
	})
	if err != nil {
		return err
	}
	conductor, err := sco.NewConductor(sco.ConductorConfig{Registry: s.registry, Settings: s.settings.get, Logger: cfg.log})
	if err != nil {
		return err
	}
	sshLn, err := listenOn(ctx, cfg.ssh)
	if err != nil {
		return fmt.Errorf("-ssh: %w", err)
	}
	defer sshLn.Close()
	onboardLn, err := listenOn(ctx, cfg.onboarding)
	if err != nil {
		return fmt.Errorf("-onboarding: %w", err)
	}
	defer onboardLn.Close()
	var sshPort uint16
	if a, ok := sshLn.Addr().(*net.TCPAddr); ok {
		sshPort = uint16(a.Port)
	}
	s.settings.setSSH(sshPort, host.PublicKey())
	if err := s.registry.ResetLinks(ctx); err != nil {
		return err
	}
	warnDefaults(ctx, cfg.log, cfg.dialDefault, cfg.listenDefault)
	cfg.log.InfoContext(ctx, "listening", "port", "onboarding", "address", onboardLn.Addr().String())
	cfg.log.InfoContext(ctx, "listening", "port", "ssh", "address", sshLn.Addr().String())

	// When one of them fails the others stop as well.
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(work); err != nil && work.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("onboarding port", func(ctx context.Context) error { return conductor.Serve(ctx, onboardLn) })
	start("ssh port", func(ctx context.Context) error { return server.Serve(ctx, sshLn) })
	if len(cfg.legacy) > 0 {
		gate := &legacyGate{registry: s.registry, addresses: cfg.legacy, log: cfg.log}
		start("legacy ports", gate.run)
	}
	wg.Wait()
	if ctx.Err() != nil {
		cfg.log.Info("stopped")
		return nil
	}
	return context.Cause(work)
}

func listenOn(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}
