package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mooringlib/mooring/autoinstall/directory"
)

func runPublish(ctx context.Context, args []string, stdout io.Writer) error {
	flags := newFlags("publish", stdout)
	url := flags.String("url", "", "`URL` of the directory, https://HOST:PORT (required)")
	token := flags.String("token", "", "`token` of manufacturing, as init printed it (required)")
	serial := flags.String("serial", "", "`serial number` of the device (required)")
	cert := flags.String("cert", "", "`file` with the device's certificate, PEM or DER")
	key := flags.String("public-key", "", "`file` with the device's public key, PEM or DER")
	ca := flags.String("ca", "", "PEM `file` with the directory's CA (default: known by the token)")
	replace := flags.String("replace", "", "`SHA-256` of the published certificate that is to be replaced")
	reason := flags.String("reason", "", "why it is replaced, for the audit record")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	switch {
	case *url == "" || *token == "" || *serial == "":
		return usagef("-url, -token and -serial are required")
	case (*cert == "") == (*key == ""):
		return usagef("give either -cert or -public-key")
	case (*replace == "") != (*reason == ""):
		return usagef("-replace and -reason go together")
	}
	cfg := directory.ClientConfig{URL: *url}
	var err error
	if cfg.Token, err = directory.ParseToken(*token); err != nil {
		return err
	}
	if *ca != "" {
		if cfg.Roots, err = readRoots(*ca); err != nil {
			return err
		}
	}
	// openssl prints fingerprints in capitals with colons.
	*replace = strings.ToLower(strings.ReplaceAll(*replace, ":", ""))
	client, err := directory.NewClient(cfg)
	if err != nil {
		return err
	}
	body, err := readBody(*cert + *key)
	if err != nil {
		return err
	}
	now, published, err := client.Publish(ctx, directory.Publication{Serial: *serial, Body: body, Replaces: *replace, Reason: *reason})
	if errors.Is(err, directory.ErrPublished) {
		return fmt.Errorf("%w; if it has to change, give -replace with the SHA-256 of what is published, and -reason", err)
	}
	if err != nil {
		return err
	}
	fingerprint := fmt.Sprintf("%x", sha256.Sum256(now.Raw))
	state := "published"
	if !published {
		state = "unchanged"
	}
	if *asJSON {
		return json.NewEncoder(stdout).Encode(map[string]any{
			"serial": *serial, "published": published, "certificate_sha256": fingerprint,
			"key_sha256": fmt.Sprintf("%x", sha256.Sum256(now.RawSubjectPublicKeyInfo)),
		})
	}
	_, err = fmt.Fprintf(stdout, "%s: %s\ncertificate SHA-256: %s\n", state, *serial, fingerprint)
	return err
}

func readBody(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, directory.MaxBody+1))
	if err != nil {
		return nil, err
	}
	if len(b) > directory.MaxBody {
		return nil, fmt.Errorf("%q is larger than %d bytes", path, directory.MaxBody)
	}
	return b, nil
}
