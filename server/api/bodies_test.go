package api_test

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// longBody is a chat of so many bytes that takes no memory.
func longBody(size int, stream bool) (io.Reader, int) {
	head, tail := `{"messages":[{"role":"user","content":"`, `"}]}`
	if stream {
		head = `{"stream":true,` + head[1:]
	}
	rest := size - len(head) - len(tail)
	return io.MultiReader(strings.NewReader(head), io.LimitReader(letters{}, int64(rest)), strings.NewReader(tail)), size
}

// letters are as many as one reads.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// readingEngine answers when it has the whole body.
func readingEngine(rw http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	jsonAnswer(200, chatAnswer)(rw, r)
}

// upload sends a chat of so many bytes. chunked: its length is not said.
func (w *world) upload(size int, stream, chunked bool) (status int, h http.Header, answer string) {
	body, n := longBody(size, stream)
	req, err := http.NewRequest("POST", w.url+"/v1/chat/completions", body)
	if err != nil {
		w.t.Error(err)
		return
	}
	if !chunked {
		req.ContentLength = int64(n)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Error(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// heapHeld is how much of the system's memory the heap has.
func heapHeld() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys - m.HeapReleased)
}

// TestBodiesShareOneBound: eight whole bodies of 64 MiB at once stay within it, whoever does
// not fit is told to come again, and the memory goes back to the system afterwards.
func TestBodiesShareOneBound(t *testing.T) {
	// Not in parallel: it looks at the whole process's memory.
	const bound, bodies, size = 256 << 20, 8, 64 << 20
	w := newWorld(t, queue.Llama, readingEngine, func(c *api.Config) { c.BodyMemory = bound })
	runtime.GC()
	before := heapHeld()
	var peak atomic.Int64
	stop := make(chan struct{})
	var watching, sending sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				peak.Store(max(peak.Load(), heapHeld()-before))
			}
		}
	})
	var served, refused atomic.Int32
	for range bodies {
		sending.Go(func() {
			switch status, h, answer := w.upload(size, false, false); {
			case status == 200:
				served.Add(1)
			case status == 503 && h.Get("Retry-After") == "5" && strings.Contains(answer, `"code":"body_memory_full"`):
				refused.Add(1)
			default:
				t.Errorf("%d %v %s", status, h, answer)
			}
		})
	}
	sending.Wait()
	close(stop)
	watching.Wait()
	if served.Load() == 0 || served.Load()+refused.Load() != bodies {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
	const slack = 48 << 20 // what else runs, and Go's own
	if n := peak.Load(); n > bound+slack {
		t.Errorf("%d MiB at the peak, of bodies that may take %d", n>>20, bound>>20)
	}
	eventually(t, "the memory is given back", func() bool { return heapHeld()-before < slack })
	eventually(t, "nothing counts as held", func() bool { return w.metric("spotinference_body_memory_bytes") == "0" })
	if status, _, answer := w.upload(size, true, false); status != 200 {
		t.Errorf("the next one: %d %s", status, answer)
	}
}

// TestUnfinishedBodiesShareOneBound: bodies that are announced and not sent take their part
// of the bound and no more; chats are served beside them, and the part is free again when
// they have gone.
func TestUnfinishedBodiesShareOneBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, readingEngine, func(c *api.Config) { c.BodyMemory = 256 << 20 })
	const many = 16
	var conns []net.Conn
	full := 0
	for i := range many {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		length := "Content-Length: 67108864"
		if i%2 == 1 {
			length = "Transfer-Encoding: chunked"
		}
		// Whoever expects to be told to go on hears at once whether there is room.
		fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%s\r\nExpect: 100-continue\r\n\r\n", length)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		switch resp.StatusCode {
		case 100:
			conns = append(conns, conn)
		case 503:
			full++
		default:
			t.Errorf("%d: %d", i, resp.StatusCode)
		}
	}
	if len(conns) < 2 || full < many/4 {
		t.Errorf("%d are read, and %d were refused", len(conns), full)
	}
	if status, _, answer := w.upload(4<<10, false, false); status != 200 {
		t.Errorf("a chat beside them: %d %s", status, answer)
	}
	if status, _, answer := w.upload(4<<10, true, true); status != 200 {
		t.Errorf("a chat in chunks beside them: %d %s", status, answer)
	}
	if status, h, answer := w.upload(64<<20, false, false); status != 503 || h.Get("Retry-After") == "" || !strings.Contains(answer, "body_memory_full") {
		t.Errorf("one more: %d %v %s", status, h, answer)
	}
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "their part is free", func() bool { return w.metric("spotinference_body_memory_bytes") == "0" })
	if status, _, answer := w.upload(64<<20, false, true); status != 200 {
		t.Errorf("after them: %d %s", status, answer)
	}
}

