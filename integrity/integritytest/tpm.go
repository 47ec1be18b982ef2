package integritytest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mooringlib/mooring/integrity/cause"
)

// TPM is a TPM in pure Go: two seeds, registers, a counter, and the anchor. It
// is safe for concurrent use.
type TPM struct {
	mu          sync.Mutex
	owner       [32]byte
	endorsement [32]byte
	pcrs        [24][32]byte
	counter     uint64
	anchor      *[32]byte
	fail        error
	commands    int
}

// NewTPM returns a TPM that nobody has used.
func NewTPM() *TPM {
	t := new(TPM)
	_, _ = rand.Read(t.owner[:])
	_, _ = rand.Read(t.endorsement[:])
	return t
}

// Clear does what TPM2_Clear does.
func (t *TPM) Clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = rand.Read(t.owner[:])
	t.anchor = nil
}

// Reset restarts the machine: the registers begin anew.
func (t *TPM) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.pcrs[:])
}

// Extend extends a register.
func (t *TPM) Extend(pcr uint, data string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.extend(pcr, data)
}

func (t *TPM) extend(pcr uint, data string) {
	t.pcrs[pcr] = sha256.Sum256(append(t.pcrs[pcr][:], data...))
}

// PCR returns the value of a register.
func (t *TPM) PCR(pcr uint) [32]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pcrs[pcr]
}

// Revoke brings the counter up to number.
func (t *TPM) Revoke(number uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counter = max(t.counter, number)
}

// Fail makes every later command fail with err, which may carry a code of
// package cause; nil ends that.
func (t *TPM) Fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail = err
}

// Commands returns how many operations there were.
func (t *TPM) Commands() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.commands
}

// Signed stands for a signed policy.
type Signed struct {
	// Number is compared with the counter.
	Number uint64
	// PCRs are the allowed values.
	PCRs map[uint][32]byte
	// Forged is whether the signature is not the vendor's.
	Forged bool
}

// Wrapper is an integrity.KeyWrapper, with all optional powers, on a TPM.
type Wrapper struct {
	TPM *TPM
	// PCRs make the policy a literal one.
	PCRs []uint
	// Policy makes it a signed one.
	Policy func() (Signed, error)
}

const capText = "cap"

type wrapped struct {
	Owner, Endorsement [32]byte
	PCRs               map[uint][32]byte
	Signed             bool
	Nonce, Sealed      []byte
}

func (w *Wrapper) begin(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.TPM.mu.Lock()
	w.TPM.commands++
	if w.TPM.fail != nil {
		defer w.TPM.mu.Unlock()
		return nil, w.TPM.fail
	}
	return w.TPM.mu.Unlock, nil
}

