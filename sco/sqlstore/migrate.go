package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// ErrSchema is returned, wrapped, when the database has a schema that is newer
// than this program knows.
var ErrSchema = errors.New("sqlstore: database was written by a newer program")

// migrations lead from each version of the schema to the next. What has been
// released is never changed, only added to. The text BYTES stands for the
// dialect's type.
var migrations = [][]string{
	{
		`CREATE TABLE sco_routers (name VARCHAR(64) PRIMARY KEY, revision BIGINT NOT NULL, record BYTES NOT NULL)`,
		`CREATE TABLE sco_keys (key VARCHAR(256) PRIMARY KEY, router VARCHAR(64) NOT NULL)`,
		`CREATE INDEX sco_keys_router ON sco_keys (router)`,
	},
}

// Migrate brings the schema up to date, or does nothing when it is. It may be
// called by several processes at the same time.
func (s *Store) Migrate(ctx context.Context) error {
	if s.dialect == SQLite {
		// The mode is a property of the file and stays.
		var mode string
		if err := s.retry(ctx, func() error {
			return s.db.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&mode)
		}); err != nil {
			return fmt.Errorf("sqlstore: turning write-ahead logging on: %w", err)
		}
	}
	// Two processes that create the same table in PostgreSQL at the same time
	// can both get an error that says so; the second try finds the table.
	var err error
	for range 3 {
		if err = s.createVersion(ctx); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("sqlstore: creating the schema: %w", err)
	}
	err = s.retry(ctx, func() error {
		return s.transact(ctx, func(q querier) error { return s.migrate(ctx, q) })
	})
	if err != nil {
		return fmt.Errorf("sqlstore: migrating the schema: %w", err)
	}
	return nil
}

func (s *Store) createVersion(ctx context.Context) error {
	return s.retry(ctx, func() error {
		if _, err := s.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS sco_schema (id INTEGER PRIMARY KEY, version INTEGER NOT NULL)`); err != nil {
			return err
		}
		_, err := s.db.ExecContext(ctx, `INSERT INTO sco_schema (id, version) VALUES (1, 0) ON CONFLICT DO NOTHING`)
		return err
	})
}

func (s *Store) migrate(ctx context.Context, q querier) error {
	// The lock on the row keeps other processes out; SQLite's transaction has
	// locked the file already.
	query := `SELECT version FROM sco_schema WHERE id = 1`
	if s.dialect == PostgreSQL {
		query += ` FOR UPDATE`
	}
	var version int
	if err := q.QueryRowContext(ctx, query).Scan(&version); err != nil {
		return err
	}
	if version < 0 || version > len(migrations) {
		return final{fmt.Errorf("%w: schema version %d, this program knows %d", ErrSchema, version, len(migrations))}
	}
	for _, step := range migrations[version:] {
		for _, stmt := range step {
			if _, err := q.ExecContext(ctx, s.types(stmt)); err != nil {
				return err
			}
		}
	}
	_, err := q.ExecContext(ctx, s.sql(`UPDATE sco_schema SET version = ? WHERE id = 1`), len(migrations))
	return err
}

// querier is what *sql.Conn and *sql.Tx have in common.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// transact runs f in a transaction.
func (s *Store) transact(ctx context.Context, f func(querier) error) error {
	if s.dialect == PostgreSQL {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := f(tx); err != nil {
			return err
		}
		return tx.Commit()
	}
	return s.transactSQLite(ctx, f)
}

// transactSQLite writes BEGIN IMMEDIATE itself: the BEGIN of database/sql makes
// a transaction that reads first and can't become one that writes when another
// process has written in between.
func (s *Store) transactSQLite(ctx context.Context, f func(querier) error) (err error) {
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, stmt := range []string{`PRAGMA busy_timeout = 10000`, `PRAGMA synchronous = FULL`} {
		if _, err := c.ExecContext(ctx, stmt); err != nil {
			return err
		}
	}
	if _, err := c.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		// It may have begun all the same when ctx ended meanwhile.
		_, _ = c.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
		return err
	}
	done := false
	defer func() {
		if done {
			return
		}
		// The transaction must not stay open on a connection that goes back to
		// the pool, also when ctx has ended.
		if _, rerr := c.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`); rerr != nil {
			_ = c.Raw(func(any) error { return driver.ErrBadConn })
		}
	}()
	if err := f(c); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, `COMMIT`); err != nil {
		return err
	}
	done = true
	return nil
}

// types puts the dialect's types into a statement.
func (s *Store) types(stmt string) string {
	name := "BLOB"
	if s.dialect == PostgreSQL {
		name = "BYTEA"
	}
	return strings.ReplaceAll(stmt, "BYTES", name)
}