// TestABodyThatIsTooLargeAlone for all memory that bodies have is not worth another try.
func TestABodyThatIsTooLargeAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, readingEngine, func(c *api.Config) { c.BodyMemory = api.MinBodyMemory })
	for _, chunked := range []bool{false, true} {
		if status, h, answer := w.upload(10<<20, false, chunked); status != 413 || h.Get("Retry-After") != "" || !strings.Contains(answer, "over 4 MiB") {
			t.Errorf("chunked %v: %d %v %s", chunked, status, h, answer)
		}
		if status, _, answer := w.upload(4<<20, false, chunked); status != 200 {
			t.Errorf("chunked %v: %d %s", chunked, status, answer)
		}
	}
	if _, err := api.New(api.Config{Engine: w.engine, Ledger: w.ledger, Gate: w.gate, BodyMemory: 1, Metrics: api.NewMetrics(func() (time.Time, bool) { return time.Time{}, false })}); err == nil {
		t.Error("a byte for all bodies was accepted")
	}
}

// TestBodiesThatWaitForASleepingEngine share the bound too, streams and others, and are let
// go of when it is awake, before it answers.
func TestBodiesThatWaitForASleepingEngine(t *testing.T) {
	t.Parallel()
	const bound, size, many = 128 << 20, 10 << 20, 24
	answer := make(chan struct{})
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-answer
		jsonAnswer(200, chatAnswer)(rw, r)
	}, func(c *api.Config) { c.BodyMemory, c.Heartbeat = bound, 50*time.Millisecond })
	w.engine.set(ledger.Suspended)
	var wg sync.WaitGroup
	defer wg.Wait()
	var full atomic.Int32
	for i := range many {
		wg.Go(func() {
			if status, _, text := w.upload(size, i%2 == 0, false); status == 503 {
				full.Add(1)
			} else if status != 200 {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	var waiting int
	eventually(t, "all are there", func() bool { _, waiting = w.engine.load(); return waiting+int(full.Load()) == many })
	if waiting < 4 || waiting > bound/size {
		t.Errorf("%d wait, and %d were refused", waiting, full.Load())
	}
	w.engine.set(ledger.Ready)
	close(w.engine.wakes)
	eventually(t, "the engine has all", func() bool { inside, _ := w.engine.load(); return inside == waiting })
	eventually(t, "nothing of them is held", func() bool { return w.metric("spotinference_body_memory_bytes") == "0" })
	close(answer)
}

// TestWhatIsAskedBeforeTheBody: key, gate and requests a minute refuse a long body, one of a
// length that is not known, and one whose client asks first, before anything of it is read.
// The gate is asked again when it is whole.
func TestWhatIsAskedBeforeTheBody(t *testing.T) {
	t.Parallel()
	spent := &budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted}
	slow := ledger.Key{ID: "key_slow", Name: "slow", Digest: sha256.Sum256([]byte("slow")), RPM: 1}
	for _, frame := range []string{"Content-Length: 9000000\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 20\r\nExpect: 100-continue\r\n"} {
		w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/messages/count_tokens" {
				t.Errorf("the engine was asked for %s", r.URL.Path)
			}
			jsonAnswer(200, `{"input_tokens":1}`)(rw, r)
		}, func(c *api.Config) {
			c.Keys = []ledger.Key{slow}
		})
		ask := func(path, key string) (int, string) {
			t.Helper()
			conn, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second)) // a body's time is longer
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\n%s\r\n", path, key, frame)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%q: %v", frame, err)
			}
			body, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(body)
		}
		const chat = "/v1/chat/completions"
		if status, body := ask(chat, "wrong"); status != 401 {
			t.Errorf("%q, a wrong key: %d %s", frame, status, body)
		}
		if status, body := ask("/v1/fine_tuning", "slow"); status != 404 {
			t.Errorf("%q, an unknown path: %d %s", frame, status, body)
		}
		w.gate.set(spent)
		if status, body := ask(chat, "slow"); status != 402 {
			t.Errorf("%q, a spent budget: %d %s", frame, status, body)
		}
		w.gate.set(nil)
		w.engine.set(ledger.Crashed)
		if status, body := ask(chat, "slow"); status != 503 || !strings.Contains(body, "engine_not_ready") {
			t.Errorf("%q, an engine that has crashed: %d %s", frame, status, body)
		}
		w.engine.set(ledger.Ready)
		if resp, body := w.do("POST", "/v1/messages/count_tokens", "{}", "X-Api-Key", "slow"); resp.StatusCode != 200 {
			t.Fatalf("the first request of the minute: %s", body)
		}
		if status, body := ask(chat, "slow"); status != 429 || !strings.Contains(body, "1 requests a minute") {
			t.Errorf("%q, the second request of the minute: %d %s", frame, status, body)
		}
	}
}

// TestTheGateIsAskedAgain when a body is whole that was let in before the gate closed.
func TestTheGateIsAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, func(http.ResponseWriter, *http.Request) { t.Error("the engine was asked") }, nil)
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(chatBody))
	r := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("%v, %v", resp, err)
	}
	w.gate.set(errors.New("closed"))
	io.WriteString(conn, chatBody)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 503 {
		t.Errorf("%v, %v", resp, err)
	}
}
