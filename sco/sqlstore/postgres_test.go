package sqlstore_test

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
)

// postgres is a private server that listens on a Unix socket in its own folder.
type postgres struct {
	dir     string
	program string
	cmd     *exec.Cmd
	out     bytes.Buffer
}

// postgresProgram finds a program of the server, which Debian keeps off the PATH.
func postgresProgram(t *testing.T, name string) string {
	t.Helper()
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1]
	}
	return peer.Need(t, name)
}

// unprivileged makes a command run as somebody else than root, which the server
// refuses to be.
func unprivileged(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	cmd.Dir = dir
	if os.Geteuid() != 0 {
		return
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	require.NoError(t, err)
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, int(uid), int(gid)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// shared is the server that most tests share; making one takes seconds.
var shared struct {
	sync.Mutex
	p *postgres
}

func sharedPostgres(t *testing.T) *postgres {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.p == nil {
		shared.p = startPostgres(t)
	}
	return shared.p
}

func closeShared() {
	if shared.p != nil {
		shared.p.remove()
	}
}

// startPostgres starts a server that the caller removes.
func startPostgres(t *testing.T) *postgres {
	t.Helper()
	initdb, program := postgresProgram(t, "initdb"), postgresProgram(t, "postgres")
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	cmd := exec.Command(initdb, "-D", filepath.Join(dir, "data"), "-A", "trust", "-U", "mooring", "--no-sync", "--no-instructions", "--locale=C.UTF-8", "-E", "UTF8")
	unprivileged(t, cmd, dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	p := &postgres{dir: dir, program: program}
	p.start(t)
	return p
}

func (p *postgres) remove() {
	p.stop(syscall.SIGINT)
	_ = os.RemoveAll(p.dir)
}

func (p *postgres) start(t *testing.T) {
	t.Helper()
	p.cmd = exec.Command(p.program, "-D", filepath.Join(p.dir, "data"), "-c", "listen_addresses=", "-c", "unix_socket_directories="+p.dir,
		"-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=16MB")
	p.cmd.Stderr = &p.out
	unprivileged(t, p.cmd, p.dir)
	require.NoError(t, p.cmd.Start())
	db, err := sql.Open("pgx", p.dsn())
	require.NoError(t, err)
	defer db.Close()
	require.Eventually(t, func() bool { return db.PingContext(t.Context()) == nil }, time.Minute, 20*time.Millisecond)
}

func (p *postgres) stop(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func (p *postgres) dsn() string {
	return "host=" + p.dir + " user=mooring dbname=postgres sslmode=disable"
}

var databases struct {
	sync.Mutex
	n int
}

// newDatabase makes an empty database in the server.
func (p *postgres) newDatabase(t *testing.T) (dsn string) {
	t.Helper()
	databases.Lock()
	databases.n++
	name := "t" + strconv.Itoa(databases.n)
	databases.Unlock()
	db, err := sql.Open("pgx", p.dsn())
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(context.Background(), "CREATE DATABASE "+name)
	require.NoError(t, err)
	return "host=" + p.dir + " user=mooring dbname=" + name + " sslmode=disable"
}
