package ledger

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"
)

// EngineState is what an engine is doing: the word of events, reports, metrics and
// status.
type EngineState string

const (
	Stopped    EngineState = "stopped"
	Starting   EngineState = "starting"
	Ready      EngineState = "ready"
	Suspending EngineState = "suspending"
	Suspended  EngineState = "suspended"
	Waking     EngineState = "waking"
	Crashed    EngineState = "crashed"
)

// EngineStateRow is a row of the table of an engine's states.
type EngineStateRow struct {
	Name EngineState
	Help string // one sentence
	// Part is what a spend meanwhile counts as, while no request runs. Of a state that
	// lets requests in, the time in which one runs is PartServing.
	Part SpendPart
}

// engineStates is the table.
var engineStates = []EngineStateRow{
	{Stopped, "It was not started yet, or was stopped for good.", PartDown},
	{Starting, "Its process runs or is about to, and does not answer yet.", PartWaking},
	{Ready, "It answered its health check, and after a wake its canary.", PartIdle},
	{Suspending, "It is letting the GPU go.", PartSuspended},
	{Suspended, "It holds no GPU memory to speak of; a request wakes it.", PartSuspended},
	{Waking, "Its process lives and takes the GPU again; one that was stopped is starting.", PartWaking},
	{Crashed, "It ended by itself and will be started again.", PartDown},
}

// EngineStates are all states of an engine.
func EngineStates() []EngineStateRow { return slices.Clone(engineStates) }

// GatewayDown is the state of an engine without a gateway: it does not run. No event and
// no status has it; an engine's history does.
const GatewayDown EngineState = "down"

// part is what a spend counts as while the engine is in s without a request, false for a
// state that is not known.
func (s EngineState) part() (SpendPart, bool) {
	if s == GatewayDown {
		return PartDown, true
	}
	i := slices.IndexFunc(engineStates, func(row EngineStateRow) bool { return row.Name == s })
	if i < 0 {
		return 0, false
	}
	return engineStates[i].Part, true
}

// EngineStateAt is what the engine was in from At on: "" where nothing tells, or
// GatewayDown, or a state of the engine.
type EngineStateAt struct {
	At    time.Time
	State EngineState
}

// EngineHistory returns the engine's states in [from, to]; the first is the one
// at from. Where a gateway started and the one before never said that it
// stopped, it was down from the last trace of it on.
func (r *Reader) EngineHistory(from, to time.Time) (states []EngineStateAt, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		events, err := stateEvents(tx, micros(from), micros(to))
		if err != nil {
			return err
		}
		states = append(states, EngineStateAt{At: from})
		if len(events) > 0 && events[0].At.After(from) && events[0].Kind == EventGateway {
			states[0].State = GatewayDown // before it first started, nothing of ours ran
		}
		enterState := func(at time.Time, state EngineState) {
			last := &states[len(states)-1]
			switch {
			case last.State == state:
			case !at.After(last.At): // before the window, or in the same microsecond
				last.State = state
			default:
				states = append(states, EngineStateAt{at, state})
			}
		}
		for i, e := range events {
			if e.Kind == EventGateway && e.Subject == subjectStarted && i > 0 && events[i-1].Subject != subjectStopped {
				trace, err := lastTrace(tx, micros(events[i-1].At), micros(e.At))
				if err != nil {
					return err
				}
				enterState(fromMicros(trace), GatewayDown)
			}
			enterState(e.At, e.state())
		}
		return nil
	})
	return states, err
}

// state is what an event of the engine or the gateway left the engine in.
func (e Event) state() EngineState {
	if e.Kind == EventGateway {
		return GatewayDown // started: its engine is still to come
	}
	_, to, _ := strings.Cut(e.Subject, stateArrow)
	return EngineState(to)
}

// stateEvents returns the events of engine and gateway up to to, in order, from
// the last one at or before from on. It reads them from the newest back.
func stateEvents(tx *sql.Tx, from, to int64) (events []Event, err error) {
	rows, err := tx.Query("SELECT at, kind, subject FROM event WHERE kind IN (?, ?) ORDER BY id DESC", EventEngine, EventGateway)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var at int64
		var e Event
		if err := rows.Scan(&at, &e.Kind, &e.Subject); err != nil {
			return nil, err
		}
		e.At = fromMicros(at)
		if at <= to {
			events = append(events, e)
		}
		if at <= from {
			break
		}
	}
	slices.Reverse(events)
	slices.SortStableFunc(events, func(x, y Event) int { return x.At.Compare(y.At) })
	return events, rows.Err()
}

// lastTrace is the last instant in [after, before) at which something was
// written by a gateway that died: a sample, a finished request, an event.
func lastTrace(tx *sql.Tx, after, before int64) (int64, error) {
	trace := after
	for _, query := range []string{"SELECT max(at) FROM sample WHERE at < ?", "SELECT max(finished) FROM request WHERE finished < ?"} {
		var us sql.NullInt64
		if err := tx.QueryRow(query, before).Scan(&us); err != nil {
			return 0, err
		}
		if us.Valid {
			trace = max(trace, us.Int64)
		}
	}
	return trace, nil
}
