package sqlstore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/sqlstore"
)

// The environment of the child processes that tests start from this binary.
const (
	childEnv  = "SQLSTORE_TEST_CHILD" // "count N NAME" or "write PREFIX"
	driverEnv = "SQLSTORE_TEST_DRIVER"
	dsnEnv    = "SQLSTORE_TEST_DSN"
)

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		if err := child(strings.Fields(job)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	closeShared()
	os.Exit(code)
}

// backend is a database that tests open several times.
type backend struct {
	driver, dsn string
	dialect     sqlstore.Dialect
}

func (b backend) open() (*sqlstore.Store, *sql.DB, error) {
	db, err := sql.Open(b.driver, b.dsn)
	if err != nil {
		return nil, nil, err
	}
	s, err := sqlstore.New(sqlstore.Config{DB: db, Dialect: b.dialect})
	return s, db, err
}

func (b backend) mustOpen(t *testing.T) *sqlstore.Store {
	t.Helper()
	s, db, err := b.open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, s.Migrate(t.Context()))
	return s
}

func sqliteBackend(t *testing.T) backend {
	return backend{"sqlite", filepath.Join(t.TempDir(), "routers.db"), sqlstore.SQLite}
}

// each runs f on every database, with an empty one for each call of new.
func each(t *testing.T, f func(t *testing.T, fresh func(t *testing.T) backend)) {
	t.Run("sqlite", func(t *testing.T) { f(t, sqliteBackend) })
	t.Run("postgresql", func(t *testing.T) {
		p := sharedPostgres(t)
		f(t, func(t *testing.T) backend { return backend{"pgx", p.newDatabase(t), sqlstore.PostgreSQL} })
	})
}

func (b backend) child(job string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+job, driverEnv+"="+b.driver, dsnEnv+"="+b.dsn)
	return cmd
}

func child(job []string) error {
	b := backend{driver: os.Getenv(driverEnv), dsn: os.Getenv(dsnEnv), dialect: sqlstore.SQLite}
	if b.driver == "pgx" {
		b.dialect = sqlstore.PostgreSQL
	}
	s, db, err := b.open()
	if err != nil {
		return err
	}
	defer db.Close()
	ctx := context.Background()
	if err := s.Migrate(ctx); err != nil {
		return err
	}
	switch job[0] {
	case "count":
		n, err := strconv.Atoi(job[1])
		if err != nil {
			return err
		}
		for range n {
			if err := count(ctx, s, job[2]); err != nil {
				return err
			}
		}
		return nil
	case "write":
		// Each line is written after the store has said that it is durable.
		for i := 0; ; i++ {
			if err := put(ctx, s, router(job[1], strconv.Itoa(i))); err != nil {
				return err
			}
			fmt.Println(i)
		}
	}
	return errors.New("unknown job")
}

// count adds one to a number that the router's role holds.
func count(ctx context.Context, s sco.RouterStore, name string) error {
	return s.Update(ctx, name, func(r *sco.Router) (*sco.Router, error) {
		n, err := strconv.Atoi(r.Nodes[0].Role)
		r.Nodes[0].Role = strconv.Itoa(n + 1)
		return r, err
	})
}

var secret = sco.NewSecret()

// router's asset-id changes with the role, so that every write moves a key.
func router(name, role string) *sco.Router {
	return &sco.Router{Name: name, Mode: sco.ModeStrong, Secret: secret,
		Nodes: []sco.Node{{Name: "node0", AssetID: name + "-" + role, Role: role}}}
}

func put(ctx context.Context, s sco.RouterStore, r *sco.Router) error {
	return s.Update(ctx, r.Name, func(*sco.Router) (*sco.Router, error) { return r, nil })
}

func TestProcessesUpdateOneRouter(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		b := fresh(t)
		s := b.mustOpen(t)
		require.NoError(t, put(t.Context(), s, router("r", "0")))
		const processes, each = 4, 40
		var wg sync.WaitGroup
		for range processes {
			wg.Go(func() {
				out, err := b.child(fmt.Sprintf("count %d r", each)).CombinedOutput()
				if err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
		for range each {
			require.NoError(t, count(t.Context(), s, "r"))
		}
		wg.Wait()
		r, err := s.Get(t.Context(), sco.NameKey("r"))
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa((processes+1)*each), r.Nodes[0].Role, "no update is lost")
	})
}

func TestKilledWriterLosesNothingItWasTold(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		b := fresh(t)
		s := b.mustOpen(t)
		for round := range 12 {
			name := fmt.Sprintf("r%d", round)
			cmd := b.child("write " + name)
			pipe, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			told := -1
			for lines := bufio.NewScanner(pipe); lines.Scan(); {
				told, err = strconv.Atoi(lines.Text())
				require.NoError(t, err)
				if told >= round {
					_ = cmd.Process.Kill()
				}
			}
			require.Error(t, cmd.Wait())
			require.GreaterOrEqual(t, told, round)
			r, err := s.Get(t.Context(), sco.NameKey(name))
			require.NoError(t, err)
			have, err := strconv.Atoi(r.Nodes[0].Role)
			require.NoError(t, err)
			require.GreaterOrEqual(t, have, told, "what was acknowledged is there")
			byAsset, err := s.Get(t.Context(), sco.AssetKey(r.Nodes[0].AssetID))
			require.NoError(t, err, "keys follow the record")
			require.Equal(t, name, byAsset.Name)
			for old := range have {
				_, err := s.Get(t.Context(), sco.AssetKey(fmt.Sprintf("%s-%d", name, old)))
				require.ErrorIs(t, err, sco.ErrNotFound)
			}
			require.NoError(t, put(t.Context(), s, router(name, "after")), "the lock ended with the process")
		}
	})
}

