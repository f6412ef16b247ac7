package sim

import (
	"net/http"
)

// stream is an answer of server-sent events. Errors in writing are ignored: as the engine
// does, we learn from the socket that the client has left.
type stream struct {
	w     http.ResponseWriter
	flush *http.ResponseController
}

// openStream sends the headers, which llama-server does when a request gets its
// slot, before the first token.
func (s *server) openStream(w http.ResponseWriter) *stream {
	h := w.Header()
	if s.opts.vllm() {
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
	} else {
		h.Set("Content-Type", "text/event-stream")
		h.Set("X-Accel-Buffering", "no")
	}
	st := &stream{w, http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	st.flush.Flush()
	return st
}

func (st *stream) data(o obj) { st.raw("data: ", o.bytes()) }

func (st *stream) event(name string, o obj) { st.raw("event: "+name+"\ndata: ", o.bytes()) }

func (st *stream) done() { st.raw("data: [DONE]", nil) }

func (st *stream) raw(head string, body []byte) {
	b := make([]byte, 0, len(head)+len(body)+2)
	b = append(append(append(b, head...), body...), "\n\n"...)
	st.w.Write(b)
	st.flush.Flush()
}
