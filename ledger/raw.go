package ledger

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A billing reply differs from the one before in a few digits. So the first one
// of an hour is kept whole, deflated, and the others as what differs from that:
// to read one back takes two rows, however long the year.

// How a row of raw is coded.
const (
	codingGzip    = 0 // of schema 1
	codingDeflate = 1
	// codingDiffer is the length of the prefix that the reply shares with the
	// reply base, then the rest, deflated with what follows in base as dictionary.
	codingDiffer = 2
)

// worthIt is how many times smaller a difference must be than the reply: JSON
// deflates by half on its own, and a reply that changed so much is a new base.
const worthIt = 3

// deflateWindow is how far back deflate can refer.
const deflateWindow = 32 << 10

// addRaw keeps a billing reply and returns its id, NULL for nil. kept holds the
// replies of this sample: one reply may tell several bills. A reply that equals
// the one before is not written again.
func (w *batch) addRaw(series, hour int64, body []byte, kept map[string]int64) (sql.NullInt64, error) {
	if body == nil {
		return sql.NullInt64{}, nil
	}
	id, ok := kept[string(body)]
	if !ok {
		var err error
		if id, err = w.writeRaw(series, hour, body); err != nil {
			return sql.NullInt64{}, fmt.Errorf("raw reply: %w", err)
		}
		kept[string(body)] = id
	}
	return sql.NullInt64{Int64: id, Valid: true}, nil
}

func (w *batch) writeRaw(series, hour int64, body []byte) (int64, error) {
	var packed []byte
	coding, base := codingDeflate, sql.NullInt64{}
	var newest, whole, headHour int64
	err := w.scan("SELECT newest, whole, hour FROM raw_head WHERE series = ?", []any{series}, &newest, &whole, &headHour)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return 0, err
	default:
		last, err := readRaw(w, newest)
		if err != nil {
			return 0, err
		}
		if bytes.Equal(last, body) {
			return newest, nil
		}
		if headHour != hour {
			break
		}
		if newest != whole {
			if last, err = readRaw(w, whole); err != nil {
				return 0, err
			}
		}
		differ, err := differ(last, body)
		if err != nil {
			return 0, err
		}
		if len(differ) < len(body)/worthIt {
			packed, coding, base = differ, codingDiffer, sql.NullInt64{Int64: whole, Valid: true}
		}
	}
	if packed == nil {
		if packed, err = deflate(nil, body); err != nil {
			return 0, err
		}
	}
	id, _, err := w.insert(tableRaw, nil, coding, base, packed)
	if err != nil {
		return 0, err
	}
	if coding == codingDeflate {
		whole = id
	}
	_, err = w.exec("INSERT OR REPLACE INTO raw_head VALUES (?, ?, ?, ?)", series, id, whole, hour)
	return id, err
}

// scanner is what reads one row: a batch or a transaction.
type scanner interface {
	scan(query string, args []any, dest ...any) error
}

type txScanner struct{ *sql.Tx }

func (tx txScanner) scan(query string, args []any, dest ...any) error {
	return tx.QueryRow(query, args...).Scan(dest...)
}

// readRaw returns a reply as it came.
func readRaw(from scanner, id int64) ([]byte, error) {
	var coding int
	var base sql.NullInt64
	var packed []byte
	if err := from.scan("SELECT coding, base, body FROM raw WHERE id = ?", []any{id}, &coding, &base, &packed); err != nil {
		return nil, fmt.Errorf("raw reply %d: %w", id, err)
	}
	body, err := func() ([]byte, error) {
		switch coding {
		case codingGzip:
			z, err := gzip.NewReader(bytes.NewReader(packed))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(z)
		case codingDeflate:
			return io.ReadAll(flate.NewReader(bytes.NewReader(packed)))
		case codingDiffer:
			var baseCoding int
			if err := from.scan("SELECT coding FROM raw WHERE id = ?", []any{base.Int64}, &baseCoding); err != nil {
				return nil, err
			}
			if baseCoding == codingDiffer {
				return nil, fmt.Errorf("its base %d is not whole", base.Int64)
			}
			whole, err := readRaw(from, base.Int64)
			if err != nil {
				return nil, err
			}
			return undiffer(whole, packed)
		}
		return nil, fmt.Errorf("coding %d is not known", coding)
	}()
	if err != nil {
		return nil, fmt.Errorf("raw reply %d: %w", id, err)
	}
	return body, nil
}

func deflate(dict, body []byte) ([]byte, error) {
	var packed bytes.Buffer
	z, err := flate.NewWriterDict(&packed, flate.BestCompression, dict)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(body); err != nil {
		return nil, err
	}
	err = z.Close()
	return packed.Bytes(), err
}

// differ codes body as what it does not share with base.
func differ(base, body []byte) ([]byte, error) {
	same := 0
	for same < len(base) && same < len(body) && base[same] == body[same] {
		same++
	}
	packed, err := deflate(dictionary(base, same), body[same:])
	return slices.Concat(binary.AppendUvarint(nil, uint64(same)), packed), err
}

func undiffer(base, packed []byte) ([]byte, error) {
	same, n := binary.Uvarint(packed)
	if n <= 0 || same > uint64(len(base)) {
		return nil, errors.New("it does not fit its base")
	}
	rest, err := io.ReadAll(flate.NewReaderDict(bytes.NewReader(packed[n:]), dictionary(base, int(same))))
	return slices.Concat(base[:same], rest), err
}

// dictionary is what deflate may refer to: of what follows in base, the nearest.
func dictionary(base []byte, same int) []byte {
	return base[same:min(len(base), same+deflateWindow)]
}

// Raw returns the billing reply behind a line of a sample, nil where none was kept.
func (r *Reader) Raw(sample int64, resource, epoch string) (body []byte, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var raw sql.NullInt64
		err := tx.QueryRow("SELECT raw FROM line WHERE sample = ? AND resource = ? AND epoch = ?", sample, resource, epoch).Scan(&raw)
		if errors.Is(err, sql.ErrNoRows) || err == nil && !raw.Valid {
			return nil
		}
		if err != nil {
			return err
		}
		body, err = readRaw(txScanner{tx}, raw.Int64)
		return err
	})
	return body, err
}
