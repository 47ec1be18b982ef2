package pinned

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/integrity/cause"
)

// The waits between two attempts at a command that a busy TPM did not begin.
const (
	busyTries     = 12
	busyFirstWait = 5 * time.Millisecond
	busyMaxWait   = 500 * time.Millisecond
)

// Bus is one conversation with a TPM, for one goroutine. It lives as long as one
// call, so it keeps that call's context.
type Bus struct {
	ctx       context.Context
	tpm       transport.TPM
	responses [][]byte
	dead      error
}

// NewBus begins a conversation that ends with ctx. The caller calls Wipe at its
// end.
func NewBus(ctx context.Context, tpm transport.TPM) *Bus { return &Bus{ctx: ctx, tpm: tpm} }

// Wipe overwrites every response that was received.
func (b *Bus) Wipe() {
	for _, r := range b.responses {
		clear(r)
	}
	b.responses = nil
}

// Send implements [transport.TPM]. A TPM that cannot be reached gives
// [cause.NoTPM], one that does not answer before the context's deadline gives
// [cause.Timeout]. After either nothing is sent any more.
func (b *Bus) Send(command []byte) ([]byte, error) {
	wait := busyFirstWait
	for try := 1; ; try++ {
		rsp, err := b.once(command)
		if err != nil || try == busyTries || !busy(rsp) {
			return rsp, err
		}
		// The TPM did not begin the command, so the nonces of the sessions are
		// what they were and the same bytes are still right (TPM 2.0 Library,
		// Part 2, 6.6.3).
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-b.ctx.Done():
			t.Stop()
		}
		wait = min(2*wait, busyMaxWait)
	}
}

type answer struct {
	rsp []byte
	err error
}

func (b *Bus) once(command []byte) ([]byte, error) {
	if b.dead != nil {
		return nil, b.dead
	}
	if b.ctx.Err() != nil {
		return nil, b.end()
	}
	// A transport has no context. The answer of a TPM that is given up goes to
	// a channel that nobody reads, and the goroutine ends with the transport's
	// own time limit. The command is copied because a simulator decrypts in
	// place.
	done := make(chan answer, 1)
	own := bytes.Clone(command)
	go func() {
		rsp, err := b.tpm.Send(own)
		done <- answer{rsp, err}
	}()
	select {
	case <-b.ctx.Done():
		return nil, b.end()
	case a := <-done:
		if a.err != nil {
			b.dead = cause.New(cause.NoTPM, a.err)
			return nil, b.dead
		}
		b.responses = append(b.responses, a.rsp)
		return a.rsp, nil
	}
}

func (b *Bus) end() error {
	if errors.Is(b.ctx.Err(), context.DeadlineExceeded) {
		b.dead = cause.New(cause.Timeout, b.ctx.Err())
	} else {
		b.dead = fmt.Errorf("tpm: %w", b.ctx.Err())
	}
	return b.dead
}

// busy looks at the response code, which stands after a tag and a size.
func busy(rsp []byte) bool {
	if len(rsp) < 10 {
		return false
	}
	switch tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}
