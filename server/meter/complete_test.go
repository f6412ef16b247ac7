package meter_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/server/meter"
)

// asked is when the tests' responses were asked for.
const askedAt = 1700000000

// completeStream is copyStream with what llama-server leaves out added.
func completeStream(d meter.Dialect, e meter.Engine, ask meter.Ask, src []byte, cut func(left int) int) result {
	m := meter.New(d, e, ask)
	m.Complete(askedAt)
	return streamThrough(m, src, cut)
}

// streamedEvent is an event of a response's stream. A member that is missing is nil.
type streamedEvent struct {
	Type     string
	Sequence *int64 `json:"sequence_number"`
	Output   *int64 `json:"output_index"`
	Content  *int64 `json:"content_index"`
	ItemID   string `json:"item_id"`
	Item     struct{ ID string }
	Response struct {
		ID        string
		CreatedAt *int64 `json:"created_at"`
		Model     *string
		Output    []json.RawMessage
	}
}

// eventsOf reads a stream as a client does, and wants each event to be one of JSON.
func eventsOf(t *testing.T, stream string) (events []streamedEvent) {
	t.Helper()
	for block := range strings.SplitSeq(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		name, data, ok := strings.Cut(block, "\ndata: ")
		var e streamedEvent
		if err := json.Unmarshal([]byte(data), &e); err != nil || !ok || name != "event: "+e.Type {
			t.Fatalf("event %q: %v", block, err)
		}
		events = append(events, e)
	}
	return events
}

// shape is an event in a word: its type, its number, and the places of its item and part.
func (e streamedEvent) shape() string {
	s := strings.TrimPrefix(e.Type, "response.")
	for _, n := range []*int64{e.Sequence, e.Output, e.Content} {
		if n != nil {
			s += fmt.Sprint(" ", *n)
		}
	}
	return s
}

// TestCompleteResponse: what the real engine wrote, with what OpenAI's clients need.
func TestCompleteResponse(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		src := capture(t, name)
		ask := prepare(t, meter.Responses, meter.LlamaServer, `{"model":"ti\"ny","stream":true}`)
		got := everySplit(t, completeStream, meter.Responses, meter.LlamaServer, ask, src)
		plain := copyStream(meter.Responses, meter.LlamaServer, ask, src, func(left int) int { return left })
		checkCompleted(t, plain, got)

		var shapes []string
		for _, e := range eventsOf(t, got.Now+got.Tail) {
			shapes = append(shapes, e.shape())
			r := e.Response
			if e.Type != "response.created" && e.Type != "response.in_progress" {
				continue
			}
			if r.CreatedAt == nil || *r.CreatedAt != askedAt || r.Model == nil || *r.Model != `ti"ny` || r.Output == nil {
				t.Errorf("%s: %s has %+v", name, e.Type, r)
			}
		}
		if got := strings.Join(shapes, "\n"); got != strings.Trim(strings.ReplaceAll(want, "\t", ""), "\n") {
			t.Errorf("%s: the events are\n%s", name, got)
		}
	}
	f("responses-stream", `
		created 0
		in_progress 1
		output_item.added 2 0
		content_part.added 3 0 0
		output_text.delta 4 0 0
		output_text.delta 5 0 0
		output_text.delta 6 0 0
		output_text.delta 7 0 0
		output_text.delta 8 0 0
		output_text.delta 9 0 0
		output_text.done 10 0 0
		content_part.done 11 0 0
		output_item.done 12 0
		completed 13`)
	// The engine ends its items only when all have begun.
	f("responses-calls-stream", `
		created 0
		in_progress 1
		output_item.added 2 0
		content_part.added 3 0 0
		reasoning_text.delta 4 0 0
		reasoning_text.delta 5 0 0
		reasoning_text.delta 6 0 0
		reasoning_text.delta 7 0 0
		output_item.added 8 1
		content_part.added 9 1 0
		output_text.delta 10 1 0
		output_text.delta 11 1 0
		output_text.delta 12 1 0
		output_item.added 13 2
		function_call_arguments.delta 14 2
		function_call_arguments.delta 15 2
		function_call_arguments.delta 16 2
		function_call_arguments.delta 17 2
		output_item.added 18 3
		function_call_arguments.delta 19 3
		function_call_arguments.delta 20 3
		function_call_arguments.delta 21 3
		function_call_arguments.delta 22 3
		output_item.done 23 0
		output_text.done 24 1 0
		content_part.done 25 1 0
		output_item.done 26 1
		output_item.done 27 2
		output_item.done 28 3
		completed 29`)
	// Cut by max_output_tokens within its thoughts, which the engine calls completed.
	f("responses-thoughts-stream", `
		created 0
		in_progress 1
		output_item.added 2 0
		content_part.added 3 0 0
		reasoning_text.delta 4 0 0
		reasoning_text.delta 5 0 0
		output_item.done 6 0
		completed 7`)
}

