package tftptest

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Config says how a [Server] behaves.
type Config struct {
	// File returns the content of a file, and false when there is none. It is
	// called from several goroutines.
	File func(name string) ([]byte, bool)
	// MaxBlock and MaxWindow bound what is agreed to. 0 ignores the option, as
	// servers without RFC 2348 or RFC 7440 do.
	MaxBlock, MaxWindow int
	// NoSize leaves tsize unanswered.
	NoSize bool
	// Rollover is the block number that follows 65535: 0 with most servers.
	Rollover uint16
	// Resend is the time after which a window is sent again, 200 ms when 0.
	Resend time.Duration
}

// patience is how long a server waits for progress. The end of a test can come
// sooner, see stop.
const patience = 20 * time.Second

// Server is a TFTP server on a loopback address.
type Server struct {
	cfg  Config
	conn *net.UDPConn
	stop chan struct{}
	wg   sync.WaitGroup
}

// NewServer starts a server that ends with tb.
func NewServer(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	if cfg.Resend == 0 {
		cfg.Resend = 200 * time.Millisecond
	}
	s := &Server{cfg: cfg, conn: conn, stop: make(chan struct{})}
	s.wg.Go(s.serve)
	tb.Cleanup(func() {
		close(s.stop)
		_ = conn.Close()
		s.wg.Wait()
	})
	return s
}

// Addr is where requests go.
func (s *Server) Addr() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s *Server) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if n < 2 || binary.BigEndian.Uint16(buf) != 1 {
			continue
		}
		fields := strings.Split(string(buf[2:n]), "\x00")
		s.wg.Go(func() { s.send(fields, from) })
	}
}

// send is one transfer, go-back-N from the last acknowledgement.
func (s *Server) send(fields []string, to netip.AddrPort) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return
	}
	defer conn.Close()
	content, ok := s.cfg.File(fields[0])
	if !ok {
		_, _ = conn.WriteToUDPAddrPort([]byte("\x00\x05\x00\x01no such file\x00"), to)
		return
	}
	block, window, oack := s.agree(fields, len(content))
	total := len(content)/block + 1
	acked := 0
	if oack != nil {
		acked = -1
	}
	in := make([]byte, 600)
	giveUp := time.Now().Add(patience)
	for acked < total && time.Now().Before(giveUp) {
		if acked < 0 {
			_, _ = conn.WriteToUDPAddrPort(oack, to)
		}
		for i := acked + 1; acked >= 0 && i <= min(acked+window, total); i++ {
			_, _ = conn.WriteToUDPAddrPort(s.data(content, block, i), to)
		}
		got, err := s.awaitAck(conn, in, to, acked, window)
		if err != nil {
			return
		}
		if got != acked {
			acked, giveUp = got, time.Now().Add(patience)
		}
	}
}

// awaitAck returns the highest block acknowledged, or acked after a timeout or
// a repeated acknowledgement.
func (s *Server) awaitAck(conn *net.UDPConn, in []byte, to netip.AddrPort, acked, window int) (int, error) {
	_ = conn.SetReadDeadline(time.Now().Add(s.cfg.Resend))
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if err != nil {
			select {
			case <-s.stop:
				return 0, net.ErrClosed
			default:
				return acked, nil
			}
		}
		if from != to || n < 4 {
			continue
		}
		if binary.BigEndian.Uint16(in) == 5 {
			return 0, net.ErrClosed
		}
		number := binary.BigEndian.Uint16(in[2:])
		for i := max(acked, 0); i <= acked+window || i == 0; i++ {
			if s.number(i) == number {
				if i == acked && window == 1 {
					break // RFC 1123 4.2.3.1: no answer to a repeated ACK
				}
				return i, nil
			}
		}
	}
}

// number is the number on the wire of the i-th block, counted from 1.
func (s *Server) number(i int) uint16 {
	if i <= 65535 {
		return uint16(i)
	}
	return uint16((i-65536)%(65536-int(s.cfg.Rollover))) + s.cfg.Rollover
}

func (s *Server) data(content []byte, block, i int) []byte {
	from := (i - 1) * block
	b := binary.BigEndian.AppendUint16([]byte{0, 3}, s.number(i))
	return append(b, content[from:min(from+block, len(content))]...)
}

func (s *Server) agree(fields []string, size int) (block, window int, oack []byte) {
	block, window = 512, 1
	b := bytes.NewBuffer([]byte{0, 6})
	answer := func(name string, value int) { b.WriteString(name + "\x00" + strconv.Itoa(value) + "\x00") }
	for i := 2; i+1 < len(fields); i += 2 {
		value, _ := strconv.Atoi(fields[i+1])
		switch {
		case fields[i] == "blksize" && s.cfg.MaxBlock > 0:
			block = min(value, s.cfg.MaxBlock)
			answer("blksize", block)
		case fields[i] == "windowsize" && s.cfg.MaxWindow > 0:
			window = min(value, s.cfg.MaxWindow)
			answer("windowsize", window)
		case fields[i] == "tsize" && !s.cfg.NoSize:
			answer("tsize", size)
		case fields[i] == "timeout":
			answer("timeout", value)
		}
	}
	if b.Len() == 2 {
		return block, window, nil
	}
	return block, window, b.Bytes()
}
