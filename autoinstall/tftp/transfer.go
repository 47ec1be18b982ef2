package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"
)

// transfer is one read of one file: the state between the packets.
type transfer struct {
	cfg    Config
	sock   *socket
	server netip.AddrPort // where the request goes
	peer   netip.AddrPort // the server's transfer identifier, once known
	asked  []option
	w      io.Writer
	res    Result

	block    int    // agreed size of a block
	window   int    // agreed number of blocks between acknowledgements
	agreed   bool   // OACK seen
	begun    bool   // DATA seen
	next     uint16 // the block that comes next
	inWindow int    // blocks in order since the last acknowledgement
	repaired bool   // the present gap or repetition was already answered
	finished bool

	last     []byte // the packet to send again
	lastTo   netip.AddrPort
	tries    int
	deadline time.Time // of the wait for progress
	progress bool      // something new came since the timer was set
	refusals int
}

func (t *transfer) run(ctx context.Context, file string) error {
	t.block, t.window, t.next = plainBlockSize, 1, 1
	largest := plainBlockSize
	for _, o := range t.asked {
		if o.name == optBlockSize {
			largest = max(largest, int(o.value))
		}
	}
	// One octet more than allowed shows a packet that is too long. Other
	// packets (OACK, ERROR) are bounded by the same buffer.
	buf := make([]byte, 4+largest+1)
	if err := t.send(ctx, appendRRQ(nil, file, t.asked), t.server); err != nil {
		return err
	}
	for !t.finished {
		n, from, err := t.sock.read(ctx, buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = t.timeout(ctx)
		case err != nil:
			err = fmt.Errorf("tftp: receive: %w", err)
		default:
			err = t.receive(ctx, buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// receive handles one packet. The deadlines are looked at after each: packets
// that bring nothing, from strangers or from a server that repeats itself, may
// come so fast that the socket is never silent.
func (t *transfer) receive(ctx context.Context, b []byte, from netip.AddrPort) error {
	if t.fromServer(from) {
		p, err := parsePacket(b)
		if err == nil {
			t.peer = from
			err = t.handle(ctx, p)
		}
		if err != nil {
			t.giveUp(from, err)
			return err
		}
	}
	if t.finished || ctx.Err() == nil && time.Now().Before(t.deadline) {
		return nil
	}
	return t.timeout(ctx)
}

// fromServer tells the server's packets from those of anybody else.
func (t *transfer) fromServer(from netip.AddrPort) bool {
	switch {
	case from == t.peer:
		return true
	case !sameHost(from.Addr(), t.server.Addr()):
		// Answering would let a forged sender aim our packets at a third party.
		t.res.Strangers++
		return false
	case !t.peer.IsValid():
		return true // RFC 1350 section 4: the server chooses its port
	}
	t.res.Strangers++
	if t.refusals < maxRefusals {
		t.refusals++
		t.cfg.Logger.Debug("packet from another port refused",
			slog.Any("from", from), slog.Any("server", t.peer))
		_ = t.sock.write(appendError(nil, codeUnknownTID, "unknown transfer ID"), from)
	}
	return false
}

// sameHost compares addresses; the zone of a link-local one is the system's
// own word and may be spelled as a name or as a number.
func sameHost(a, b netip.Addr) bool { return a.WithZone("") == b.WithZone("") }

func (t *transfer) handle(ctx context.Context, p packet) error {
	switch p.op {
	case opError:
		return &ServerError{Code: p.code, Message: p.message}
	case opOAck:
		return t.handleOAck(ctx, p.options)
	default:
		return t.handleData(ctx, p)
	}
}

func (t *transfer) handleOAck(ctx context.Context, opts []option) error {
	if t.begun {
		return nil // a late repetition
	}
	if len(t.asked) == 0 {
		return protocolError("OACK without options asked for")
	}
	if t.agreed {
		return t.outOfOrder(ctx)
	}
	if err := t.agree(opts); err != nil {
		return err
	}
	t.agreed = true
	return t.send(ctx, appendAck(nil, 0), t.peer)
}

// agree takes the server's answer to our options. RFC 2347: only what was asked
// for; RFC 2348 and 7440: not more than was asked for.
func (t *transfer) agree(opts []option) error {
	for _, o := range opts {
		asked, ok := int64(0), false
		for _, a := range t.asked {
			if a.name == o.name {
				asked, ok = a.value, true
			}
		}
		if !ok {
			return protocolError("OACK with option %q that was not asked for", o.name)
		}
		switch o.name {
		case optBlockSize:
			if o.value < minBlockSize || o.value > asked {
				return protocolError("OACK with blksize %d after %d was asked for", o.value, asked)
			}
			t.block = int(o.value)
		case optWindowSize:
			if o.value < 1 || o.value > asked {
				return protocolError("OACK with windowsize %d after %d was asked for", o.value, asked)
			}
			t.window = int(o.value)
		case optTimeout:
			if o.value != asked {
				return protocolError("OACK with timeout %d after %d was asked for", o.value, asked)
			}
		case optSize:
			t.res.Announced = o.value
			if o.value > t.cfg.MaxSize {
				return fmt.Errorf("%w: the server announced %d octets, the limit is %d", ErrTooLarge, o.value, t.cfg.MaxSize)
			}
		}
	}
	return nil
}

func (t *transfer) handleData(ctx context.Context, p packet) error {
	if len(p.data) > t.block {
		return protocolError("block of more than %d octets", t.block)
	}
	if !t.begun {
		t.begun = true
		t.res.BlockSize, t.res.WindowSize = t.block, t.window
	}
	ahead := int16(p.block - t.next)
	if p.block == 1 && t.next == 0 && t.res.Size > 0 && t.window == 1 {
		// Some servers count 65535, 1, 2 instead of 65535, 0, 1. Without a
		// window nothing else can be meant: no block is ever skipped.
		t.next, ahead = 1, 0
	}
	if ahead != 0 {
		return t.outOfOrder(ctx)
	}
	t.repaired, t.progress = false, true
	if err := t.deliver(p.data); err != nil {
		return err
	}
	t.next++
	t.inWindow++
	t.finished = len(p.data) < t.block
	if t.finished {
		if t.res.Announced >= 0 && t.res.Size != t.res.Announced {
			return fmt.Errorf("%w: %d octets received, %d announced", ErrSize, t.res.Size, t.res.Announced)
		}
	}
	if t.finished || t.inWindow >= t.window {
		return t.acknowledge(ctx)
	}
	return nil
}

// outOfOrder answers a gap (RFC 7440 section 4: acknowledge the last block in
// order, so that the server goes back) or a repetition (our acknowledgement was
// lost). Once for each: answering every packet of a burst would make the server
// send the burst as many times.
func (t *transfer) outOfOrder(ctx context.Context) error {
	if t.repaired {
		return nil
	}
	t.repaired = true
	t.res.Resent++
	// The tries don't begin anew: this is no progress.
	tries := t.tries
	err := t.acknowledge(ctx)
	t.tries = tries
	return err
}

func (t *transfer) deliver(data []byte) error {
	size := t.res.Size + int64(len(data))
	if size > t.cfg.MaxSize {
		return fmt.Errorf("%w: the limit is %d octets", ErrTooLarge, t.cfg.MaxSize)
	}
	if t.res.Announced >= 0 && size > t.res.Announced {
		return fmt.Errorf("%w: more than the %d octets announced", ErrSize, t.res.Announced)
	}
	if len(data) == 0 {
		return nil
	}
	if _, err := t.w.Write(data); err != nil {
		return fmt.Errorf("tftp: write: %w", err)
	}
	t.res.Size = size
	return nil
}

// acknowledge names the last block in order. The server's next window begins
// after it.
func (t *transfer) acknowledge(ctx context.Context) error {
	t.inWindow = 0
	return t.send(ctx, appendAck(t.last[:0], t.next-1), t.peer)
}

// send sends a packet that is sent again when nothing comes back.
func (t *transfer) send(ctx context.Context, b []byte, to netip.AddrPort) error {
	t.last, t.lastTo, t.tries = b, to, 1
	return t.sendLast(ctx)
}

func (t *transfer) sendLast(ctx context.Context) error {
	if err := t.sock.write(t.last, t.lastTo); err != nil {
		// A link that is down for a moment is no different from a lost packet;
		// the tries bound it.
		t.cfg.Logger.Debug("send failed", slog.Any("error", err))
	}
	return t.arm(ctx)
}

// arm sets the timer. The check after it closes the window in which the end of
// ctx would be overwritten.
func (t *transfer) arm(ctx context.Context) error {
	t.progress = false
	wait := t.cfg.Resend
	for i := 1; i < t.tries && wait < maxResend; i++ {
		wait *= 2
	}
	if t.tries > 1 {
		wait = min(wait, max(maxResend, t.cfg.Resend))
	}
	t.deadline = time.Now().Add(wait)
	if err := t.sock.setDeadline(t.deadline); err != nil {
		return fmt.Errorf("tftp: set a deadline: %w", err)
	}
	return contextError(ctx)
}

func contextError(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("tftp: transfer ended: %w", context.Cause(ctx))
}

// timeout sends the last packet again, or ends the transfer.
func (t *transfer) timeout(ctx context.Context) error {
	if err := contextError(ctx); err != nil {
		return err
	}
	if t.progress {
		// The server is slow, not silent: a window may take longer than the
		// timer on a thin line.
		t.tries = 1
		return t.arm(ctx)
	}
	if t.tries >= t.cfg.Tries {
		if !t.peer.IsValid() {
			return fmt.Errorf("%w: no answer from %v to %d requests", ErrTimeout, t.server, t.tries)
		}
		return fmt.Errorf("%w: silence after %d octets", ErrTimeout, t.res.Size)
	}
	t.tries++
	t.res.Resent++
	t.repaired = false
	if t.begun {
		t.last, t.inWindow = appendAck(t.last[:0], t.next-1), 0
	}
	return t.sendLast(ctx)
}

// giveUp tells the server why no more acknowledgements come, so that it stops.
func (t *transfer) giveUp(to netip.AddrPort, cause error) {
	var answer *ServerError
	if errors.As(cause, &answer) {
		return // RFC 1350 section 7: an ERROR is not answered
	}
	code, text := uint16(codeIllegal), "protocol violation"
	switch {
	case errors.Is(cause, ErrTooLarge):
		code, text = codeDiskFull, "file is too large"
	case errors.Is(cause, ErrSize):
		code, text = 0, "size differs from tsize"
	case !t.begun && len(t.asked) > 0 && errors.Is(cause, ErrProtocol):
		code, text = codeOptionRefused, "options not acceptable"
	case !errors.Is(cause, ErrProtocol):
		code, text = 0, "transfer ended"
	}
	_ = t.sock.write(appendError(nil, code, text), to)
}
