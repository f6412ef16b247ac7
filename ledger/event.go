package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// EventKind is what an event is about.
type EventKind string

const (
	EventBilling EventKind = "billing"
	EventBudget  EventKind = "budget"
	EventEngine  EventKind = "engine"
	EventGate    EventKind = "gate"
	EventGateway EventKind = "gateway"
	EventGPU     EventKind = "gpu"
	EventKey     EventKind = "key"
	EventLedger  EventKind = "ledger"
	EventMeter   EventKind = "meter"

	// EventSample is for samples of the bill that failed. They have a table of their
	// own, and stand among the events where these are shown.
	EventSample EventKind = "sample"
)

// Event is something that happened and that a person may ask about later, as the ledger
// keeps it.
type Event struct {
	At      time.Time
	Kind    EventKind
	Subject string // what happened, in a word of the table: "closed", "starting→ready"
	Detail  string // a JSON object; "" where there is nothing to add
}

// EventDetail is what happened and what to know about it. Kind and subject of the event
// follow from its type. The types of the table are all there are, so that no event is
// written that the table does not have.
type EventDetail interface {
	// eventDetail is what the event's detail is the JSON of; nil for no detail.
	eventDetail() any
}

// EventType is a row of the table of events.
type EventType struct {
	Kind EventKind
	// Subject is the event's subject. A word in capitals stands for one that differs
	// from event to event.
	Subject string
	Help    string      // one sentence
	Detail  EventDetail // one that has its fields
}

// Subjects that are read back.
const (
	subjectStarted      = "started"
	subjectStopped      = "stopped"
	subjectResidual     = "residual"
	subjectLossAccepted = "loss_accepted"

	// SubjectClockUnchecked is the subject of ClockUnchecked.
	SubjectClockUnchecked = "clock_unchecked"
)

// eventTypes is the table of all events.
var eventTypes = []EventType{
	{EventBilling, "balance_low", "What the account has left fell below the threshold.", BalanceLow{}},
	{EventBilling, "balance_ok", "What the account has left is above the threshold again.", BalanceOK{}},
	{EventBilling, SubjectClockUnchecked, "A sample came more than a day after the one before, without a time of the provider's: whether the clock was right is not known.", ClockUnchecked{}},
	{EventBilling, subjectResidual, "The account paid for more than is sampled: something else on it costs money.", Residual{}},
	{EventBudget, "override", "The budget was lifted for a while, by somebody's word.", overrideSet{}},
	{EventBudget, "override_end", "An override of the budget was ended before its time.", overrideEnded{}},
	{EventEngine, "FROM" + stateArrow + "TO", "The engine's state changed.", EngineChange{}},
	{EventGate, "open", "The gate opened: new requests are let in.", GateOpened{Budget: "40/day"}},
	{EventGate, "closed", "The gate closed: new requests are refused.", GateClosed{}},
	{EventGate, "on_close_started", "The command of --on-close was started.", OnCloseStarted{}},
	{EventGate, "on_close_ended", "The command of --on-close ended.", OnCloseEnded{}},
	{EventGateway, subjectStarted, "serve started.", GatewayStarted{}},
	{EventGateway, subjectStopped, "serve was told to stop, and did.", GatewayStopped{}},
	{EventGPU, "source NAME", "The GPUs are read by another source from now on.", GPUSource{}},
	{EventGPU, "xid CODE", "The driver reported an error of a GPU.", GPUXID{}},
	{EventKey, "created", "An API key was made.", keyCreated{}},
	{EventKey, "revoked", "An API key was ended.", keyRevoked{}},
	{EventLedger, subjectLossAccepted, "The ledger goes on without rows that it has lost, by somebody's word.", LossAccepted{}},
	{EventMeter, "drift", "The engine's own counters and the ledger disagree, and nothing explains it.", MeterDrift{}},
	{EventSample, "failed", "The bill could not be read.", SampleFailure{}},
}

// EventTypes is the table of all events.
func EventTypes() []EventType { return slices.Clone(eventTypes) }

