package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/sqlstore"
)

// A program imports the driver that it wants and opens the database; the store
// does the rest.
func Example() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	// Each connection to :memory: would be a database of its own.
	db.SetMaxOpenConns(1)
	store, err := sqlstore.New(sqlstore.Config{DB: db, Dialect: sqlstore.SQLite})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	registry, err := sco.NewRegistry(sco.RegistryConfig{Store: store})
	if err != nil {
		log.Fatal(err)
	}
	err = registry.Configure(ctx, "branch", func(r *sco.Router, _ bool) error {
		r.Mode = sco.ModeStrong
		r.Nodes = []sco.Node{{Name: "node0", AssetID: "A-1", Role: "combo"}}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	r, err := store.Get(ctx, sco.AssetKey("A-1"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Name, r.Mode, r.Secret)
	// Output: branch strong (redacted)
}
