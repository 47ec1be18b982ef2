package main

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/mooringlib/mooring/sco"
)

const routerUsage = `conductor router add|list|show|set|release|remove keeps the routers.
Each of them explains itself with -h.
`

func runRouter(ctx context.Context, args []string, std stdio) error {
	return dispatch(ctx, "conductor router", routerUsage, map[string]command{
		"add":     runRouterAdd,
		"list":    runRouterList,
		"show":    runRouterShow,
		"set":     runRouterSet,
		"release": runRouterRelease,
		"remove":  runRouterRemove,
	}, args, std)
}

// withState opens the directory for one command.
func withState(ctx context.Context, dir string, f func(*state) error) error {
	s, err := open(ctx, dir, "", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}

// routerFlags are what add and set have in common.
type routerFlags struct {
	*flags
	directory, name, mode, secret, security *string
	nodes, assets, roles, keys              list
}

func newRouterFlags(name, help string, std stdio) *routerFlags {
	f := &routerFlags{flags: newFlags(name, help, std)}
	f.directory = f.dir()
	f.name = f.need("name", "the router's `NAME`")
	f.mode = f.String("mode", "", "`MODE`: disabled, psk-only, weak or strong (a new router's default: disabled)")
	f.secret = f.String("pre-shared-secret", "", "the `SECRET`, 48 characters of A-Z a-z 0-9; \"-\" reads it from standard input (default: generated)")
	f.security = f.String("inter-node-security", "", "the `NAME` of the security policy (a new router's default: internal)")
	f.Var(&f.nodes, "node", "a node's `NAME`; repeat it with its -asset-id for a second node")
	f.Var(&f.assets, "asset-id", "the node's asset-`ID`")
	f.Var(&f.roles, "role", "the node's `ROLE` (default: combo)")
	f.Var(&f.keys, "endorsement-key", "the node's TPM endorsement key: `BASE64_OR_FILE`, base64 of the DER public key, or a file with that, with DER or with PEM")
	return f
}

// checkLists refuses what can't be paired: the second -asset-id belongs to the
// second -node, and so on.
func (f *routerFlags) checkLists() error {
	for name, l := range map[string]list{"asset-id": f.assets, "role": f.roles, "endorsement-key": f.keys} {
		if len(l) > max(len(f.nodes), 1) {
			return wrongUsage(f.Name(), "there are more -%s than -node", name)
		}
	}
	return nil
}

// apply changes what stands on the command line.
func (f *routerFlags) apply(r *sco.Router, secret sco.Secret) error {
	if f.given("mode") {
		mode, err := sco.ParseMode(*f.mode)
		if err != nil {
			return err
		}
		r.Mode = mode
	}
	if f.given("pre-shared-secret") {
		r.Secret = secret
	}
	if f.given("inter-node-security") {
		r.InterNodeSecurity = *f.security
	}
	return nil
}

// applyNode changes the i-th named node.
func (f *routerFlags) applyNode(n *sco.Node, i int) error {
	if i < len(f.assets) {
		n.AssetID = f.assets[i]
	}
	if i < len(f.roles) {
		n.Role = f.roles[i]
	}
	if i < len(f.keys) {
		key, err := readEndorsementKey(f.keys[i])
		if err != nil {
			return err
		}
		n.EndorsementKey = key
	}
	return nil
}

func (f *routerFlags) readSecret(std stdio) (sco.Secret, error) {
	text := *f.secret
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(std.in, 1024))
		if err != nil {
			return sco.Secret{}, fmt.Errorf("reading the secret: %w", err)
		}
		text = strings.TrimSpace(string(b))
	}
	// Left empty, the registry generates one.
	if text == "" {
		return sco.Secret{}, nil
	}
	return sco.ParseSecret(text)
}

