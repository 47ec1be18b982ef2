package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mooringlib/mooring/sco"
)

// Dialect is the SQL that a database speaks. The zero value is not a dialect.
type Dialect uint8

// The dialects.
const (
	SQLite Dialect = iota + 1
	PostgreSQL
)

// String returns "sqlite" or "postgresql".
func (d Dialect) String() string {
	switch d {
	case SQLite:
		return "sqlite"
	case PostgreSQL:
		return "postgresql"
	}
	return fmt.Sprintf("Dialect(%d)", uint8(d))
}

const (
	// maxTries bounds how often one update begins again. Each time somebody
	// else has got through, so the bound is met only when hundreds of writers
	// fight for one router, or when the database stays locked.
	maxTries = 100
	// maxPause is the longest delay between two tries; delays begin at 1 ms and
	// vary at random.
	maxPause = 100 * time.Millisecond
	// maxList is the largest page that List returns, whatever is asked for.
	maxList = 10000
)

// Config configures a [Store].
type Config struct {
	// DB is the database. The caller opens and closes it. Required.
	DB *sql.DB
	// Dialect is what DB speaks. Required.
	Dialect Dialect
}

// Store is a [sco.RouterStore] in an SQL database. It is safe for concurrent use,
// by any number of processes.
type Store struct {
	db      *sql.DB
	dialect Dialect
	// writer is held by the one transaction of this process that writes to
	// SQLite, which has room for one: others would poll for the lock and starve
	// one another.
	writer chan struct{}
}

var _ sco.RouterStore = (*Store)(nil)

// New checks cfg. It does no I/O.
func New(cfg Config) (*Store, error) {
	var errs []error
	if cfg.DB == nil {
		errs = append(errs, errors.New("sqlstore: Config.DB is missing"))
	}
	if cfg.Dialect != SQLite && cfg.Dialect != PostgreSQL {
		errs = append(errs, fmt.Errorf("sqlstore: Config.Dialect is not known: %s", cfg.Dialect))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Store{db: cfg.DB, dialect: cfg.Dialect, writer: make(chan struct{}, 1)}, nil
}

// Get implements [sco.RouterStore].
func (s *Store) Get(ctx context.Context, key sco.Key) (*sco.Router, error) {
	var name string
	var record []byte
	err := s.retry(ctx, func() error {
		return s.db.QueryRowContext(ctx, s.sql(`SELECT r.name, r.record FROM sco_keys k JOIN sco_routers r ON r.name = k.router WHERE k.key = ?`),
			string(key)).Scan(&name, &record)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, sco.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("sqlstore: reading a router: %w", err)
	}
	return decode(name, record)
}

// List implements [sco.RouterStore]. A page has at most 10,000 routers.
func (s *Store) List(ctx context.Context, after string, limit int) ([]*sco.Router, error) {
	if limit <= 0 {
		return nil, ctx.Err()
	}
	// Names are compared as bytes, which is SQLite's default; a PostgreSQL
	// database has whatever order it was made with.
	name := "name"
	if s.dialect == PostgreSQL {
		name = `name COLLATE "C"`
	}
	var out []*sco.Router
	err := s.retry(ctx, func() error {
		out = nil
		rows, err := s.db.QueryContext(ctx, s.sql(`SELECT name, record FROM sco_routers WHERE `+name+` > ? ORDER BY `+name+` LIMIT ?`),
			after, min(limit, maxList))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n string
			var record []byte
			if err := rows.Scan(&n, &record); err != nil {
				return err
			}
			r, err := decode(n, record)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("sqlstore: listing routers: %w", err)
	}
	return out, nil
}

// Update implements [sco.RouterStore].
func (s *Store) Update(ctx context.Context, name string, fn func(*sco.Router) (*sco.Router, error)) error {
	return s.retry(ctx, func() error {
		old, revision, err := s.read(ctx, name)
		if err != nil {
			return fmt.Errorf("sqlstore: reading router %.80q: %w", name, err)
		}
		// fn may change what it is given.
		var oldKeys []sco.Key
		if old != nil {
			oldKeys = old.Keys()
		}
		exists := old != nil
		r, err := fn(old)
		if err != nil {
			return final{err}
		}
		w := write{name: name, exists: exists, revision: revision, oldKeys: oldKeys}
		if r != nil {
			if r.Name != name {
				return final{fmt.Errorf("sqlstore: update of router %.80q returned router %.80q", name, r.Name)}
			}
			if w.record, err = sco.EncodeRouter(r); err != nil {
				return final{err}
			}
			w.keys = r.Keys()
		} else if !exists {
			return nil
		}
		err = s.transact(ctx, func(q querier) error { return s.write(ctx, q, w) })
		switch {
		case err == nil, errors.Is(err, sco.ErrKeyTaken), errors.Is(err, errConflict):
			return err
		}
		return fmt.Errorf("sqlstore: writing router %.80q: %w", name, err)
	})
}

// read returns nil where there is no such router.
func (s *Store) read(ctx context.Context, name string) (*sco.Router, int64, error) {
	var revision int64
	var record []byte
	err := s.db.QueryRowContext(ctx, s.sql(`SELECT revision, record FROM sco_routers WHERE name = ?`), name).Scan(&revision, &record)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	r, err := decode(name, record)
	return r, revision, err
}

// decode checks that the record belongs to its row.
func decode(name string, record []byte) (*sco.Router, error) {
	r, err := sco.DecodeRouter(record)
	if err != nil {
		return nil, final{fmt.Errorf("sqlstore: record of router %.80q: %w", name, err)}
	}
	if r.Name != name {
		return nil, final{fmt.Errorf("sqlstore: record of router %.80q is of router %.80q", name, r.Name)}
	}
	return r, nil
}

// write is one change, computed against a revision.
type write struct {
	name          string
	exists        bool
	revision      int64
	oldKeys, keys []sco.Key
	record        []byte // nil removes the router
}

// errConflict says that somebody else was faster.
var errConflict = errors.New("sqlstore: router was changed meanwhile")

func (s *Store) write(ctx context.Context, q querier, w write) error {
	var res sql.Result
	var err error
	// The revision is random and not counted, so that a router that was removed
	// and made anew does not look unchanged.
	switch {
	case w.record == nil:
		res, err = q.ExecContext(ctx, s.sql(`DELETE FROM sco_routers WHERE name = ? AND revision = ?`), w.name, w.revision)
	case w.exists:
		res, err = q.ExecContext(ctx, s.sql(`UPDATE sco_routers SET revision = ?, record = ? WHERE name = ? AND revision = ?`),
			newRevision(), w.record, w.name, w.revision)
	default:
		res, err = q.ExecContext(ctx, s.sql(`INSERT INTO sco_routers (name, revision, record) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`),
			w.name, newRevision(), w.record)
	}
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n != 1 {
		return errConflict
	}
	// The revision is the same, so oldKeys are what the table holds.
	for _, k := range w.oldKeys {
		if slices.Contains(w.keys, k) {
			continue
		}
		if _, err := q.ExecContext(ctx, s.sql(`DELETE FROM sco_keys WHERE key = ? AND router = ?`), string(k), w.name); err != nil {
			return err
		}
	}
	for _, k := range w.keys {
		if slices.Contains(w.oldKeys, k) {
			continue
		}
		res, err := q.ExecContext(ctx, s.sql(`INSERT INTO sco_keys (key, router) VALUES (?, ?) ON CONFLICT DO NOTHING`), string(k), w.name)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n != 1 {
			return s.taken(ctx, q, k)
		}
	}
	return nil
}

// taken names the router that has the key.
func (s *Store) taken(ctx context.Context, q querier, k sco.Key) error {
	var holder string
	err := q.QueryRowContext(ctx, s.sql(`SELECT router FROM sco_keys WHERE key = ?`), string(k)).Scan(&holder)
	if errors.Is(err, sql.ErrNoRows) {
		return errConflict
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %.300q is of router %q", sco.ErrKeyTaken, string(k), holder)
}

func newRevision() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:]) >> 1)
}

