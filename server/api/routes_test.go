package api_test

import (
	"slices"
	"strings"
	"testing"

	"spotinference/server/api"
	"spotinference/server/queue"
)

// TestRoutes: the table says what is served, and all that follows from it agrees.
func TestRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, "{}"), func(c *api.Config) { c.Key = "sk-right" })
	var paths, endpoints, forwarded []string
	for _, r := range api.Routes() {
		if r.Does == "" || strings.HasSuffix(r.Does, ".") || slices.Contains(paths, r.Path) {
			t.Errorf("%s %s: does %q", r.Method, r.Path, r.Does)
		}
		paths = append(paths, r.Path)
		if e := r.Endpoint(); e != "" {
			if slices.Contains(endpoints, e) {
				t.Errorf("%s: endpoint %s has another path", r.Path, e)
			}
			endpoints = append(endpoints, e)
		}
		if strings.HasPrefix(r.Path, "/v1/") {
			forwarded = append(forwarded, r.Path)
		}
		// Another method is refused, and so is nobody's key, where one is needed.
		resp, _ := w.do("PUT", r.Path, "")
		if resp.StatusCode != 405 || resp.Header.Get("Allow") != r.Method {
			t.Errorf("PUT %s: %d %v", r.Path, resp.StatusCode, resp.Header)
		}
		resp, _ = w.do(r.Method, r.Path, "")
		if refused := resp.StatusCode == 401; refused != (r.Access == api.WithKey) {
			t.Errorf("%s %s without a key, to be served %s: %d", r.Method, r.Path, r.Access, resp.StatusCode)
		}
	}
	if want := []string{"chat", "completions", "responses", "messages", "embeddings", "rerank", "transcriptions", "translations", "speech"}; !slices.Equal(endpoints, want) {
		t.Errorf("endpoints %q, want %q", endpoints, want)
	}
	last := len(forwarded) - 1
	if _, body := w.do("GET", "/nope", ""); !strings.Contains(body, " serves "+strings.Join(forwarded[:last], ", ")+" and "+forwarded[last]+".") {
		t.Errorf("an unknown path is told %s", body)
	}
}
