package ledger

import (
	"database/sql"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
)

// object is a table, an index, a trigger or a view.
type object struct{ kind, name string }

func (o object) String() string { return o.kind + " " + o.name }

// selectObjects reads what makes the schema, with its text. What SQLite makes for
// itself has none, or holds its own statistics.
const selectObjects = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT IN ('sqlite_stat1', 'sqlite_stat4')"

// schema holds the file's own rules against ours: rows that are whole say nothing
// where a view between shows other ones, or a trigger writes what nobody asked for.
func (v *verifier) schema() error {
	ours, err := ownObjects()
	if err != nil {
		return err
	}
	theirs, err := objectsOf(v.tx)
	if err != nil {
		return err
	}
	all := maps.Clone(ours)
	maps.Copy(all, theirs)
	byName := func(a, b object) int { return compareKeys([]any{a.kind, a.name}, []any{b.kind, b.name}) }
	for _, o := range slices.SortedFunc(maps.Keys(all), byName) {
		want, known := ours[o]
		got, there := theirs[o]
		switch {
		case !known:
			err = v.problem("schema: %s was put in by hand", o)
		case !there:
			err = v.problem("schema: %s is missing", o)
		case got != want:
			err = v.problem("schema: %s was changed", o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ownObjects are those that the steps of the schema make: always the same, so that they
// are made once. Nobody may change the map.
var ownObjects = sync.OnceValues(makeOwnObjects)

func makeOwnObjects() (_ map[object]string, err error) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1) // another one would be another database
	files, err := fs.Glob(schema, "schema/*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := schema.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if _, err := db.Exec(string(text)); err != nil {
			return nil, err
		}
	}
	return objectsOf(db)
}

func objectsOf(from interface {
	Query(string, ...any) (*sql.Rows, error)
}) (map[object]string, error) {
	rows, err := from.Query(selectObjects)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[object]string{}
	for rows.Next() {
		var o object
		var text string
		if err := rows.Scan(&o.kind, &o.name, &text); err != nil {
			return nil, err
		}
		all[o] = text
	}
	return all, rows.Err()
}
