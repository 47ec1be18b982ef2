package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Config says how a [Client] reads. The zero value is ready for use.
type Config struct {
	// BlockSize is the blksize to ask for, 8 to 65464. 0 is
	// [DefaultBlockSize], lessened by 20 for IPv6 so that blocks are not
	// fragmented. 512 asks for nothing.
	BlockSize int
	// WindowSize is the windowsize to ask for, 1 to 1024. 0 is
	// [DefaultWindowSize]; 1 asks for nothing.
	WindowSize int
	// MaxSize is the largest file that is taken, in octets. 0 is
	// [DefaultMaxSize].
	MaxSize int64
	// Resend is the time without progress until the last packet is sent again.
	// 0 is [DefaultResend]. The timeout option asks the server for the same,
	// in whole seconds, at least one.
	Resend time.Duration
	// Tries is how often a packet is sent before the transfer ends with
	// [ErrTimeout]. 0 is [DefaultTries].
	Tries int
	// Timeout bounds a whole transfer. 0 is [DefaultTimeout].
	Timeout time.Duration
	// Listen opens the socket for one transfer; the client closes it. network
	// is "udp4" or "udp6". A product binds it to an interface here. nil is an
	// unbound socket on a port that the system chooses.
	Listen func(ctx context.Context, network string) (*net.UDPConn, error)
	// Logger gets a line for each odd packet. nil is silent.
	Logger *slog.Logger
}

// Client reads files. It is safe for concurrent use; each transfer has a socket
// of its own.
type Client struct{ cfg Config }

// Result says how a transfer went.
type Result struct {
	// Size is the number of octets written.
	Size int64
	// BlockSize and WindowSize are what was agreed on.
	BlockSize, WindowSize int
	// Announced is the size that the server named, -1 when it named none.
	Announced int64
	// Resent counts packets that we sent again.
	Resent int
	// Strangers counts packets that came from anybody but the server.
	Strangers int
}

// New checks cfg and names every bad field. It does no I/O.
func New(cfg Config) (*Client, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("tftp: "+format, args...))
	}
	if cfg.BlockSize != 0 && (cfg.BlockSize < minBlockSize || cfg.BlockSize > maxBlockSize) {
		bad("BlockSize is %d, not within %d to %d", cfg.BlockSize, minBlockSize, maxBlockSize)
	}
	if cfg.WindowSize < 0 || cfg.WindowSize > maxWindowSize {
		bad("WindowSize is %d, not within 1 to %d", cfg.WindowSize, maxWindowSize)
	}
	if cfg.MaxSize < 0 || cfg.Resend < 0 || cfg.Tries < 0 || cfg.Timeout < 0 {
		bad("MaxSize, Resend, Tries and Timeout can't be negative")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	setDefault(&cfg.WindowSize, DefaultWindowSize)
	setDefault(&cfg.MaxSize, DefaultMaxSize)
	setDefault(&cfg.Resend, DefaultResend)
	setDefault(&cfg.Tries, DefaultTries)
	setDefault(&cfg.Timeout, DefaultTimeout)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Listen == nil {
		cfg.Listen = listen
	}
	return &Client{cfg}, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func listen(ctx context.Context, network string) (*net.UDPConn, error) {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, network, ":0")
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// Get writes the file to w while it arrives, each octet once and in order, and
// returns when the last one is written. After an error w may have got a part of
// the file: throw it away. Port 0 of server means 69.
//
// Errors match [ErrNotFound], [ErrTimeout], [ErrTooLarge], [ErrSize] or
// [ErrProtocol], are a [*ServerError], or come from w, the socket, or ctx.
func (c *Client) Get(ctx context.Context, server netip.AddrPort, file string, w io.Writer) (Result, error) {
	server = netip.AddrPortFrom(server.Addr().Unmap(), server.Port())
	if !server.Addr().IsValid() || server.Addr().IsUnspecified() || server.Addr().IsMulticast() {
		return Result{}, fmt.Errorf("tftp: %q is not the address of a server", server.Addr())
	}
	if err := checkFileName(file); err != nil {
		return Result{}, err
	}
	if server.Port() == 0 {
		server = netip.AddrPortFrom(server.Addr(), 69)
	}

	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout,
		fmt.Errorf("%w within %v", ErrTimeout, c.cfg.Timeout))
	defer cancel()
	res, err := c.get(ctx, server, file, w, true)
	var refused *ServerError
	if errors.As(err, &refused) && refused.Code == codeOptionRefused && res.Size == 0 {
		// RFC 2347: a server that can't have our options may end the
		// negotiation so. It gets a plain RFC 1350 request.
		return c.get(ctx, server, file, w, false)
	}
	return res, err
}

func (c *Client) get(ctx context.Context, server netip.AddrPort, file string, w io.Writer, options bool) (Result, error) {
	network := "udp4"
	if server.Addr().Is6() {
		network = "udp6"
	}
	conn, err := c.cfg.Listen(ctx, network)
	if err != nil {
		return Result{}, fmt.Errorf("tftp: open a socket: %w", err)
	}
	defer conn.Close()
	// A short buffer costs speed, not correctness.
	_ = conn.SetReadBuffer(1 << 20)

	sock, err := newSocket(ctx, conn, server)
	if err != nil {
		return Result{}, fmt.Errorf("tftp: %w", err)
	}
	defer sock.close()
	t := &transfer{cfg: c.cfg, sock: sock, server: server, w: w, res: Result{Announced: -1}}
	if options {
		t.asked = c.options(server.Addr().Is6())
	}
	err = t.run(ctx, file)
	return t.res, err
}

// options lists what is asked for. Values that are the protocol's default are
// left out, so that a plain configuration gives a plain request.
func (c *Client) options(v6 bool) []option {
	block := c.cfg.BlockSize
	if block == 0 {
		block = DefaultBlockSize
		if v6 {
			block -= v6BlockOverhead
		}
	}
	opts := []option{{optSize, 0}}
	if block != plainBlockSize {
		opts = append(opts, option{optBlockSize, int64(block)})
	}
	if c.cfg.WindowSize > 1 {
		opts = append(opts, option{optWindowSize, int64(c.cfg.WindowSize)})
	}
	seconds := min(max(int64(c.cfg.Resend/time.Second), 1), 255)
	return append(opts, option{optTimeout, seconds})
}
