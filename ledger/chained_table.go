package ledger

import (
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// chainedTable is how the rows of a table that only grows enter the chain: which columns,
// in which order. It never changes, since the heads are made of it: a table that gets
// another column gets another chainedTable, with a number of its own (its form, in
// docs/ledger.md).
type chainedTable struct {
	number     int64
	table      string
	columns    []string
	keys       int    // how many of the first columns tell a row from all others
	textKey    bool   // these are text; else integers
	autoID     bool   // SQLite numbers the rows: nil for the first column
	onConflict string // the clause for a row that is there already; "" is an error
}

// The chained tables. What of series is missing here is a rollup.
var (
	tableRequest = &chainedTable{number: 1, table: "request", keys: 1, onConflict: " ON CONFLICT (id) DO NOTHING",
		columns: columns("finished id endpoint model key stream status http started first prompt_tokens cached_tokens completion_tokens lower_bound")}
	tableSource = &chainedTable{number: 2, table: "source", keys: 1, autoID: true,
		columns: columns("id provider account currency truth step lag calibrated every")}
	tableSeries        = &chainedTable{number: 3, table: "series", keys: 1, autoID: true, columns: columns("id resource epoch provider kind seen")}
	tableState         = &chainedTable{number: 4, table: "state", keys: 1, autoID: true, columns: columns("id series kind status running rate created")}
	tableRaw           = &chainedTable{number: 5, table: "raw", keys: 1, autoID: true, columns: columns("id coding base body")}
	tableSample        = &chainedTable{number: 6, table: "sample", keys: 1, autoID: true, columns: columns("id at source")}
	tableReading       = &chainedTable{number: 7, table: "reading", keys: 2, columns: columns("sample state bill raw")}
	tableSampleFailure = &chainedTable{number: 8, table: "sample_failure", keys: 1, autoID: true, columns: columns("id at call class")}
	tableEvent         = &chainedTable{number: 9, table: "event", keys: 1, autoID: true, columns: columns("id at kind subject detail")}
	tableEngineSample  = &chainedTable{number: 10, table: "engine_sample", keys: 1, onConflict: " ON CONFLICT (at) DO NOTHING",
		columns: columns("at started engine prompt completion with_cached quiet")}
	tableGPU       = &chainedTable{number: 11, table: "gpu", keys: 1, autoID: true, columns: columns("id uuid name")}
	tableGPUMinute = &chainedTable{number: 12, table: "gpu_minute", keys: 2, onConflict: " ON CONFLICT DO NOTHING",
		columns: columns("at gpu since source readings utilisation_avg utilisation_max memory_avg memory_max power_avg power_max temperature_max energy")}
	tableKey         = &chainedTable{number: 13, table: "api_key", keys: 1, textKey: true, columns: columns("id name digest created expires budget rpm tpm models")}
	tableKeyRevoked  = &chainedTable{number: 14, table: "api_key_revoked", keys: 1, textKey: true, columns: columns("id at")}
	tableOverride    = &chainedTable{number: 15, table: "override", keys: 1, autoID: true, columns: columns("id at until amount reason")}
	tableOverrideEnd = &chainedTable{number: 16, table: "override_end", keys: 1, columns: columns("override at")}

	tableEngineExcess = &chainedTable{number: 17, table: "engine_excess", keys: 1, columns: columns("finished prompt_again prompt_most completion_most")}
	tableSampleVoid   = &chainedTable{number: 18, table: "sample_void", keys: 1, columns: columns("sample at reason")}
)

// chainedTables are all of them, by their numbers from 1.
var chainedTables = []*chainedTable{tableRequest, tableSource, tableSeries, tableState, tableRaw, tableSample, tableReading, tableSampleFailure, tableEvent,
	tableEngineSample, tableGPU, tableGPUMinute, tableKey, tableKeyRevoked, tableOverride, tableOverrideEnd, tableEngineExcess, tableSampleVoid}

func columns(names string) []string { return strings.Fields(names) }

// insert is the statement that adds a row.
func (t *chainedTable) insert() string {
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)%s", t.table, strings.Join(t.columns, ", "), strings.Repeat(", ?", len(t.columns)-1), t.onConflict)
}