// TestCompletedPlacesAreTheResponses: an item's output_index is its place in the output of
// the response at its end, and a part's content_index its place in the item's content.
func TestCompletedPlacesAreTheResponses(t *testing.T) {
	src := capture(t, "responses-calls-stream")
	got := completeStream(meter.Responses, meter.LlamaServer, meter.Ask{}, src, func(left int) int { return left })
	events := eventsOf(t, got.Now+got.Tail)
	var final []string
	for _, raw := range events[len(events)-1].Response.Output {
		var item struct{ ID string }
		if err := json.Unmarshal(raw, &item); err != nil {
			t.Fatal(err)
		}
		final = append(final, item.ID)
	}
	if len(final) != 4 {
		t.Fatalf("output = %v, want four items", final)
	}
	placed := 0
	for _, e := range events {
		id := e.ItemID + e.Item.ID
		if id == "" {
			continue
		}
		placed++
		if e.Output == nil || slices.Index(final, id) != int(*e.Output) {
			t.Errorf("%s is of item %d of %v", e.shape(), slices.Index(final, id), final)
		}
	}
	if placed < 20 {
		t.Errorf("%d events of an item", placed)
	}
}

// TestCompleteKeeps: what is there already stays, and what cannot be read or placed goes
// through as it came.
func TestCompleteKeeps(t *testing.T) {
	added := `event: response.output_item.added` + "\n" + `data: {"type":"response.output_item.added","item":{"id":"a"}}` + "\n\n"
	addedOut := strings.Replace(added, `added",`, `added","sequence_number":0,"output_index":0,`, 1)
	f := func(src, want string) {
		t.Helper()
		ask := prepare(t, meter.Responses, meter.LlamaServer, asksNothing)
		got := everySplit(t, completeStream, meter.Responses, meter.LlamaServer, ask, []byte(added+src))
		if got, ok := strings.CutPrefix(got.Now+got.Tail, addedOut); !ok || got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", src, got, want)
		}
	}
	one := func(payload, want string) { t.Helper(); f("data: "+payload+"\n\n", "data: "+want+"\n\n") }

	one(`{"type":"response.output_text.delta","item_id":"a","delta":"x"}`, `{"type":"response.output_text.delta","sequence_number":1,"output_index":0,"content_index":0,"item_id":"a","delta":"x"}`)
	one(`{"item_id":"a","type":"response.output_text.delta"}`, `{"item_id":"a","type":"response.output_text.delta","sequence_number":1,"output_index":0,"content_index":0}`)
	one(` { "type" : "response.refusal.delta" , "item_id" : "a" } `, ` { "type" : "response.refusal.delta","sequence_number":1,"output_index":0,"content_index":0 , "item_id" : "a" } `)
	one(`{"type":"response.output_text.delta","item_id":"a","sequence_number":7,"output_index":8,"content_index":9}`, `{"type":"response.output_text.delta","item_id":"a","sequence_number":7,"output_index":8,"content_index":9}`)
	one(`{"type":"response.output_text.delta","item_id":"a","output_index":null}`, `{"type":"response.output_text.delta","sequence_number":1,"content_index":0,"item_id":"a","output_index":null}`)
	one(`{"typ\u0065":"x","item_id":"a"}`, `{"typ\u0065":"x","sequence_number":1,"output_index":0,"item_id":"a"}`)
	// An item or a part that nobody announced.
	one(`{"type":"response.output_text.delta","item_id":"b"}`, `{"type":"response.output_text.delta","sequence_number":1,"item_id":"b"}`)
	one(`{"type":"response.output_text.delta","item_id":7}`, `{"type":"response.output_text.delta","sequence_number":1,"item_id":7}`)
	one(`{"type":"response.output_item.added","item":{"id":null}}`, `{"type":"response.output_item.added","sequence_number":1,"item":{"id":null}}`)
	one(`{"type":"response.output_item.added","item":7}`, `{"type":"response.output_item.added","sequence_number":1,"item":7}`)
	one(`{"type":"response.output_item.added","item":{"id":"`+strings.Repeat("x", 300)+`"}}`, `{"type":"response.output_item.added","sequence_number":1,"item":{"id":"`+strings.Repeat("x", 300)+`"}}`)
	// No event of a response.
	for _, s := range []string{`{"error":{"message":"m"}}`, `{"type":7}`, `{}`, `[1]`, `null`, `{"type":"x"`, `[DONE]`, `{"type":"x"}}`} {
		one(s, s)
	}
	f(": ping\n\n", ": ping\n\n")
	f("data: {\"type\":\ndata: \"x\"}\n\n", "data: {\"type\":\ndata: \"x\"}\n\n")
	// A response that has members, one without an id, and two ids.
	one(`{"type":"response.created","response":{"id":"r","created_at":1,"model":null,"output":[1]}}`,
		`{"type":"response.created","sequence_number":1,"response":{"id":"r","created_at":1,"model":null,"output":[1]}}`)
	one(`{"response":{"output":[],"id":"r"},"type":"response.in_progress"}`,
		`{"response":{"output":[],"id":"r","created_at":1700000000,"model":""},"type":"response.in_progress","sequence_number":1}`)
	one(`{"type":"response.created","response":{"status":"x"}}`, `{"type":"response.created","sequence_number":1,"response":{"status":"x"}}`)
	one(`{"type":"response.created","response":"r"}`, `{"type":"response.created","sequence_number":1,"response":"r"}`)
	one(`{"type":"response.completed","response":{"id":"r"}}`, `{"type":"response.completed","sequence_number":1,"response":{"id":"r"}}`)
	// Beside a member that is hidden.
	one(`{"type":"x","timings":{}}`, `{"type":"x","sequence_number":1}`)
	one(`{"timings":{},"type":"x"}`, `{"type":"x","sequence_number":1}`)
	one(`{"timings":{},"type":"x" , "timings":{},"y":1}`, `{"type":"x","sequence_number":1 ,"y":1}`)
	// Numbers go on from one that the engine gave, and so do places.
	f("data: {\"type\":\"x\",\"sequence_number\":7}\n\ndata: {\"type\":\"y\"}\n\n", "data: {\"type\":\"x\",\"sequence_number\":7}\n\ndata: {\"type\":\"y\",\"sequence_number\":8}\n\n")
	f(`data: {"type":"response.output_item.added","output_index":5,"item":{"id":"b"}}`+"\n\n"+`data: {"type":"response.output_item.added","item":{"id":"c"}}`+"\n\n"+
		`data: {"type":"response.content_part.added","item_id":"b","content_index":3}`+"\n\n"+`data: {"type":"response.output_text.delta","item_id":"b"}`+"\n\n",
		`data: {"type":"response.output_item.added","sequence_number":1,"output_index":5,"item":{"id":"b"}}`+"\n\n"+`data: {"type":"response.output_item.added","sequence_number":2,"output_index":6,"item":{"id":"c"}}`+"\n\n"+
			`data: {"type":"response.content_part.added","sequence_number":3,"output_index":5,"item_id":"b","content_index":3}`+"\n\n"+`data: {"type":"response.output_text.delta","sequence_number":4,"output_index":5,"content_index":3,"item_id":"b"}`+"\n\n")
	// Thoughts whose part the engine announces itself.
	f(`data: {"type":"response.content_part.added","item_id":"a"}`+"\n\n"+`data: {"type":"response.reasoning_text.delta","item_id":"a"}`+"\n\n",
		`data: {"type":"response.content_part.added","sequence_number":1,"output_index":0,"content_index":0,"item_id":"a"}`+"\n\n"+`data: {"type":"response.reasoning_text.delta","sequence_number":2,"output_index":0,"content_index":0,"item_id":"a"}`+"\n\n")
}

