package sco

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Mode says how strongly a router has to prove itself. The zero value is
// [ModeDisabled].
type Mode uint8

// The modes, from the weakest to the strongest. A proof that satisfies one
// satisfies those before it.
const (
	// ModeDisabled leaves the router to the product's legacy onboarding.
	ModeDisabled Mode = iota
	// ModePSKOnly asks for the secret and no device key.
	ModePSKOnly
	// ModeWeak asks for the secret and a signature by a certificate's key; the
	// certificate's chain is not verified.
	ModeWeak
	// ModeStrong asks for the secret and a device ID certificate that chains
	// to a manufacturer's root, or a TPM with the configured endorsement key.
	ModeStrong
)

var modeNames = [...]string{"disabled", "psk-only", "weak", "strong"}

// ParseMode parses "disabled", "psk-only", "weak" or "strong".
func ParseMode(s string) (Mode, error) {
	i := slices.Index(modeNames[:], s)
	if i < 0 {
		return 0, fmt.Errorf("sco: mode is one of %s, not %.40q", strings.Join(modeNames[:], ", "), s)
	}
	return Mode(i), nil
}

// String returns the mode's name in the configuration.
func (m Mode) String() string {
	if int(m) >= len(modeNames) {
		return fmt.Sprintf("Mode(%d)", uint8(m))
	}
	return modeNames[m]
}

