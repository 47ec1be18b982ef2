// Package sqlstore keeps a conductor's routers in an SQL database: a
// [sco.RouterStore] on database/sql.
//
// It imports no driver. The caller opens the database with the driver of its
// choice and says by [Config].Dialect which SQL it speaks:
//
//   - [SQLite] for one machine. Several processes may use the file at the same
//     time. [Store.Migrate] turns write-ahead logging on, and the store sets a
//     busy timeout and full synchronization on the connections that it writes
//     with. Tested with modernc.org/sqlite.
//   - [PostgreSQL] for pairs of conductors and fleets, and for databases that
//     speak its protocol. Only plain SQL is used, without advisory locks,
//     triggers or sequences, so that CockroachDB and YugabyteDB can serve. It is
//     tested with PostgreSQL itself through pgx.
//
// Start with [New], and call [Store.Migrate] once before the first use; every
// process may do so at every start.
//
// # What is stored
//
// Table sco_routers has one row for each router: its name, the record in the
// form of [sco.EncodeRouter], and a random revision that changes with every
// write. Table sco_keys has one row for each key by which a router is found.
// Table sco_schema has the version of the schema. A program that finds a schema
// newer than it knows stops with [ErrSchema] instead of guessing.
//
// An update reads the record, lets the caller change it, and writes it in one
// transaction that succeeds only if the revision is still the same; otherwise it
// begins again. Nothing is locked while the caller thinks. Record and keys
// change in the same transaction, so a crash leaves both as they were or both as
// they were to be.
//
// The records hold the routers' pre-shared secrets in clear. The database file,
// or the database server's disk and the connection to it, have to be protected
// accordingly; this package can't do that.
//
// # What it refuses
//
// It does not repair: a record that can't be decoded is an error that names the
// router. It does not change isolation levels or durability settings of a
// PostgreSQL server: with synchronous_commit off, what was acknowledged can be
// lost, and it is the operator's choice.
package sqlstore
