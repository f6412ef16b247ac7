package ledger

import (
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// form is how the rows of a table that only grows enter the chain: which columns,
// in which order. A form never changes, since the heads are made of it: a table
// that gets another column gets another form, with a number of its own.
type form struct {
	number  int64
	table   string
	columns []string
	keys    int    // how many of the first columns tell a row from all others
	text    bool   // these are text; else integers
	numbers bool   // SQLite numbers the rows: nil for the first column
	twice   string // what is done where the row is there already; "" is an error
}

// The forms. What of series is missing here is a rollup.
var (
	formRequest = &form{number: 1, table: "request", keys: 1, twice: " ON CONFLICT (id) DO NOTHING",
		columns: columns("finished id endpoint model key stream status http started first prompt_tokens cached_tokens completion_tokens lower_bound")}
	formSource = &form{number: 2, table: "source", keys: 1, numbers: true,
		columns: columns("id provider account currency truth step lag calibrated every")}
	formSeries        = &form{number: 3, table: "series", keys: 1, numbers: true, columns: columns("id resource epoch provider kind seen")}
	formState         = &form{number: 4, table: "state", keys: 1, numbers: true, columns: columns("id series kind status running rate created")}
	formRaw           = &form{number: 5, table: "raw", keys: 1, numbers: true, columns: columns("id coding base body")}
	formSample        = &form{number: 6, table: "sample", keys: 1, numbers: true, columns: columns("id at source")}
	formReading       = &form{number: 7, table: "reading", keys: 2, columns: columns("sample state bill raw")}
	formSampleFailure = &form{number: 8, table: "sample_failure", keys: 1, numbers: true, columns: columns("id at call class")}
	formEvent         = &form{number: 9, table: "event", keys: 1, numbers: true, columns: columns("id at kind subject detail")}
	formEngineSample  = &form{number: 10, table: "engine_sample", keys: 1, twice: " ON CONFLICT (at) DO NOTHING",
		columns: columns("at started engine prompt completion with_cached quiet")}
	formGPU       = &form{number: 11, table: "gpu", keys: 1, numbers: true, columns: columns("id uuid name")}
	formGPUMinute = &form{number: 12, table: "gpu_minute", keys: 2, twice: " ON CONFLICT DO NOTHING",
		columns: columns("at gpu since source readings utilisation_avg utilisation_max memory_avg memory_max power_avg power_max temperature_max energy")}
	formKey         = &form{number: 13, table: "api_key", keys: 1, text: true, columns: columns("id name digest created expires budget rpm tpm models")}
	formKeyRevoked  = &form{number: 14, table: "api_key_revoked", keys: 1, text: true, columns: columns("id at")}
	formOverride    = &form{number: 15, table: "override", keys: 1, numbers: true, columns: columns("id at until amount reason")}
	formOverrideEnd = &form{number: 16, table: "override_end", keys: 1, columns: columns("override at")}
)

// forms are all of them, by their numbers from 1.
var forms = []*form{formRequest, formSource, formSeries, formState, formRaw, formSample, formReading, formSampleFailure, formEvent,
	formEngineSample, formGPU, formGPUMinute, formKey, formKeyRevoked, formOverride, formOverrideEnd}

func columns(names string) []string { return strings.Fields(names) }

// insert is the statement that adds a row.
func (f *form) insert() string {
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)%s", f.table, strings.Join(f.columns, ", "), strings.Repeat(", ?", len(f.columns)-1), f.twice)
}

// selectAll reads the rows in the order of their keys.
func (f *form) selectAll() string {
	return f.selectRows() + " ORDER BY " + strings.Join(f.columns[:f.keys], ", ")
}

// selectOne reads the row of a key.
func (f *form) selectOne() string {
	return f.selectRows() + " WHERE " + strings.Join(f.columns[:f.keys], " = ? AND ") + " = ?"
}

func (f *form) selectRows() string {
	return "SELECT " + strings.Join(f.columns, ", ") + " FROM " + f.table
}

// How a value begins, in what is hashed.
const (
	tagNull = iota
	tagInteger
	tagText
	tagBlob
)

// appendRow writes a row as it is hashed: the number of its form, then each of its
// columns.
func (f *form) appendRow(b []byte, row []any) []byte {
	b = appendInteger(b, f.number)
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

// covers says which rows a link covers, in their order: for each the number of its
// form and its key. Of a key, text is its length and its bytes; an integer is the
// difference to the one in the same place of the row before of that form. All
// numbers are varints, those that may be negative zigzag.
type covers struct {
	b    []byte
	last [32][2]int64 // by form
}

func (c *covers) add(f *form, key []any) {
	c.b = binary.AppendUvarint(c.b, uint64(f.number))
	last := &c.last[f.number]
	for i, v := range key {
		switch v := v.(type) {
		case int64:
			c.b = binary.AppendVarint(c.b, v-last[i])
			last[i] = v
		case string:
			c.b = append(binary.AppendUvarint(c.b, uint64(len(v))), v...)
		default:
			panic(fmt.Sprintf("BUG: a key of type %T in %s", v, f.table))
		}
	}
}

var errCovers = errors.New("the list of its rows cannot be read")

// next reads what add wrote. f is nil where no more follows.
func (c *covers) next() (f *form, key []any, err error) {
	if len(c.b) == 0 {
		return nil, nil, nil
	}
	number, n := binary.Uvarint(c.b)
	if n <= 0 || number == 0 || number > uint64(len(forms)) {
		return nil, nil, errCovers
	}
	f, c.b = forms[number-1], c.b[n:]
	for i := range f.keys {
		if f.text {
			size, n := binary.Uvarint(c.b)
			if n <= 0 || size > uint64(len(c.b)-n) {
				return nil, nil, errCovers
			}
			end := n + int(size)
			key, c.b = append(key, string(c.b[n:end])), c.b[end:]
			continue
		}
		d, n := binary.Varint(c.b)
		if n <= 0 {
			return nil, nil, errCovers
		}
		c.last[f.number][i] += d
		key, c.b = append(key, c.last[f.number][i]), c.b[n:]
	}
	return f, key, nil
}