// MarshalText implements [encoding.TextMarshaler].
func (m Mode) MarshalText() ([]byte, error) {
	if int(m) >= len(modeNames) {
		return nil, fmt.Errorf("sco: %d is not a mode", uint8(m))
	}
	return []byte(modeNames[m]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *Mode) UnmarshalText(text []byte) error {
	v, err := ParseMode(string(text))
	if err == nil {
		*m = v
	}
	return err
}

// State says how far a node has come. It only moves forward, except that an
// operator's release, or a new SSH key proved by the bound device key (a router
// that was installed anew), begins again.
type State uint8

// The states in their order.
const (
	// StateWaiting: nothing has been proved yet.
	StateWaiting State = iota
	// StateAuthenticated: the router has proved itself and its keys are
	// pinned; it has not said yet that it stored the conductor's.
	StateAuthenticated
	// StateKeysExchanged: the router has stored the conductor's keys.
	StateKeysExchanged
	// StateConnected: the tunnel has been up at least once.
	StateConnected
	// StateInitialized: the conductor has initialized the router.
	StateInitialized
)

var stateNames = [...]string{"waiting", "authenticated", "keys-exchanged", "connected", "initialized"}

// String returns the state's name.
func (s State) String() string {
	if int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", uint8(s))
	}
	return stateNames[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) {
	if int(s) >= len(stateNames) {
		return nil, fmt.Errorf("sco: %d is not a state", uint8(s))
	}
	return []byte(stateNames[s]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(stateNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("sco: %.40q is not a state", text)
	}
	*s = State(i)
	return nil
}

// Router is a router's configuration and its nodes' states: the record that a
// [RouterStore] keeps. Shown as JSON its secret is redacted; stores use
// [EncodeRouter].
type Router struct {
	// Name is unique, 1..63 characters of [A-Za-z0-9._-].
	Name string `json:"name"`
	// InterNodeSecurity names the product's security policy between nodes.
	// It is carried, not interpreted.
	InterNodeSecurity string `json:"inter-node-security,omitempty"`
	// Mode says how strongly the router has to prove itself.
	Mode Mode `json:"mode"`
	// Secret is the pre-shared secret.
	Secret Secret `json:"pre-shared-secret"`
	// Nodes are the router's nodes, at most two.
	Nodes []Node `json:"nodes"`
}

// Node is one node of a router.
type Node struct {
	// Name is unique within the router, of the same form as a router's.
	Name string `json:"name"`
	// AssetID is unique among all routers: 1..128 printable ASCII characters
	// without blanks.
	AssetID string `json:"asset-id"`
	// Role is carried, not interpreted, such as "combo".
	Role string `json:"role"`
	// EndorsementKey is the TPM's endorsement key: base64 of the DER
	// SubjectPublicKeyInfo, RSA 2048 or P-256. Empty where there is none.
	EndorsementKey string `json:"endorsement-key,omitempty"`
	// PCRs are the SHA-256 values that the TPM's platform configuration
	// registers must have, in hexadecimal by register. When set, the router
	// has to prove them in a quote.
	PCRs map[int]string `json:"pcrs,omitempty"`
	// Status is kept by the library.
	Status Status `json:"status"`
}

// Status is what is known of a node.
type Status struct {
	State State `json:"state"`
	// Since is when State was reached.
	Since time.Time `json:"since,omitzero"`
	// Mode and Evidence are those of the last success.
	Mode     Mode         `json:"mode,omitzero"`
	Evidence EvidenceKind `json:"evidence,omitzero"`
	// Binding is the key that the asset-id is bound to.
	Binding *Binding `json:"binding,omitempty"`
	// SSHKey is the router's pinned key in the authorized_keys form.
	SSHKey string `json:"ssh-key,omitempty"`
	// TLSGroup is the key agreement of the last success.
	TLSGroup string `json:"tls-group,omitempty"`
	// LastAttempt and LastError tell of the last attempt; LastError is empty
	// after a success.
	LastAttempt time.Time `json:"last-attempt,omitzero"`
	LastError   string    `json:"last-error,omitempty"`
	// Link is the tunnel.
	Link Link `json:"link"`
}

// Binding ties an asset-id to the key that lasts.
type Binding struct {
	// Kind is "endorsement-key", "device-id" or "ssh-key".
	Kind string `json:"kind"`
	// Fingerprint is the SHA-256 of the key's DER SubjectPublicKeyInfo in
	// hexadecimal; for an SSH key, OpenSSH's "SHA256:..." form.
	Fingerprint string    `json:"fingerprint"`
	Since       time.Time `json:"since"`
}

// The kinds of a [Binding].
const (
	bindEndorsementKey = "endorsement-key"
	bindDeviceID       = "device-id"
	bindSSHKey         = "ssh-key"
)

// Link tells about a node's tunnel.
type Link struct {
	Up     bool      `json:"up"`
	Since  time.Time `json:"since,omitzero"`
	Remote string    `json:"remote,omitempty"`
	// Conductor is the conductor node that holds the tunnel.
	Conductor string `json:"conductor,omitempty"`
	// ID tells one connection from the next.
	ID string `json:"id,omitempty"`
}

// Node returns the node with the asset-id, or nil.
func (r *Router) Node(assetID string) *Node {
	for i := range r.Nodes {
		if assetID != "" && r.Nodes[i].AssetID == assetID {
			return &r.Nodes[i]
		}
	}
	return nil
}

// Clone returns a copy that shares nothing with r.
func (r *Router) Clone() *Router {
	c := *r
	c.Nodes = slices.Clone(r.Nodes)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.PCRs != nil {
			pcrs := make(map[int]string, len(n.PCRs))
			for k, v := range n.PCRs {
				pcrs[k] = v
			}
			n.PCRs = pcrs
		}
		if n.Status.Binding != nil {
			b := *n.Status.Binding
			n.Status.Binding = &b
		}
	}
	return &c
}

// validate reports everything that is wrong with the configuration. A router
// without nodes, or with nodes that lack a field, may be stored; it gets no
// token.
func (r *Router) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkName("router name", r.Name); err != nil {
		errs = append(errs, err)
	}
	if int(r.Mode) >= len(modeNames) {
		bad("%d is not a mode", uint8(r.Mode))
	}
	if len(r.InterNodeSecurity) > maxNameLen {
		bad("inter-node-security is longer than %d characters", maxNameLen)
	}
	if _, err := ParseSecret(r.Secret.value); err != nil {
		errs = append(errs, errors.New(strings.TrimPrefix(err.Error(), "sco: ")))
	}
	if len(r.Nodes) > maxNodes {
		bad("a router has at most %d nodes, this one has %d", maxNodes, len(r.Nodes))
	}
	names, assets := map[string]bool{}, map[string]bool{}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Name != "" {
			if err := checkName("node name", n.Name); err != nil {
				errs = append(errs, err)
			}
			if names[n.Name] {
				bad("two nodes are named %q", n.Name)
			}
			names[n.Name] = true
		}
		if n.AssetID != "" {
			if err := checkAssetID(n.AssetID); err != nil {
				errs = append(errs, err)
			}
			if assets[n.AssetID] {
				bad("two nodes have the asset-id %.130q", n.AssetID)
			}
			assets[n.AssetID] = true
		}
		if len(n.Role) > maxNameLen {
			bad("role is longer than %d characters", maxNameLen)
		}
		if n.EndorsementKey != "" {
			if _, err := ParseEndorsementKey(n.EndorsementKey); err != nil {
				errs = append(errs, errors.New(strings.TrimPrefix(err.Error(), "sco: ")))
			}
		}
		for pcr, v := range n.PCRs {
			if d, err := hex.DecodeString(v); pcr < 0 || pcr > maxPCR || err != nil || len(d) != sha256.Size {
				bad("pcrs: register %d with value %.70q: registers are 0..%d and values SHA-256 in hexadecimal", pcr, v, maxPCR)
			}
		}
	}
	return errors.Join(errs...)
}

func checkName(what, s string) error {
	ok := s != "" && len(s) <= maxNameLen
	for i := 0; ok && i < len(s); i++ {
		ok = isAlphanumeric(s[i]) || strings.IndexByte("._-", s[i]) >= 0
	}
	if !ok {
		return fmt.Errorf("%s is 1..%d characters of A-Z a-z 0-9 . _ -, not %.80q", what, maxNameLen, s)
	}
	return nil
}