// TestCompleteKeepsLittle: an answer of any number of items is followed for as many as are
// kept.
func TestCompleteKeepsLittle(t *testing.T) {
	m := meter.New(meter.Responses, meter.LlamaServer, meter.Ask{})
	m.Complete(askedAt)
	var last []byte
	for i := range 5000 {
		out := m.Stream(nil, fmt.Appendf(nil, `data: {"type":"response.output_item.added","item":{"id":"%d"}}`+"\n\n", i))
		if bytes.Contains(out, []byte(`"output_index"`)) {
			last = out
		}
	}
	if want := `"output_index":4095,`; !bytes.Contains(last, []byte(want)) {
		t.Errorf("the last item that is placed: %s, want %s", last, want)
	}
}

// TestCompleteIsOfOneDialectAndEngine: every other stream stays as it was.
func TestCompleteIsOfOneDialectAndEngine(t *testing.T) {
	for name, d := range map[string]meter.Dialect{
		"chat-stream-usage-timings": meter.Chat,
		"completions-stream":        meter.Completions,
		"messages-stream":           meter.Messages,
	} {
		src := capture(t, name)
		if got := everySplit(t, completeStream, d, meter.LlamaServer, meter.Ask{}, src); got.Now+got.Tail != string(src) {
			t.Errorf("%s: %s", name, got.Now+got.Tail)
		}
	}
	src := capture(t, "responses-calls-stream")
	if got := everySplit(t, completeStream, meter.Responses, meter.VLLM, meter.Ask{}, src); got.Now+got.Tail != string(src) {
		t.Errorf("vLLM: %s", got.Now+got.Tail)
	}
}

