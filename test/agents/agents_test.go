package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReadsEachDialect: what an answer says of its end, its error and its tokens.
func TestReadsEachDialect(t *testing.T) {
	for _, c := range []struct {
		name, path, body string
		want             said
		usage            usage
	}{
		{name: "chat", path: "/v1/chat/completions",
			body: "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n: waiting\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5}}\n\ndata: [DONE]\n\n",
			want: said{Whole: true}, usage: usage{12, 5}},
		{name: "chat failed", path: "/v1/chat/completions",
			body: "data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":\"It failed.\",\"code\":\"x\"}}\n\ndata: [DONE]\n\n",
			want: said{Error: "It failed."}},
		{name: "chat cut", path: "/v1/chat/completions", body: "data: {\"choices\":[]}\n\n"},
		{name: "responses", path: "/v1/responses",
			body: "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null,\"usage\":null}}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":12,\"output_tokens\":5}}}\n\n",
			want: said{Whole: true}, usage: usage{12, 5}},
		{name: "responses failed", path: "/v1/responses",
			body: "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"message\":\"It failed.\"}}}\n\n",
			want: said{Error: "It failed."}},
		{name: "responses error", path: "/v1/responses", body: "event: error\ndata: {\"type\":\"error\",\"message\":\"It failed.\"}\n\n",
			want: said{Error: "It failed."}},
		{name: "messages", path: "/v1/messages",
			body: "event: ping\ndata: {\"type\":\"ping\"}\n\nevent: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":2,\"output_tokens\":0}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
			want: said{Whole: true}, usage: usage{12, 5}},
		{name: "messages refused", path: "/v1/messages", body: `{"type":"error","error":{"type":"billing_error","message":"It is spent."}}`,
			want: said{Error: "It is spent."}},
		{name: "whole", path: "/v1/chat/completions", body: `{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5}}`,
			want: said{Whole: true}, usage: usage{12, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := read(c.path, []byte(c.body))
			var told usage
			if got.Usage != nil {
				told = *got.Usage
			}
			if got.Whole != c.want.Whole || got.Error != c.want.Error || told != c.usage {
				t.Errorf("read = %+v with %+v, want %+v with %+v", got, told, c.want, c.usage)
			}
		})
	}
}

// TestJudges: each promise is broken once, and held once.
func TestJudges(t *testing.T) {
	start := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	const sentence = `The model "sim" does not exist.`
	refused := func(s, status int) attempt {
		return attempt{At: at(s), Method: "POST", Status: status, Said: said{Error: sentence}, Prompt: true}
	}
	served := func(s int) attempt {
		return attempt{At: at(s), Method: "POST", Status: 200, Said: said{Whole: true}, Prompt: true}
	}
	left := func(s int) attempt { return attempt{At: at(s), Method: "POST", Status: 200, Left: true, Prompt: true} }
	const ours = `Error: {\"message\":\"The model \\\"sim\\\" does` + "\nnot exist.\"}"
	for _, c := range []struct {
		name     string
		want     want
		ownWords []string
		o        outcome
		problems int
	}{
		{"asked nothing", want{}, nil, outcome{}, 1},
		{"ends and says why", want{status: 404, ends: true}, nil, outcome{tries: []attempt{refused(0, 404)}, ended: at(15), output: ours}, 0},
		{"another status", want{status: 402, ends: true}, nil, outcome{tries: []attempt{refused(0, 429)}, ended: at(1), output: ours}, 1},
		{"ends late", want{status: 404, ends: true}, nil, outcome{tries: []attempt{refused(0, 404)}, ended: at(16), output: ours}, 1},
		{"says nothing", want{status: 404, ends: true}, nil, outcome{tries: []attempt{refused(0, 404)}, ended: at(1)}, 1},
		{"has words of its own", want{status: 404, ends: true}, []string{"x"}, outcome{tries: []attempt{refused(0, 404)}, ended: at(1)}, 0},
		{"keeps on", want{status: 503, keepsOn: true}, nil, outcome{tries: []attempt{refused(0, 503), refused(75, 503)}, ended: at(100), stopped: true}, 0},
		{"a long gap", want{status: 503, keepsOn: true}, nil, outcome{tries: []attempt{refused(0, 503), refused(76, 503)}, ended: at(80), stopped: true}, 1},
		{"waits until it is stopped", want{status: 503, keepsOn: true}, nil, outcome{tries: []attempt{refused(0, 503)}, ended: at(100), stopped: true}, 1},
		{"ended long ago", want{status: 503, keepsOn: true}, nil, outcome{tries: []attempt{refused(0, 503)}, ended: at(1)}, 0},
		{"answered", want{answered: true, stays: true}, nil, outcome{tries: []attempt{served(0)}, output: "hi"}, 0},
		{"prints nothing", want{answered: true}, nil, outcome{tries: []attempt{served(0)}}, 1},
		{"leaves", want{answered: true, stays: true}, nil, outcome{tries: []attempt{left(0), served(300)}, output: "hi"}, 1},
		{"cut and says why", want{reasonsOK: true}, nil, outcome{tries: []attempt{refused(0, 200)}, exit: 1, output: ours}, 0},
		{"cut in silence", want{reasonsOK: true}, nil, outcome{tries: []attempt{refused(0, 200)}, exit: 1}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.agent = "x"
			c.o.scenario = scenario{want: c.want, ownWords: c.ownWords}
			if got := judge(c.o); len(got) != c.problems {
				t.Errorf("judge = %q, want %d problems", got, c.problems)
			}
		})
	}
}

// TestUnaccounted: an answer that was had whole is in the ledger as it was told.
func TestUnaccounted(t *testing.T) {
	a := attempt{Status: 200, ID: "req_1", Said: said{Whole: true, Usage: &usage{12, 5}}}
	for _, c := range []struct {
		name string
		rows map[string]row
		want int
	}{
		{"equal", map[string]row{"req_1": {Status: "ok", usage: usage{12, 5}}}, 0},
		{"no row", nil, 1},
		{"other tokens", map[string]row{"req_1": {Status: "ok", usage: usage{12, 4}}}, 1},
		{"other status", map[string]row{"req_1": {Status: "failed", usage: usage{12, 5}}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := unaccounted([]attempt{a}, c.rows); len(got) != c.want {
				t.Errorf("unaccounted = %q, want %d", got, c.want)
			}
		})
	}
}

// TestThePageNamesTheVersions: docs/clients.md tells of the packages that are tested.
func TestThePageNamesTheVersions(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		for _, p := range a.packages {
			i := strings.LastIndex(p, "@")
			if name, version := p[:i], p[i+1:]; !strings.Contains(string(page), "`"+name+"`") || !strings.Contains(string(page), version) {
				t.Errorf("docs/clients.md does not name %s %s", name, version)
			}
		}
	}
}