func checkAssetID(s string) error {
	ok := s != "" && len(s) <= maxAssetIDLen
	for i := 0; ok && i < len(s); i++ {
		ok = s[i] > ' ' && s[i] < 0x7f
	}
	if !ok {
		return fmt.Errorf("asset-id is 1..%d printable ASCII characters without blanks, not %.140q", maxAssetIDLen, s)
	}
	return nil
}

// checkAddress accepts HOST:PORT with what the tunnel can connect to: an IP
// address without a zone, which has a meaning on one machine only, or a name.
func checkAddress(s string) error {
	if len(s) > maxAddressLen {
		return fmt.Errorf("address %.80q... is longer than %d characters", s, maxAddressLen)
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		switch {
		case a.Addr().Zone() != "":
			return fmt.Errorf("address %.80q has a zone: use an address that is not link-local, or a name", s)
		case a.Port() == 0:
			return fmt.Errorf("address %.80q has port 0", s)
		}
		return nil
	}
	host, port, ok := strings.Cut(s, ":")
	valid := ok && checkHost(host) && port != "" && len(port) <= 5
	n := 0
	for i := 0; valid && i < len(port); i++ {
		valid = '0' <= port[i] && port[i] <= '9'
		n = n*10 + int(port[i]-'0')
	}
	if !valid || n < 1 || n > 65535 {
		return fmt.Errorf("address %.80q is not HOST:PORT", s)
	}
	return nil
}

// checkHost accepts a name. Resolvers read one that ends in a number as an
// address in an old notation (127.1, 0x7f000001), so that is not a name.
func checkHost(host string) bool {
	if len(host) > maxHostLen {
		return false
	}
	for i := range len(host) {
		if !isAlphanumeric(host[i]) && strings.IndexByte("._-", host[i]) < 0 {
			return false
		}
	}
	last := strings.ToLower(strings.TrimSuffix(host, "."))
	last = last[strings.LastIndexByte(last, '.')+1:]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

// ParseEndorsementKey parses the configured form of an endorsement key: base64
// of a DER SubjectPublicKeyInfo with an RSA 2048 or P-256 key. White space is
// ignored.
func ParseEndorsementKey(s string) (crypto.PublicKey, error) {
	if len(s) > maxEndorsementKey {
		return nil, fmt.Errorf("sco: endorsement-key is longer than %d characters", maxEndorsementKey)
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		return nil, fmt.Errorf("sco: endorsement-key is not base64: %w", err)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("sco: endorsement-key is not a DER SubjectPublicKeyInfo: %w", err)
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() == 2048 {
			return k, nil
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, errors.New("sco: endorsement-key is neither RSA 2048 nor P-256, the keys of the TCG's default templates")
}

// spkiFingerprint is the fingerprint of a public key in a [Binding].
func spkiFingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("sco: public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// storedRouter is the stored form: the same fields, and the secret in clear.
type storedRouter struct {
	*plainRouter
	Secret string `json:"pre-shared-secret"`
}

// plainRouter drops Router's methods.
type plainRouter Router

// EncodeRouter returns the form in which a [RouterStore] keeps a router. It
// holds the secret in clear.
func EncodeRouter(r *Router) ([]byte, error) {
	b, err := json.Marshal(storedRouter{(*plainRouter)(r), r.Secret.value})
	if err != nil {
		return nil, fmt.Errorf("sco: encoding router %q: %w", r.Name, err)
	}
	if len(b) > maxStoredRouter {
		return nil, fmt.Errorf("sco: router %q has a record of %d bytes, the most is %d", r.Name, len(b), maxStoredRouter)
	}
	return b, nil
}

// DecodeRouter is the inverse of [EncodeRouter]. It rejects unknown fields,
// trailing data and routers that are not valid.
func DecodeRouter(b []byte) (*Router, error) {
	if len(b) > maxStoredRouter {
		return nil, fmt.Errorf("sco: a stored router of %d bytes, the most is %d", len(b), maxStoredRouter)
	}
	var p plainRouter
	s := storedRouter{plainRouter: &p}
	if err := strictJSON(b, &s); err != nil {
		return nil, fmt.Errorf("sco: stored router: %w", err)
	}
	r := (*Router)(&p)
	r.Secret = Secret{value: s.Secret}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("sco: stored router: %w", err)
	}
	return r, nil
}

// strictJSON decodes one JSON value and nothing after it.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	// Decoder.More would take a closing bracket for the end.
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the JSON value")
	}
	return nil
}

// parseAuthorizedKey parses a pinned key.
func parseAuthorizedKey(s string) (ssh.PublicKey, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("sco: SSH key: %w", err)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("sco: SSH key: more than one key")
	}
	return key, nil
}