// TestNextSequence: events of ours are numbered with the engine's.
func TestNextSequence(t *testing.T) {
	stream := func(m *meter.Meter, src string) string { return string(m.Stream(nil, []byte(src))) }
	next := func(m *meter.Meter, want int) {
		t.Helper()
		if got := m.NextSequence(); got != want {
			t.Errorf("next = %d, want %d", got, want)
		}
	}
	m := meter.New(meter.Responses, meter.LlamaServer, meter.Ask{})
	m.Complete(askedAt)
	next(m, 0)
	next(m, 1)
	if got, want := stream(m, "data: {\"type\":\"a\"}\n\n"), "data: {\"type\":\"a\",\"sequence_number\":2}\n\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	next(m, 3)
	stream(m, "data: {\"type\":\"response.completed\"}\n\ndata: {\"type\":\"late\"}\n\n")
	if got, want := string(m.Tail()), "data: {\"type\":\"response.completed\",\"sequence_number\":4}\n\ndata: {\"type\":\"late\",\"sequence_number\":5}\n\n"; got != want {
		t.Errorf("tail %q, want %q", got, want)
	}
	next(m, 4) // in place of the tail

	m = meter.New(meter.Responses, meter.VLLM, meter.Ask{})
	m.Complete(askedAt)
	next(m, 0)
	stream(m, "data: {\"type\":\"a\",\"sequence_number\":0}\n\ndata: {\"type\":\"b\",\"sequence_number\":1}\n\ndata: {\"type\":\"c\",\"sequence_number\":-1}\n\n")
	next(m, 2)
	stream(m, "data: {\"type\":\"d\",\"sequence_number\":8}\n\ndata: {\"type\":\"response.completed\",\"sequence_number\":9}\n\n")
	next(m, 9)

	m = meter.New(meter.Chat, meter.VLLM, meter.Ask{})
	stream(m, "data: {\"sequence_number\":8}\n\n")
	next(m, 0)
}

// TestBegin: a response that we began keeps its id when the engine begins it.
func TestBegin(t *testing.T) {
	f := func(e meter.Engine, complete bool, src, want string) {
		t.Helper()
		m := meter.New(meter.Responses, e, prepare(t, meter.Responses, e, `{"model":"tiny","stream":true}`))
		if complete {
			m.Complete(askedAt)
		}
		got := string(m.Stream(m.Heartbeat("req_1", time.Unix(askedAt, 0)), []byte(src)))
		got += string(m.Tail())
		begun, rest, _ := strings.Cut(got, "\n\n")
		if !strings.HasPrefix(begun, "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_req_1\",") {
			t.Errorf("begun by %s", begun)
		}
		if rest != want {
			t.Errorf("%s\nbecame %s\nwant %s", src, rest, want)
		}
		if got := m.ResponseID(); got != "resp_req_1" {
			t.Errorf("id = %q", got)
		}
	}
	src := `data: {"type":"response.created","response":{"id":"r","object":"response"}}` + "\n\n" +
		`data: {"type":"x","id":"r"}` + "\n\n" +
		`data: {"response":{"id":"r"},"type":"response.completed"}` + "\n\n"
	f(meter.LlamaServer, true, src,
		`data: {"type":"response.created","sequence_number":1,"response":{"id":"resp_req_1","created_at":1700000000,"model":"tiny","output":[],"object":"response"}}`+"\n\n"+
			`data: {"type":"x","sequence_number":2,"id":"r"}`+"\n\n"+
			`data: {"response":{"id":"resp_req_1"},"type":"response.completed","sequence_number":3}`+"\n\n")
	plain := strings.ReplaceAll(src, `"response":{"id":"r"`, `"response":{"id":"resp_req_1"`)
	f(meter.LlamaServer, false, src, plain)
	f(meter.VLLM, true, src, plain)
}