// final is an error that no further try can change.
type final struct{ err error }

func (f final) Error() string { return f.err.Error() }
func (f final) Unwrap() error { return f.err }

// retry calls f until it succeeds or fails for a reason that lasts.
func (s *Store) retry(ctx context.Context, f func() error) error {
	var err error
	for try := range maxTries {
		if err = ctx.Err(); err != nil {
			return err
		}
		err = f()
		if f, ok := err.(final); ok {
			return f.err
		}
		if _, ok := errors.AsType[final](err); ok {
			return err
		}
		if err == nil || errors.Is(err, sco.ErrKeyTaken) || !errors.Is(err, errConflict) && !transient(err) {
			return err
		}
		// Equal writers that wait equally long meet again.
		longest := min(time.Millisecond<<min(try, 10), maxPause)
		pause := time.Duration(newRevision() % int64(longest))
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	return fmt.Errorf("sqlstore: given up after %d tries: %w", maxTries, err)
}

// transient recognizes what another transaction's presence causes, without
// knowing the driver: SQLite's drivers have a method Code with the result code
// (5 SQLITE_BUSY, 6 SQLITE_LOCKED), PostgreSQL's one with the SQLSTATE (40001
// serialization failure, 40P01 deadlock).
func transient(err error) bool {
	if errors.Is(err, driver.ErrBadConn) {
		return true
	}
	var coder interface{ Code() int }
	if errors.As(err, &coder) {
		c := coder.Code() & 0xff
		return c == 5 || c == 6
	}
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState() == "40001" || state.SQLState() == "40P01"
	}
	return err != nil && strings.Contains(err.Error(), "database is locked")
}

// sql replaces the placeholders ? by $1, $2 where the dialect wants it. No query
// here has a question mark for anything else.
func (s *Store) sql(query string) string {
	if s.dialect != PostgreSQL {
		return query
	}
	var b strings.Builder
	n := 0
	for _, c := range []byte(query) {
		if c == '?' {
			n++
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