// selectAll reads the rows in the order of their keys.
func (t *chainedTable) selectAll() string {
	return t.selectRows() + " ORDER BY " + strings.Join(t.columns[:t.keys], ", ")
}

// selectOne reads the row of a key.
func (t *chainedTable) selectOne() string {
	return t.selectRows() + " WHERE " + strings.Join(t.columns[:t.keys], " = ? AND ") + " = ?"
}

func (t *chainedTable) selectRows() string {
	return "SELECT " + strings.Join(t.columns, ", ") + " FROM " + t.table
}

// How a value begins, in what is hashed.
const (
	tagNull = iota
	tagInteger
	tagText
	tagBlob
)

// appendRow writes a row as it is hashed: the number of its table, then each of its
// columns.
func (t *chainedTable) appendRow(b []byte, row []any) []byte {
	b = appendInteger(b, t.number)
	for _, v := range row {
		b = appendValue(b, v)
	}
	return b
}

// appendValue writes a value: what it is, then, of an integer its 64 bits, of
// another one its length in 64 bits and its bytes; big-endian.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, tagNull)
	case int64:
		return appendInteger(b, v)
	case int:
		return appendInteger(b, int64(v))
	case bool:
		if v {
			return appendInteger(b, 1)
		}
		return appendInteger(b, 0)
	case string:
		b = binary.BigEndian.AppendUint64(append(b, tagText), uint64(len(v)))
		return append(b, v...)
	case []byte:
		b = binary.BigEndian.AppendUint64(append(b, tagBlob), uint64(len(v)))
		return append(b, v...)
	case sql.NullInt64:
		if !v.Valid {
			return append(b, tagNull)
		}
		return appendInteger(b, v.Int64)
	}
	plain, err := driver.DefaultParameterConverter.ConvertValue(v)
	switch plain.(type) {
	case nil, int64, bool, string, []byte:
		if err == nil {
			return appendValue(b, plain)
		}
	}
	panic(fmt.Sprintf("BUG: a value of type %T in the ledger", v))
}

func appendInteger(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tagInteger), uint64(n))
}

// coverage says which rows a link covers, in their order: for each the number of its
// table and its key. Of a key, text is its length and its bytes; an integer is the
// difference to the one in the same place of the row before of that table. All
// numbers are varints, those that may be negative zigzag.
type coverage struct {
	b    []byte
	last [32][2]int64 // by table
}

func (c *coverage) add(t *chainedTable, key []any) {
	c.b = binary.AppendUvarint(c.b, uint64(t.number))
	last := &c.last[t.number]
	for i, v := range key {
		switch v := v.(type) {
		case int64:
			c.b = binary.AppendVarint(c.b, v-last[i])
			last[i] = v
		case string:
			c.b = append(binary.AppendUvarint(c.b, uint64(len(v))), v...)
		default:
			panic(fmt.Sprintf("BUG: a key of type %T in %s", v, t.table))
		}
	}
}

var errCoverage = errors.New("the list of its rows cannot be read")

// next reads what add wrote. t is nil where no more follows.
func (c *coverage) next() (t *chainedTable, key []any, err error) {
	if len(c.b) == 0 {
		return nil, nil, nil
	}
	number, n := binary.Uvarint(c.b)
	if n <= 0 || number == 0 || number > uint64(len(chainedTables)) {
		return nil, nil, errCoverage
	}
	t, c.b = chainedTables[number-1], c.b[n:]
	for i := range t.keys {
		if t.textKey {
			size, n := binary.Uvarint(c.b)
			if n <= 0 || size > uint64(len(c.b)-n) {
				return nil, nil, errCoverage
			}
			end := n + int(size)
			key, c.b = append(key, string(c.b[n:end])), c.b[end:]
			continue
		}
		d, n := binary.Varint(c.b)
		if n <= 0 {
			return nil, nil, errCoverage
		}
		c.last[t.number][i] += d
		key, c.b = append(key, c.last[t.number][i]), c.b[n:]
	}
	return t, key, nil
}