func TestServerCrash(t *testing.T) {
	p := startPostgres(t)
	t.Cleanup(p.remove)
	b := backend{"pgx", p.newDatabase(t), sqlstore.PostgreSQL}
	s := b.mustOpen(t)
	require.NoError(t, put(t.Context(), s, router("r", "1")))
	p.stop(9)
	require.Error(t, put(t.Context(), s, router("r", "2")))
	_, err := s.Get(t.Context(), sco.NameKey("r"))
	require.Error(t, err)
	require.NotErrorIs(t, err, sco.ErrNotFound, "a database that is away is not an empty one")
	_ = os.Remove(filepath.Join(p.dir, "data", "postmaster.pid"))
	p.start(t)
	require.Eventually(t, func() bool {
		r, err := s.Get(t.Context(), sco.NameKey("r"))
		return err == nil && r.Nodes[0].Role == "1"
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, put(t.Context(), s, router("r", "2")))
}

func TestMigrate(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		b := fresh(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				s, db, err := b.open()
				if err == nil {
					defer db.Close()
					err = s.Migrate(context.Background())
				}
				if err != nil {
					t.Errorf("concurrent migration: %v", err)
				}
			})
		}
		wg.Wait()
		s, db, err := b.open()
		require.NoError(t, err)
		defer db.Close()
		require.NoError(t, s.Migrate(t.Context()), "again does nothing")
		require.NoError(t, put(t.Context(), s, router("r", "1")))
		_, err = db.Exec(`UPDATE sco_schema SET version = 99`)
		require.NoError(t, err)
		require.ErrorIs(t, s.Migrate(t.Context()), sqlstore.ErrSchema)
		_, err = db.Exec(`UPDATE sco_schema SET version = -1`)
		require.NoError(t, err)
		require.ErrorIs(t, s.Migrate(t.Context()), sqlstore.ErrSchema)
	})
}

func TestMigrationThatFailsChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		b := fresh(t)
		s, db, err := b.open()
		require.NoError(t, err)
		defer db.Close()
		// The second table is in the way.
		_, err = db.Exec(`CREATE TABLE sco_keys (x INTEGER)`)
		require.NoError(t, err)
		require.Error(t, s.Migrate(t.Context()))
		_, err = db.Exec(`DROP TABLE sco_keys`)
		require.NoError(t, err)
		require.NoError(t, s.Migrate(t.Context()), "the first table was rolled back, and is made now")
		require.NoError(t, put(t.Context(), s, router("r", "1")))
	})
}

func TestDamagedRecordIsNamed(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		b := fresh(t)
		s := b.mustOpen(t)
		_, db, err := b.open()
		require.NoError(t, err)
		defer db.Close()
		require.NoError(t, put(t.Context(), s, router("broken", "1")))
		require.NoError(t, put(t.Context(), s, router("whole", "1")))
		_, err = db.Exec(`UPDATE sco_routers SET record = (SELECT record FROM sco_routers WHERE name = 'whole') WHERE name = 'broken'`)
		require.NoError(t, err)
		_, err = s.Get(t.Context(), sco.NameKey("broken"))
		require.ErrorContains(t, err, `"broken"`)
		_, err = s.List(t.Context(), "", 10)
		require.ErrorContains(t, err, `"broken"`)
		require.ErrorContains(t, put(t.Context(), s, router("broken", "2")), `"broken"`)
		_, err = s.Get(t.Context(), sco.NameKey("whole"))
		require.NoError(t, err)
	})
}

func TestRemovedAndMadeAnewIsAConflict(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		s := fresh(t).mustOpen(t)
		require.NoError(t, put(t.Context(), s, router("r", "1")))
		calls := 0
		require.NoError(t, s.Update(t.Context(), "r", func(r *sco.Router) (*sco.Router, error) {
			calls++
			if calls == 1 {
				require.NoError(t, s.Update(t.Context(), "r", func(*sco.Router) (*sco.Router, error) { return nil, nil }))
				require.NoError(t, put(t.Context(), s, router("r", "2")))
			}
			r.InterNodeSecurity = r.Nodes[0].Role
			return r, nil
		}))
		require.Equal(t, 2, calls)
		r, err := s.Get(t.Context(), sco.NameKey("r"))
		require.NoError(t, err)
		require.Equal(t, "2", r.InterNodeSecurity)
		_, err = s.Get(t.Context(), sco.AssetKey("r-1"))
		require.ErrorIs(t, err, sco.ErrNotFound)
	})
}

func TestCancelledUpdateLeavesTheDatabaseUsable(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		s := fresh(t).mustOpen(t)
		for i := range 30 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*200*time.Microsecond)
			_ = put(ctx, s, router("r", strconv.Itoa(i)))
			cancel()
		}
		require.NoError(t, put(t.Context(), s, router("r", "last")))
		r, err := s.Get(t.Context(), sco.AssetKey("r-last"))
		require.NoError(t, err)
		require.Equal(t, "last", r.Nodes[0].Role)
	})
}

func TestConfig(t *testing.T) {
	_, err := sqlstore.New(sqlstore.Config{})
	require.ErrorContains(t, err, "DB is missing")
	require.ErrorContains(t, err, "Dialect")
}