// readEndorsementKey takes the key itself, or the name of a file that holds it
// in any of the forms in which tpm2-tools write it.
func readEndorsementKey(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	text := strings.TrimSpace(s)
	if _, err := sco.ParseEndorsementKey(text); err == nil {
		return text, nil
	} else if _, serr := os.Stat(s); serr != nil {
		return "", fmt.Errorf("-endorsement-key is neither a file nor a key: %w", err)
	}
	b, err := readFile(s)
	if err != nil {
		return "", fmt.Errorf("-endorsement-key: %w", err)
	}
	text = strings.Join(strings.Fields(string(b)), "")
	if block, _ := pem.Decode(b); block != nil {
		text = base64.StdEncoding.EncodeToString(block.Bytes)
	} else if _, err := x509.ParsePKIXPublicKey(b); err == nil {
		text = base64.StdEncoding.EncodeToString(b)
	}
	if _, err := sco.ParseEndorsementKey(text); err != nil {
		return "", fmt.Errorf("-endorsement-key: file %q: %w", s, err)
	}
	return text, nil
}

func runRouterAdd(ctx context.Context, args []string, std stdio) error {
	f := newRouterFlags("router add", `router add -dir DIR -name N -mode MODE -node NAME -asset-id ID [flags]

Adds a router. For a router of two nodes give -node and -asset-id twice.`, std)
	if err := f.parse(args); err != nil {
		return err
	}
	if len(f.nodes) == 0 || len(f.assets) != len(f.nodes) {
		return wrongUsage("router add", "give a -node and an -asset-id for each node; see \"conductor router add -h\"")
	}
	if err := f.checkLists(); err != nil {
		return err
	}
	secret, err := f.readSecret(std)
	if err != nil {
		return err
	}
	return withState(ctx, *f.directory, func(s *state) error {
		return s.registry.Configure(ctx, *f.name, func(r *sco.Router, exists bool) error {
			if exists {
				return errors.New("it exists already; change it with \"conductor router set\"")
			}
			r.InterNodeSecurity = "internal"
			if err := f.apply(r, secret); err != nil {
				return err
			}
			r.Nodes = nil
			for i, name := range f.nodes {
				if name == "" || f.assets[i] == "" {
					return errors.New("a node needs a name and an asset-id")
				}
				n := sco.Node{Name: name, Role: "combo"}
				if err := f.applyNode(&n, i); err != nil {
					return err
				}
				r.Nodes = append(r.Nodes, n)
			}
			return nil
		})
	})
}

func runRouterSet(ctx context.Context, args []string, std stdio) error {
	f := newRouterFlags("router set", `router set -dir DIR -name N [-mode M] [-pre-shared-secret S] [-inter-node-security P]
                  [-node NAME [-asset-id ID] [-role R] [-endorsement-key K]]

Changes a router. What is not given stays. -node may be left out when the router
has one node; a -node that is not there yet is added and needs an -asset-id. An
empty -pre-shared-secret or -endorsement-key generates a new secret, or clears
the key. A new secret makes the router's tokens invalid.`, std)
	if err := f.parse(args); err != nil {
		return err
	}
	if err := f.checkLists(); err != nil {
		return err
	}
	secret, err := f.readSecret(std)
	if err != nil {
		return err
	}
	return withState(ctx, *f.directory, func(s *state) error {
		return s.registry.Configure(ctx, *f.name, func(r *sco.Router, exists bool) error {
			if !exists {
				return fmt.Errorf("%w; add it with \"conductor router add\"", sco.ErrNotFound)
			}
			if err := f.apply(r, secret); err != nil {
				return err
			}
			return f.setNodes(r)
		})
	})
}

func (f *routerFlags) setNodes(r *sco.Router) error {
	names := f.nodes
	if len(names) == 0 {
		if len(f.assets)+len(f.roles)+len(f.keys) == 0 {
			return nil
		}
		if len(r.Nodes) != 1 {
			return fmt.Errorf("the router has %d nodes; say which with -node", len(r.Nodes))
		}
		names = list{r.Nodes[0].Name}
	}
	for i, name := range names {
		at := -1
		for j := range r.Nodes {
			if r.Nodes[j].Name == name {
				at = j
			}
		}
		if at < 0 {
			if i >= len(f.assets) {
				return fmt.Errorf("there is no node %.80q; to add it give its -asset-id", name)
			}
			r.Nodes = append(r.Nodes, sco.Node{Name: name, Role: "combo"})
			at = len(r.Nodes) - 1
		}
		if err := f.applyNode(&r.Nodes[at], i); err != nil {
			return err
		}
	}
	return nil
}

