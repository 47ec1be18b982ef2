package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// keepAliveRequest is the request that OpenSSH sends for the same purpose. Every
// SSH implementation answers it, if only to say that it does not know it.
const keepAliveRequest = "keepalive@openssh.com"

// link is what the two ends of a connection have in common. It is made of few
// goroutines and small fields, since a conductor holds thousands.
type link struct {
	conn ssh.Conn
	// max bounds the channels that are open at one time, in both directions.
	max      int32
	channels atomic.Int32
	// work counts the goroutines that serve this link.
	work sync.WaitGroup

	mu     sync.Mutex
	closed bool
	cause  error
	tcp    map[io.Closer]struct{}
}

// close ends the connection; the first cause stays.
func (l *link) close(cause error) {
	l.mu.Lock()
	if !l.closed {
		l.closed, l.cause = true, cause
	}
	l.mu.Unlock()
	_ = l.conn.Close()
}

func (l *link) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// reason returns why the link ended: what close was given, or what the
// connection says.
func (l *link) reason(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return l.cause
	}
	return err
}

// do runs f in a goroutine of the link and reports true, unless the link is
// closed.
func (l *link) do(f func()) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.work.Add(1)
	l.mu.Unlock()
	go func() {
		defer l.work.Done()
		f()
	}()
	return true
}

// finish marks the link closed, so that nothing new starts, ends the TCP
// connections that it forwards, and waits for what runs.
func (l *link) finish() {
	l.mu.Lock()
	l.closed = true
	for c := range l.tcp {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
}

// track remembers a TCP connection or listener to be closed with the link. It
// reports false, and closes c, when the link is closed already.
func (l *link) track(c io.Closer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close()
		return false
	}
	if l.tcp == nil {
		l.tcp = make(map[io.Closer]struct{})
	}
	l.tcp[c] = struct{}{}
	return true
}

func (l *link) untrack(c io.Closer) {
	l.mu.Lock()
	delete(l.tcp, c)
	l.mu.Unlock()
	_ = c.Close()
}

// ping sends a keepalive and waits for the answer. x/crypto waits for ever and
// holds a lock while it does, so a timer of our own closes the connection.
func (l *link) ping(timeout time.Duration) error {
	t := time.AfterFunc(timeout, func() { l.close(errKeepAlive) })
	defer t.Stop()
	_, _, err := l.conn.SendRequest(keepAliveRequest, true, nil)
	return err
}

// take reserves a channel, which release gives back.
func (l *link) take() error {
	if l.channels.Add(1) > l.max {
		l.release()
		return fmt.Errorf("tunnel: the limit of %d channels is reached", l.max)
	}
	return nil
}

func (l *link) release() { l.channels.Add(-1) }

// openChannel opens a channel and waits for the answer no longer than ctx. A
// channel that is granted later is closed by a goroutine of the link, which
// ends with the connection at the latest.
func (l *link) openChannel(ctx context.Context, kind string, payload []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	if err := l.take(); err != nil {
		return nil, nil, err
	}
	type result struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	done, late := make(chan result), make(chan struct{})
	if !l.do(func() {
		ch, reqs, err := l.conn.OpenChannel(kind, payload)
		select {
		case done <- result{ch, reqs, err}:
		case <-late:
			if err == nil {
				_ = ch.Close()
				ssh.DiscardRequests(reqs)
			}
			l.release()
		}
	}) {
		l.release()
		return nil, nil, ErrNotConnected
	}
	select {
	case r := <-done:
		if r.err != nil {
			l.release()
			return nil, nil, fmt.Errorf("tunnel: opening a channel: %w", r.err)
		}
		return r.ch, r.reqs, nil
	case <-ctx.Done():
		close(late)
		return nil, nil, ctx.Err()
	}
}

// dial opens a channel that stands for a TCP connection.
func (l *link) dial(ctx context.Context, kind string, payload []byte) (net.Conn, error) {
	ch, reqs, err := l.openChannel(ctx, kind, payload)
	if err != nil {
		if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok && open.Reason == ssh.Prohibited {
			return nil, fmt.Errorf("%w: other side says %s", ErrNotAllowed, quote(open.Message))
		}
		return nil, err
	}
	if !l.do(func() { ssh.DiscardRequests(reqs) }) {
		_ = ch.Close()
		l.release()
		return nil, ErrNotConnected
	}
	return &channelConn{Channel: ch, link: l}, nil
}

// forward carries an accepted TCP connection over a new channel.
func (l *link) forward(ctx context.Context, tcp net.Conn, kind string, payload []byte) error {
	if !l.track(tcp) {
		return ErrNotConnected
	}
	defer l.untrack(tcp)
	ch, reqs, err := l.openChannel(ctx, kind, payload)
	if err != nil {
		return err
	}
	defer l.release()
	splice(ch, reqs, tcp)
	return nil
}

// answer serves a channel that the other side opens: connect makes the TCP
// connection that it is joined with. It runs in a goroutine of the link that
// holds a reserved channel.
func (l *link) answer(ctx context.Context, nc ssh.NewChannel, connect func(context.Context) (net.Conn, error)) error {
	tcp, err := connect(ctx)
	if err != nil {
		// The reason goes to our log only: it would tell the other side what
		// listens in our network.
		_ = nc.Reject(ssh.ConnectionFailed, "connection failed")
		return err
	}
	if !l.track(tcp) {
		return ErrNotConnected
	}
	defer l.untrack(tcp)
	ch, reqs, err := nc.Accept()
	if err != nil {
		return err
	}
	splice(ch, reqs, tcp)
	return nil
}

// splice copies both ways until both have ended, and passes on half-closed
// streams. When the other side closes the channel as a whole, what has arrived
// is still written out, but nothing more is read from tcp. It returns when the
// other side has let go of the channel too, because until then it costs memory
// and must count.
func splice(ch ssh.Channel, reqs <-chan *ssh.Request, tcp net.Conn) {
	var up, gone sync.WaitGroup
	gone.Go(func() {
		ssh.DiscardRequests(reqs)
		_ = tcp.SetReadDeadline(time.Unix(1, 0))
	})
	up.Go(func() {
		_, _ = io.Copy(ch, tcp)
		_ = ch.CloseWrite()
	})
	_, err := io.Copy(tcp, ch)
	if hc, ok := tcp.(interface{ CloseWrite() error }); ok && err == nil {
		_ = hc.CloseWrite()
	} else {
		// Nobody takes the stream any more; the rest of it would wait for a
		// window that never opens.
		_ = tcp.Close()
		_ = ch.Close()
	}
	up.Wait()
	_ = tcp.Close()
	_ = ch.Close()
	gone.Wait()
}

// channelConn is a channel as a net.Conn. Deadlines are not supported: close it
// from another goroutine instead, as context.AfterFunc does.
type channelConn struct {
	ssh.Channel
	link *link
	once sync.Once
}

// Close closes the channel.
func (c *channelConn) Close() error {
	c.once.Do(c.link.release)
	return c.Channel.Close()
}

// LocalAddr returns the address of this end of the SSH connection.
func (c *channelConn) LocalAddr() net.Addr { return c.link.conn.LocalAddr() }

// RemoteAddr returns the address of the other end of the SSH connection.
func (c *channelConn) RemoteAddr() net.Addr { return c.link.conn.RemoteAddr() }

// SetDeadline fails with os.ErrNoDeadline.
func (c *channelConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline fails with os.ErrNoDeadline.
func (c *channelConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline fails with os.ErrNoDeadline.
func (c *channelConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