// EventKinds are all the kinds of events, in order.
func EventKinds() []EventKind {
	var kinds []EventKind
	for _, t := range eventTypes {
		kinds = append(kinds, t.Kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// eventTypeOf is the row of the table that d belongs to.
func eventTypeOf(d EventDetail) EventType {
	i := slices.IndexFunc(eventTypes, func(t EventType) bool { return reflect.TypeOf(t.Detail) == reflect.TypeOf(d) })
	if i < 0 {
		panic(fmt.Sprintf("BUG: %T is not in the table of events", d))
	}
	return eventTypes[i]
}

// NewEvent is d as the ledger keeps it, of the time at.
func NewEvent(at time.Time, d EventDetail) Event {
	t := eventTypeOf(d)
	e := Event{At: at, Kind: t.Kind, Subject: t.Subject}
	if s, ok := d.(interface{ eventSubject() string }); ok {
		e.Subject = s.eventSubject()
	}
	v := d.eventDetail()
	if v == nil {
		return e
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // it is shown in texts, too
	if err := enc.Encode(v); err != nil {
		panic("BUG: an event that is not JSON: " + err.Error())
	}
	e.Detail = strings.TrimSuffix(text.String(), "\n")
	return e
}

// AddEvent writes what happened at an instant.
func (l *Ledger) AddEvent(at time.Time, d EventDetail) error {
	e := NewEvent(at, d)
	return l.submit(context.Background(), func(w *batch) error { return w.addEvent(e) })
}

func (w *batch) addEvent(e Event) error {
	_, _, err := w.insert(tableEvent, nil, micros(e.At), string(e.Kind), e.Subject, e.Detail)
	return err
}

// Events returns the events of a kind in (from, to], in order.
func (r *Reader) Events(kind EventKind, from, to time.Time) (events []Event, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT at, subject, detail FROM event WHERE kind = ? AND at > ? AND at <= ? ORDER BY at, id", kind, micros(from), micros(to))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e := Event{Kind: kind}
			var at int64
			if err := rows.Scan(&at, &e.Subject, &e.Detail); err != nil {
				return err
			}
			e.At = fromMicros(at)
			events = append(events, e)
		}
		return rows.Err()
	})
	return events, err
}

// GatewayStarts returns when serve started in (from, to], in order.
func (r *Reader) GatewayStarts(from, to time.Time) (at []time.Time, err error) {
	events, err := r.Events(EventGateway, from, to)
	for _, e := range events {
		if e.Subject == subjectStarted {
			at = append(at, e.At)
		}
	}
	return at, err
}

// EventField is a field of an event's detail.
type EventField struct {
	Name     string // in the JSON object; "prompt.engine" is a field of an object in it
	Type     string // "text", "integer", "decimal", "number", "time", "texts", "numbers"
	Unit     string // "seconds", "tokens", "requests", "currency"; "" where it has none
	Optional bool   // it is left out, or null, where there is nothing to say
}

// Fields are the fields of the event's detail, in order.
func (t EventType) Fields() []EventField {
	v := t.Detail.eventDetail()
	if v == nil {
		return nil
	}
	return fieldsOf(reflect.TypeOf(v), "", false)
}

// fieldsOf reads the fields of a struct from its tags. What is of an object in it has
// the object's name before its own.
func fieldsOf(typ reflect.Type, prefix string, optional bool) (all []EventField) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			all = append(all, fieldsOf(f.Type, prefix, optional)...)
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		field := EventField{Name: prefix + name, Unit: f.Tag.Get("unit"), Optional: optional || option == "omitempty"}
		value := f.Type
		if value.Kind() == reflect.Pointer {
			field.Optional, value = true, value.Elem()
		}
		switch value {
		case reflect.TypeFor[time.Time]():
			field.Type = "time"
		case reflect.TypeFor[Seconds]():
			field.Type, field.Unit = "number", "seconds"
		case reflect.TypeFor[map[string]Seconds]():
			field.Type, field.Unit = "numbers", "seconds"
		case reflect.TypeFor[amount]():
			field.Type, field.Unit = "decimal", "currency"
		case reflect.TypeFor[[]string]():
			field.Type = "texts"
		default:
			switch value.Kind() {
			case reflect.String:
				field.Type = "text"
			case reflect.Int, reflect.Int64, reflect.Uint64:
				field.Type = "integer"
			case reflect.Struct:
				all = append(all, fieldsOf(value, field.Name+".", field.Optional)...)
				continue
			default:
				panic(fmt.Sprintf("BUG: a field of type %s in the detail of an event", value))
			}
		}
		all = append(all, field)
	}
	return all
}

func (f SampleFailure) eventDetail() any {
	return struct {
		Class string `json:"class"`
		Call  string `json:"call"`
	}{f.Class, f.Call}
}

// amount is money in the detail of an event: decimal text.
type amount Nanos