func runRouterList(ctx context.Context, args []string, std stdio) error {
	f := newFlags("router list", "router list -dir DIR [-json]\n\nLists the routers and the state of their nodes.", std)
	dir := f.dir()
	asJSON := f.Bool("json", false, "print a JSON array")
	if err := f.parse(args); err != nil {
		return err
	}
	return withState(ctx, *dir, func(s *state) error {
		all := []*sco.Router{}
		if err := s.registry.List(ctx, func(r *sco.Router) bool { all = append(all, r); return true }); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(std.out, all)
		}
		w := tabwriter.NewWriter(std.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ROUTER\tMODE\tNODE\tASSET-ID\tSTATE\tTUNNEL\tLAST ERROR")
		for _, r := range all {
			for _, n := range r.Nodes {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Mode, n.Name, n.AssetID, n.Status.State, upOrDown(n.Status.Link.Up), n.Status.LastError)
			}
			if len(r.Nodes) == 0 {
				fmt.Fprintf(w, "%s\t%s\n", r.Name, r.Mode)
			}
		}
		return w.Flush()
	})
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func runRouterShow(ctx context.Context, args []string, std stdio) error {
	f := newFlags("router show", "router show -dir DIR -name N [-json]\n\nShows a router, without its secret.", std)
	dir := f.dir()
	name := f.need("name", "the router's `NAME`")
	asJSON := f.Bool("json", false, "print a JSON object")
	if err := f.parse(args); err != nil {
		return err
	}
	return withState(ctx, *dir, func(s *state) error {
		r, err := s.registry.Get(ctx, *name)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(std.out, r)
		}
		w := tabwriter.NewWriter(std.out, 0, 8, 2, ' ', 0)
		row := func(k string, v any) {
			if text := fmt.Sprint(v); text != "" {
				fmt.Fprintf(w, "%s\t%s\n", k, text)
			}
		}
		row("router", r.Name)
		row("mode", r.Mode)
		row("inter-node-security", r.InterNodeSecurity)
		for _, n := range r.Nodes {
			st := n.Status
			row("node", n.Name)
			row("  asset-id", n.AssetID)
			row("  role", n.Role)
			row("  endorsement-key", n.EndorsementKey)
			row("  state", st.State)
			if !st.Since.IsZero() {
				row("  since", st.Since.Format("2006-01-02 15:04:05 MST"))
			}
			if st.Binding != nil {
				row("  onboarded with", st.Evidence)
				row("  bound to", st.Binding.Kind+" "+st.Binding.Fingerprint)
				row("  key agreement", st.TLSGroup)
			}
			row("  ssh key", st.SSHKey)
			row("  tunnel", upOrDown(st.Link.Up))
			row("  connected from", st.Link.Remote)
			if !st.LastAttempt.IsZero() {
				row("  last attempt", st.LastAttempt.Format("2006-01-02 15:04:05 MST"))
			}
			row("  last error", st.LastError)
		}
		return w.Flush()
	})
}

func runRouterRelease(ctx context.Context, args []string, std stdio) error {
	f := newFlags("router release", `router release -dir DIR -name N -asset-id ID

Releases an asset-id from the key that it is bound to, so that a replacement can
be onboarded (RMA). The node's SSH key is no longer accepted.`, std)
	dir := f.dir()
	name := f.need("name", "the router's `NAME`")
	asset := f.need("asset-id", "the asset-`ID` to release")
	if err := f.parse(args); err != nil {
		return err
	}
	return withState(ctx, *dir, func(s *state) error { return s.registry.Release(ctx, *name, *asset) })
}

func runRouterRemove(ctx context.Context, args []string, std stdio) error {
	f := newFlags("router remove", `router remove -dir DIR -name N

Removes a router. Its tokens and its SSH keys are no longer accepted.`, std)
	dir := f.dir()
	name := f.need("name", "the router's `NAME`")
	if err := f.parse(args); err != nil {
		return err
	}
	return withState(ctx, *dir, func(s *state) error { return s.registry.Remove(ctx, *name) })
}
