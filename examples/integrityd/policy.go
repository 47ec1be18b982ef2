package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/mooringlib/mooring/integrity/pcrpolicy"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/durable"
)

func policy(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	commands := map[string]command{"make": policyMake, "sign": policySign, "install": policyInstall, "rewrap": policyRewrap}
	return dispatch(ctx, "integrityd policy", commands, args, stdout, stderr)
}

func policyMake(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := flags("policy make")
	path := configFlag(fs)
	reference := fs.String("reference", "", "the product line that the policy is `FOR`")
	pcrs := fs.String("pcrs", "0,2,4,7,12", "the PCRs, as a `LIST` of numbers")
	bank := fs.String("bank", string(pcrpolicy.SHA256), "the PCR `BANK`: sha256 or sha384")
	number := fs.Uint64("number", pcrpolicy.FirstNumber, "the `NUMBER` that revoking compares; begin at 16, and let it grow")
	add := fs.String("add", "", "an existing policy `FILE` whose boot states stay allowed beside")
	out := fs.String("out", "", "the policy `FILE` to write")
	if err := parse(fs, args, stdout, "config", "reference", "out"); err != nil {
		return err
	}
	c, err := readConfig(*path)
	if err != nil {
		return err
	}
	indexes, err := parsePCRs(*pcrs)
	if err != nil {
		return err
	}
	holder := c.holder()
	defer holder.close()
	tpm, err := holder.open(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach the TPM %q: %w", c.TPM, err)
	}
	defer tpm.Close()
	state, err := tpmwrap.State(ctx, tpm, pcrpolicy.Bank(*bank), indexes)
	if err != nil {
		return err
	}
	state.Number = *number
	doc, err := pcrpolicy.Make(*reference, c.Policy.CounterIndex, state)
	if err != nil {
		return err
	}
	if *add != "" {
		old, err := readPolicy(*add)
		if err != nil {
			return err
		}
		if old.Reference != doc.Reference {
			return fmt.Errorf("%q is a policy for %q, not for %q", *add, old.Reference, doc.Reference)
		}
		if old.CounterIndex != doc.CounterIndex {
			return fmt.Errorf(`%q is a policy with the counter %#x, the configuration has "counter_index" %#x`, *add, old.CounterIndex, doc.CounterIndex)
		}
		doc.Alternatives = append(doc.Alternatives, old.Alternatives...)
	}
	return writePolicy(*out, doc, stdout, "made, not signed yet")
}

func readPolicy(path string) (*pcrpolicy.Document, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, err
	}
	doc, err := pcrpolicy.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return doc, nil
}

func writePolicy(path string, doc *pcrpolicy.Document, stdout io.Writer, what string) error {
	data, err := doc.Marshal()
	if err != nil {
		return err
	}
	var w durable.Writer
	if err := w.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s, %d boot states, for %q\n", path, what, len(doc.Alternatives), doc.Reference)
	return nil
}

func policySign(_ context.Context, args []string, stdout, _ io.Writer) error {
	fs := flags("policy sign")
	in := fs.String("in", "", "the policy `FILE` to sign")
	key := fs.String("key", "", "the vendor's private key, a PEM `FILE` with an RSA-2048 or P-256 key")
	out := fs.String("out", "", "the signed policy `FILE`; without it the file of -in is replaced")
	if err := parse(fs, args, stdout, "in", "key"); err != nil {
		return err
	}
	doc, err := readPolicy(*in)
	if err != nil {
		return err
	}
	signer, err := readPrivateKey(*key)
	if err != nil {
		return err
	}
	if err := doc.Sign(signer); err != nil {
		return err
	}
	if *out == "" {
		*out = *in
	}
	return writePolicy(*out, doc, stdout, "signed")
}

func readPrivateKey(path string) (crypto.Signer, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, fmt.Errorf("%q is not a PEM file with an unencrypted private key", path)
		}
		var key any
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("%q: %w", path, pcrpolicy.ErrKey)
	}
}

func policyInstall(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("policy install")
	path := configFlag(fs)
	in := fs.String("in", "", "the signed policy `FILE`")
	if err := parse(fs, args, stdout, "config", "in"); err != nil {
		return err
	}
	s, err := open(*path, stderr, false)
	if err != nil {
		return err
	}
	defer s.close()
	if s.config.Policy.Type != "signed" {
		return errors.New(`the configuration has no signed policy; its "policy" would say type signed`)
	}
	data, err := readLimited(*in)
	if err != nil {
		return err
	}
	if err := s.wrapper.InstallPolicy(ctx, s.config.Policy.File, data); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: checked and in place\n", s.config.Policy.File)
	return nil
}

func policyRewrap(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("policy rewrap")
	path := configFlag(fs)
	to := fs.String("to", "", "the configuration `FILE` whose tpm, wrapper, parent and policy the key is wrapped for; put it in place of the other afterwards")
	if err := parse(fs, args, stdout, "config", "to"); err != nil {
		return err
	}
	s, err := open(*path, stderr, false)
	if err != nil {
		return err
	}
	defer s.close()
	next, err := readConfig(*to)
	if err != nil {
		return err
	}
	if next.StateDir != s.config.StateDir {
		return fmt.Errorf(`"state_dir" of %q is another one`, *to)
	}
	holder := s.tpm
	if next.TPM != s.config.TPM {
		holder = next.holder()
		defer holder.close()
	}
	w, err := next.wrapper(holder)
	if err != nil {
		return err
	}
	if err := s.handler.Rewrap(ctx, w); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "wrapped anew and proved; use the configuration %s from now on\n", *to)
	return nil
}