func (a amount) MarshalJSON() ([]byte, error) { return json.Marshal(Nanos(a).String()) }

func (a *amount) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	n, err := ParseNanos(text)
	*a = amount(n)
	return err
}

// Balance is what the provider's account has left.
type Balance struct {
	Left, Threshold Nanos
	Currency        string
}

func (b Balance) detail() any {
	return struct {
		Left      amount `json:"left"`
		Threshold amount `json:"threshold"`
		Currency  string `json:"currency"`
	}{amount(b.Left), amount(b.Threshold), b.Currency}
}

// BalanceLow is an account that is running out of money.
type BalanceLow Balance

func (b BalanceLow) eventDetail() any { return Balance(b).detail() }

// BalanceOK is one that was, and is not any more.
type BalanceOK Balance

func (b BalanceOK) eventDetail() any { return Balance(b).detail() }

// ClockUnchecked is a sample under a clock that nobody could check. It is written with
// the sample, and has its time.
type ClockUnchecked struct {
	Sample int64      `json:"sample"` // its id
	Before *time.Time `json:"before"` // when the one before was taken
}

func (c ClockUnchecked) eventDetail() any { return c }

// GateOpened is a gate that lets requests in again.
type GateOpened struct {
	Budget string `json:"budget"` // the limits under which it opened, "40/day,900/month"; "" for none, and then there is no detail
}

func (g GateOpened) eventDetail() any {
	if g.Budget == "" {
		return nil
	}
	return g
}

// GateOpenedUnder tells whether the gate was ever open under the same limits.
func (r *Reader) GateOpenedUnder(limits string) (opened bool, err error) {
	e := NewEvent(time.Time{}, GateOpened{Budget: limits})
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT EXISTS (SELECT 1 FROM event WHERE kind = ? AND subject = ? AND detail = ?)", string(e.Kind), e.Subject, e.Detail).Scan(&opened)
	})
	return opened, err
}

// GateClosed is a gate that refuses requests.
type GateClosed struct {
	Reason string `json:"reason"` // the word of metrics and bodies
	Why    string `json:"why"`    // for the operator
}

func (g GateClosed) eventDetail() any { return g }

// OnCloseStarted is the start of the operator's command that follows a closed gate.
type OnCloseStarted struct {
	Reason string `json:"reason"` // as in GateClosed
}

func (o OnCloseStarted) eventDetail() any { return o }

// OnCloseEnded is the end of that command.
type OnCloseEnded struct {
	Outcome string  `json:"outcome"` // "done", or what went wrong
	Took    Seconds `json:"seconds"`
}

func (o OnCloseEnded) eventDetail() any { return o }

// GatewayStarted is a serve that began.
type GatewayStarted struct{}

func (GatewayStarted) eventDetail() any { return nil }

// GatewayStopped is a serve that ended as it should.
type GatewayStopped struct{}

func (GatewayStopped) eventDetail() any { return nil }

// GPUSource is who reads the GPUs from now on.
type GPUSource struct {
	Source string `json:"-"`      // the subject has it
	Reason string `json:"reason"` // why there is no better one
}

func (g GPUSource) eventDetail() any     { return g }
func (g GPUSource) eventSubject() string { return "source " + g.Source }

// GPUXID is an error that the driver reported.
type GPUXID struct {
	UUID string    `json:"uuid"`
	XID  uint64    `json:"xid"`
	At   time.Time `json:"at"`
}

func (g GPUXID) eventDetail() any     { g.At = g.At.UTC(); return g }
func (g GPUXID) eventSubject() string { return fmt.Sprintf("xid %d", g.XID) }

// MeterDrift is a difference between the engine's counters and the ledger that nothing
// explains.
type MeterDrift struct {
	From               time.Time // since when they disagree
	Prompt, Completion EngineDiff
}

func (m MeterDrift) eventDetail() any {
	type counter struct {
		Engine   int64 `json:"engine" unit:"tokens"`
		Ledger   int64 `json:"ledger" unit:"tokens"`
		Rounding int64 `json:"rounding" unit:"tokens"`
	}
	of := func(d EngineDiff) counter { return counter{d.Engine, d.Ledger, d.Rounding} }
	return struct {
		From       time.Time `json:"from"`
		Prompt     counter   `json:"prompt"`
		Completion counter   `json:"completion"`
	}{m.From.UTC(), of(m.Prompt), of(m.Completion)}
}