func TestResponseID(t *testing.T) {
	for _, e := range []meter.Engine{meter.LlamaServer, meter.VLLM} {
		m := meter.New(meter.Responses, e, meter.Ask{})
		m.Stream(nil, []byte(`data: {"type":"x","response":{"id":7}}`+"\n\n"))
		if got := m.ResponseID(); got != "" {
			t.Errorf("id = %q before there is one", got)
		}
		m.Stream(nil, []byte(`data: {"type":"response.created","response":{"id":"r\u0031"}}`+"\n\n"+`data: {"type":"response.created","response":{"id":"r2"}}`+"\n\n"))
		if got := m.ResponseID(); got != "r1" {
			t.Errorf("id = %q, want the first", got)
		}
	}
}

var (
	insertedMember = regexp.MustCompile(`,"(sequence_number|output_index|content_index)":\d+|,"created_at":1700000000|,"model":"[^,]*"|,"output":\[\]|`)
	insertedEvent  = regexp.MustCompile(`^event: response\.content_part\.added\ndata: \{"type":"response\.content_part\.added","sequence_number":\d+,"output_index":\d+,"content_index":0,"item_id":"[^\n]*","part":\{"type":"reasoning_text","text":""\}\}\n\n`)
)

// checkCompleted checks that a completed stream, less what is added, is the plain one byte
// for byte, and that nothing else that the meter says has changed.
func checkCompleted(t *testing.T, plain, completed result) {
	t.Helper()
	for _, part := range []struct{ in, out string }{{plain.Now, completed.Now}, {plain.Tail, completed.Tail}} {
		if !sameButCompleted(part.in, part.out) {
			t.Errorf("completed %q\nof %q", part.out, part.in)
		}
	}
	completed.Now, completed.Tail = plain.Now, plain.Tail
	if completed != plain {
		t.Errorf("completed %+v\nplain %+v", completed, plain)
	}
}

// sameButCompleted goes through both texts line by line.
func sameButCompleted(in, out string) bool {
	for out != "" {
		if in != "" {
			line, rest := cutLine(out)
			want, left := cutLine(in)
			if line == want || lessInserted(line, want) {
				in, out = left, rest
				continue
			}
		}
		n := len(insertedEvent.FindString(out))
		if n == 0 {
			return false
		}
		out = out[n:]
	}
	return in == ""
}

func cutLine(s string) (line, rest string) {
	n := strings.IndexByte(s, '\n') + 1
	if n == 0 {
		n = len(s)
	}
	return s[:n], s[n:]
}

// lessInserted reports whether line is want once some of what looks added is taken away:
// the engine may have written the same.
func lessInserted(line, want string) bool {
	ends := map[int]int{} // of what looks added, by its start
	for _, at := range insertedMember.FindAllStringIndex(line, -1) {
		ends[at[0]] = at[1]
	}
	// How many bytes before each byte of line may have been taken away.
	gone := make([]map[int]bool, len(line)+1)
	note := func(at, n int) {
		if gone[at] == nil {
			gone[at] = map[int]bool{}
		}
		gone[at][n] = true
	}
	note(0, 0)
	for at := range len(line) {
		for n := range gone[at] {
			if at-n < len(want) && line[at] == want[at-n] {
				note(at+1, n)
			}
			if end, ok := ends[at]; ok {
				note(end, n+end-at)
			}
		}
	}
	return gone[len(line)][len(line)-len(want)]
}

// TestCompleteAllocations: an event that is completed costs no garbage either.
func TestCompleteAllocations(t *testing.T) {
	m := meter.New(meter.Responses, meter.LlamaServer, prepare(t, meter.Responses, meter.LlamaServer, asksNothing))
	m.Complete(askedAt)
	src := capture(t, "responses-calls-stream")
	out := m.Stream(make([]byte, 0, 8192), cutAt(src, 8))
	delta := bytes.TrimPrefix(cutAt(src, 7), cutAt(src, 6))
	if n := testing.AllocsPerRun(100, func() { out = m.Stream(out[:0], delta) }); n != 0 {
		t.Errorf("%v allocations for %s", n, delta)
	}
	if !bytes.Contains(out, []byte(`"output_index":0,"content_index":0`)) {
		t.Errorf("out %s", out)
	}
}