func (w *Wrapper) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(w.TPM.owner[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// GenerateKey implements integrity.KeySource.
func (w *Wrapper) GenerateKey(ctx context.Context, key []byte) error {
	end, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	_, err = rand.Read(key)
	return err
}

// Wrap implements integrity.KeyWrapper.
func (w *Wrapper) Wrap(ctx context.Context, key, binding []byte) ([]byte, error) {
	end, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if len(key) != 32 || len(binding) != 32 {
		return nil, errors.New("integritytest: key and binding have 32 bytes each")
	}
	aead, err := w.aead()
	if err != nil {
		return nil, err
	}
	out := wrapped{Owner: sha256.Sum256(w.TPM.owner[:]), Endorsement: sha256.Sum256(w.TPM.endorsement[:]), Signed: w.Policy != nil, Nonce: make([]byte, aead.NonceSize())}
	if w.Policy == nil && len(w.PCRs) > 0 {
		out.PCRs = make(map[uint][32]byte)
		for _, p := range w.PCRs {
			out.PCRs[p] = w.TPM.pcrs[p]
		}
	}
	_, _ = rand.Read(out.Nonce)
	out.Sealed = aead.Seal(nil, out.Nonce, slices.Concat(key, binding), nil)
	return json.Marshal(out)
}

// Unwrap implements integrity.KeyWrapper.
func (w *Wrapper) Unwrap(ctx context.Context, data, binding, key []byte) (bool, error) {
	end, err := w.begin(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	if len(key) != 32 || len(binding) != 32 {
		return false, errors.New("integritytest: key and binding have 32 bytes each")
	}
	var in wrapped
	if err := json.Unmarshal(data, &in); err != nil {
		return false, cause.New(cause.RecordCorrupt, err)
	}
	if in.Owner != sha256.Sum256(w.TPM.owner[:]) {
		if in.Endorsement == sha256.Sum256(w.TPM.endorsement[:]) {
			return false, cause.New(cause.TPMCleared, nil)
		}
		return false, cause.New(cause.ForeignTPM, nil)
	}
	if in.Signed != (w.Policy != nil) || (in.PCRs != nil) != (w.Policy == nil && len(w.PCRs) > 0) {
		return false, cause.New(cause.RecordCorrupt, errors.New("integritytest: other kind of policy"))
	}
	vouched := w.TPM.anchor != nil
	if vouched && string(w.TPM.anchor[:]) != string(binding) {
		return false, cause.New(cause.ManifestForged, nil)
	}
	if err := w.satisfied(in); err != nil {
		return false, err
	}
	aead, err := w.aead()
	if err != nil {
		return false, err
	}
	if len(in.Nonce) != aead.NonceSize() {
		return false, cause.New(cause.RecordCorrupt, errors.New("integritytest: nonce"))
	}
	plain, err := aead.Open(nil, in.Nonce, in.Sealed, nil)
	if err != nil || len(plain) != 64 {
		return false, cause.New(cause.RecordCorrupt, err)
	}
	if string(plain[32:]) != string(binding) {
		return false, cause.New(cause.ManifestForged, nil)
	}
	copy(key, plain)
	return vouched, nil
}

func (w *Wrapper) satisfied(in wrapped) error {
	want := in.PCRs
	if w.Policy != nil {
		p, err := w.Policy()
		switch {
		case err != nil:
			return cause.New(cause.PolicyMissing, err)
		case p.Forged:
			return cause.New(cause.PolicyInvalid, nil)
		case p.Number < w.TPM.counter:
			return cause.New(cause.PolicyRolledBack, nil)
		}
		want = p.PCRs
	}
	var differ []uint
	for pcr, value := range want {
		if w.TPM.pcrs[pcr] != value {
			differ = append(differ, pcr)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	if len(differ) == 1 && w.TPM.pcrs[differ[0]] == sha256.Sum256(fmt.Appendf(nil, "%s%s", value(want, differ[0]), capText)) {
		return cause.New(cause.Capped, nil)
	}
	out := cause.New(cause.PCRChanged, nil)
	out.PCRs = differ
	return out
}

func value(m map[uint][32]byte, pcr uint) []byte {
	v := m[pcr]
	return v[:]
}

// Commit implements integrity.Anchor.
func (w *Wrapper) Commit(ctx context.Context, binding [32]byte) error {
	end, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if w.TPM.anchor != nil && *w.TPM.anchor != binding {
		return cause.New(cause.ManifestForged, nil)
	}
	w.TPM.anchor = &binding
	return nil
}

// Committed implements integrity.Anchor.
func (w *Wrapper) Committed(ctx context.Context) ([32]byte, bool, error) {
	end, err := w.begin(ctx)
	if err != nil {
		return [32]byte{}, false, err
	}
	defer end()
	if w.TPM.anchor == nil {
		return [32]byte{}, false, nil
	}
	return *w.TPM.anchor, true, nil
}

// Cap implements integrity.Capper: it extends the highest register of the
// policy.
func (w *Wrapper) Cap(ctx context.Context) error {
	pcrs := slices.Clone(w.PCRs)
	if w.Policy != nil {
		p, err := w.Policy()
		if err != nil {
			return err
		}
		for pcr := range p.PCRs {
			pcrs = append(pcrs, pcr)
		}
	}
	end, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if len(pcrs) > 0 {
		w.TPM.extend(slices.Max(pcrs), capText)
	}
	return nil
}

// Check implements integrity.Checker.
func (w *Wrapper) Check(ctx context.Context) []error {
	end, err := w.begin(ctx)
	if err != nil {
		return []error{err}
	}
	end()
	return nil
}

// Describe implements integrity.Checker.
func (w *Wrapper) Describe(ctx context.Context) (string, error) {
	end, err := w.begin(ctx)
	if err != nil {
		return "", err
	}
	end()
	return "FAKE, firmware 1.0, TPM 2.0", nil
}

// ForgetAnchor deletes the anchor, as the owner of a TPM can.
func (t *TPM) ForgetAnchor() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.anchor = nil
}
