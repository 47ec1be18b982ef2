package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/sco"
)

// maxInput bounds the files that bring a token.
const maxInput = 256 << 10

func runOnboard(ctx context.Context, args []string, std stdio) error {
	f := newFlags("onboard", `onboard -dir DIR -token FILE|- [-conductor HOST:PORT ...] -asset-id ID
               [-tpm TPM | -devid-cert F -devid-key F]
       router onboard -dir DIR -onboarding-config FILE [...]

Makes this router known to its conductor, and the conductor to it. It may be run
again at any time. Without a TPM and without a device ID the router shows a
self-signed certificate, which is enough for the modes psk-only and weak.`, std)
	dir := f.need("dir", "the router's `DIR`, made when it is not there")
	tokenFile := f.String("token", "", "`FILE` with the token, or - for standard input")
	configFile := f.String("onboarding-config", "", "onboarding-config.json `FILE` with token, conductor-addresses and asset-id")
	var conductors list
	f.Var(&conductors, "conductor", "`HOST:PORT` of the conductor's onboarding port; repeat it for more (default: those in the token)")
	asset := f.String("asset-id", "", "this node's asset-`ID` (default: that of the onboarding-config, or the token's only one)")
	var dev deviceFlags
	dev.declare(f)
	if err := f.parse(args); err != nil {
		return err
	}
	if (*tokenFile == "") == (*configFile == "") {
		return wrongUsage("onboard", "give either -token or -onboarding-config; see \"router onboard -h\"")
	}
	if err := dev.check(); err != nil {
		return wrongUsage("onboard", "%s", err)
	}
	cfg, err := readOnboarding(*tokenFile, *configFile, std.in)
	if err != nil {
		return err
	}
	if len(conductors) > 0 {
		cfg.Addresses = conductors
	}
	if *asset != "" {
		cfg.AssetID = *asset
	}
	signer, closeSigner, err := dev.open()
	if err != nil {
		return err
	}
	defer closeSigner()
	unlock, err := lockOnboarding(ctx, *dir)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := sco.Onboard(ctx, sco.OnboardConfig{
		Dir: *dir, Token: cfg.Token, Addresses: cfg.Addresses, AssetID: cfg.AssetID, Signer: signer,
		Logger: slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return fmt.Errorf("onboarding failed: %w", err)
	}
	fmt.Fprintf(std.out, "onboarded: router %s, node %s, asset-id %s; now \"router run -dir %s\"\n", e.Router, e.Node, e.AssetID, *dir)
	return nil
}

// lockOnboarding keeps a second "router onboard" out of dir: each would have a key
// of its own shown to the conductor. A directory that was made for this goes away
// again when nothing has come into it.
func lockOnboarding(ctx context.Context, dir string) (unlock func(), err error) {
	made := false
	release, err := lockPatiently(ctx, func() (func(), error) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			if err := (durable.Writer{}).MkdirAll(dir, 0o700); err != nil {
				return nil, err
			}
			made = true
		}
		release, err := lockDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = errLocked // Another one has just taken it away again.
		}
		return release, err
	})
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("another \"router onboard\" works in %q; try again when it is done", dir)
	}
	if err != nil {
		return nil, err
	}
	return func() {
		if made {
			// It fails where there is something to keep.
			_ = os.Remove(dir)
		}
		release()
	}, nil
}

// readOnboarding reads what brings the token.
func readOnboarding(tokenFile, configFile string, stdin io.Reader) (*sco.OnboardingConfig, error) {
	if configFile != "" {
		b, err := readInput(configFile, stdin)
		if err != nil {
			return nil, fmt.Errorf("-onboarding-config: %w", err)
		}
		return sco.ParseOnboardingConfig(b)
	}
	b, err := readInput(tokenFile, stdin)
	if err != nil {
		return nil, fmt.Errorf("-token: %w", err)
	}
	t, err := sco.ParseToken(string(b))
	if err != nil {
		return nil, fmt.Errorf("-token: %w", err)
	}
	return &sco.OnboardingConfig{Token: t}, nil
}

func readInput(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		r = file
	}
	b, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err == nil && len(b) > maxInput {
		err = fmt.Errorf("more than %d bytes", maxInput)
	}
	if err == nil && len(b) == 0 {
		err = errors.New("nothing to read")
	}
	return b, err
}
