package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// initializeChannel is the channel type by which a conductor hands a router its
// configuration. PROTOCOL.md describes it.
const initializeChannel = "initialize@mooringlib"

// initializeVersion is the one version of the exchange.
const initializeVersion = 1

// Result is what a router did with its configuration.
type Result uint8

// The results of [Applier.Apply], and what [Initializer.Initialized] is told.
const (
	// Applied means that the configuration is in force.
	Applied Result = iota + 1
	// RebootNeeded means that it is stored and takes a reboot, which the router
	// does now. When the router is back, the conductor delivers it again.
	RebootNeeded
	// Failed means that the router could not apply it.
	Failed
)

// String returns "applied", "reboot needed" or "failed".
func (r Result) String() string {
	switch r {
	case Applied:
		return "applied"
	case RebootNeeded:
		return "reboot needed"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("Result(%d)", uint8(r))
}

// Initializer is the conductor's part of initializing routers. Methods are
// called concurrently for different connections and honour ctx.
type Initializer interface {
	// Configuration returns what the router is to apply, at most 16 MiB that
	// the server does not change. No bytes at all mean that there is nothing to
	// apply. It is called for each connection, also for a router that has been
	// initialized before; return the same bytes for it, or none.
	Configuration(ctx context.Context, p Peer) ([]byte, error)
	// Initialized is told what the router answered. problem is the router's
	// text for [Failed]. An error is logged, and the exchange is repeated later.
	Initialized(ctx context.Context, p Peer, r Result, problem string) error
}

// Applier is the router's part.
type Applier interface {
	// Apply puts the configuration in force: [Applied], or [RebootNeeded] after
	// it has been stored durably. It may be called again with the same bytes,
	// after a lost answer or a reboot, and then returns Applied without doing
	// anything twice. The conductor is told the text of an error, so it must not
	// hold secrets. Calls of one client do not overlap. Apply owns config.
	Apply(ctx context.Context, config []byte) (Result, error)
}

// initializeOpen is the channel's opening data: what follows on the channel.
type initializeOpen struct {
	Version uint32
	Size    uint64
	Digest  []byte // SHA-256
}

// initializeAnswer is all that the router sends on the channel.
type initializeAnswer struct {
	Result byte
	Text   string
}

func decodeInitializeOpen(b []byte) (initializeOpen, error) {
	var m initializeOpen
	if err := ssh.Unmarshal(b, &m); err != nil {
		return m, errors.New("malformed initialization")
	}
	if m.Version != initializeVersion {
		return m, fmt.Errorf("initialization version %d is not supported", m.Version)
	}
	if m.Size == 0 || m.Size > maxConfigSize {
		return m, fmt.Errorf("a configuration of %d bytes is outside the limits", m.Size)
	}
	if len(m.Digest) != sha256.Size {
		return m, errors.New("malformed initialization digest")
	}
	return m, nil
}

func decodeInitializeAnswer(b []byte) (initializeAnswer, error) {
	var m initializeAnswer
	if err := ssh.Unmarshal(b, &m); err != nil {
		return m, errors.New("malformed answer")
	}
	if r := Result(m.Result); r < Applied || r > Failed {
		return m, fmt.Errorf("answer %d is not known", m.Result)
	}
	if len(m.Text) > maxAnswerText {
		return m, errors.New("answer is too long")
	}
	return m, nil
}

// errNotRouter says that the other side is SSH, but does not know how to be
// initialized, as stock OpenSSH.
var errNotRouter = errors.New("tunnel: other side can't be initialized")

// deliver is the conductor's half of the exchange.
func (l *link) deliver(ctx context.Context, config []byte) (initializeAnswer, error) {
	if len(config) > maxConfigSize {
		return initializeAnswer{}, fmt.Errorf("tunnel: a configuration of %d bytes is over the limit of %d", len(config), maxConfigSize)
	}
	sum := sha256.Sum256(config)
	ch, reqs, err := l.openChannel(ctx, initializeChannel,
		ssh.Marshal(initializeOpen{Version: initializeVersion, Size: uint64(len(config)), Digest: sum[:]}))
	if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok && open.Reason == ssh.UnknownChannelType {
		return initializeAnswer{}, errNotRouter
	}
	if err != nil {
		return initializeAnswer{}, err
	}
	defer l.release()
	if !l.do(func() { ssh.DiscardRequests(reqs) }) {
		_ = ch.Close()
		return initializeAnswer{}, ErrNotConnected
	}
	defer ch.Close()
	// Closing the channel would not end a read that the other side leaves
	// waiting, hence the whole connection.
	defer context.AfterFunc(ctx, func() { l.close(errInitializeTimeout) })()
	if _, err := io.Copy(ch, bytes.NewReader(config)); err != nil {
		return initializeAnswer{}, fmt.Errorf("tunnel: delivering the configuration: %w", err)
	}
	if err := ch.CloseWrite(); err != nil {
		return initializeAnswer{}, fmt.Errorf("tunnel: delivering the configuration: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(ch, maxAnswerText+64))
	if err != nil {
		return initializeAnswer{}, fmt.Errorf("tunnel: reading the router's answer: %w", err)
	}
	if ctx.Err() != nil {
		return initializeAnswer{}, ctx.Err()
	}
	if len(b) == 0 {
		return initializeAnswer{}, errors.New("tunnel: router went away before it answered")
	}
	m, err := decodeInitializeAnswer(b)
	if err != nil {
		return m, fmt.Errorf("tunnel: reading the router's answer: %w", err)
	}
	return m, nil
}

// receive is the router's half. It reports whether the router has to reboot.
func receive(ctx context.Context, nc ssh.NewChannel, a Applier) (reboot bool, err error) {
	open, err := decodeInitializeOpen(nc.ExtraData())
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		return false, err
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return false, err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ssh.DiscardRequests(reqs)
	}()
	defer ch.Close()

	// The buffer grows with what arrives, so that a size that is only promised
	// costs nothing.
	config, err := io.ReadAll(io.LimitReader(ch, int64(open.Size)+1))
	if err != nil {
		return false, fmt.Errorf("tunnel: reading the configuration: %w", err)
	}
	sum := sha256.Sum256(config)
	answer := initializeAnswer{}
	var applyErr error
	if uint64(len(config)) != open.Size || subtle.ConstantTimeCompare(sum[:], open.Digest) != 1 {
		applyErr = errors.New("configuration arrived incomplete")
	} else {
		var r Result
		r, applyErr = a.Apply(ctx, config)
		answer.Result = byte(r)
		if applyErr == nil && r != Applied && r != RebootNeeded {
			applyErr = fmt.Errorf("configuration was not applied: %s", r)
		}
	}
	if applyErr != nil {
		answer.Result, answer.Text = byte(Failed), oneLine(applyErr.Error())
	}
	if _, err := ch.Write(ssh.Marshal(answer)); err != nil {
		return false, fmt.Errorf("tunnel: answering the conductor: %w", err)
	}
	if err := ch.CloseWrite(); err != nil {
		return false, fmt.Errorf("tunnel: answering the conductor: %w", err)
	}
	if applyErr != nil {
		return false, fmt.Errorf("tunnel: applying the configuration: %w", applyErr)
	}
	if Result(answer.Result) != RebootNeeded {
		return false, nil
	}
	// The reboot waits for the conductor to close the channel, which says that
	// it has read the answer.
	t := time.NewTimer(answerGrace)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
	case <-ctx.Done():
	}
	return true, nil
}

// oneLine makes an error fit the answer.
func oneLine(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "?")
	if len(s) > maxAnswerText {
		s = strings.ToValidUTF8(s[:maxAnswerText], "")
	}
	return s
}
