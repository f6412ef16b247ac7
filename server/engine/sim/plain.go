package sim

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
)

const vocabulary = 330 // as the recorded model's

// health is open, and empty with vLLM.
func (s *server) health(w http.ResponseWriter, r *http.Request) {
	if s.opts.vllm() {
		w.WriteHeader(http.StatusOK)
		return
	}
	s.writeBody(w, 200, obj{{"status", "ok"}})
}

func (s *server) version(w http.ResponseWriter, r *http.Request) {
	s.writeBody(w, 200, obj{{"version", "0.0.0+sim"}})
}

func (s *server) models(w http.ResponseWriter, r *http.Request) {
	created := s.started.Unix()
	if s.opts.vllm() {
		s.writeBody(w, 200, obj{{"object", "list"}, {"data", list{obj{
			{"id", s.opts.model},
			{"object", "model"},
			{"created", created},
			{"owned_by", "vllm"},
			{"root", s.opts.model},
			{"parent", nil},
			{"max_model_len", s.opts.ctxSize},
			{"permission", list{}},
		}}}})
		return
	}
	name := s.opts.model
	s.writeBody(w, 200, obj{
		{"models", list{obj{
			{"name", name}, {"model", name}, {"modified_at", ""}, {"size", ""}, {"digest", ""},
			{"type", "model"}, {"description", ""}, {"tags", list{""}}, {"capabilities", list{"completion"}}, {"parameters", ""},
			{"details", obj{
				{"parent_model", ""}, {"format", "gguf"}, {"family", ""}, {"families", list{""}},
				{"parameter_size", ""}, {"quantization_level", ""},
			}},
		}}},
		{"object", "list"},
		{"data", list{obj{
			{"id", name}, {"aliases", list{name}}, {"tags", list{}}, {"object", "model"}, {"created", created}, {"owned_by", "llamacpp"},
			{"meta", obj{
				{"vocab_type", 1}, {"n_vocab", vocabulary}, {"n_ctx", s.opts.ctxSize}, {"n_ctx_train", s.opts.ctxSize},
				{"n_embd", 384}, {"n_params", 1139328}, {"size", 2280960}, {"ftype", "F16"},
			}},
		}}},
	})
}

//go:embed testdata/llama-server/props.body
var recordedProps []byte

// props is the recorded answer with what a reader of it may want to know put right.
func (s *server) props(w http.ResponseWriter, r *http.Request) {
	var props map[string]any
	if err := json.Unmarshal(recordedProps, &props); err != nil {
		panic("BUG: " + err.Error())
	}
	props["total_slots"] = s.opts.slots
	props["model_alias"] = s.opts.model
	props["model_path"] = filepath.Base(s.opts.model) + ".gguf"
	props["endpoint_metrics"] = s.opts.metrics
	props["default_generation_settings"].(map[string]any)["n_ctx"] = s.opts.ctxSize
	body, _ := json.Marshal(props)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Write(body)
}

func (s *server) listSlots(w http.ResponseWriter, r *http.Request) {
	busy := int(s.counts.running.Load())
	slots := list{}
	for i := range s.opts.slots {
		slots = append(slots, obj{{"id", i}, {"n_ctx", s.opts.ctxSize}, {"speculative", false}, {"is_processing", i < busy}})
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Write(appendJSON(nil, slots))
}

func (s *server) countTokens(w http.ResponseWriter, r *http.Request) {
	req, ok := s.read(w, r)
	if !ok {
		return
	}
	p, err := chatPrompt(req.System, req.Messages)
	if err != nil {
		s.refuse(w, messages{}, err)
		return
	}
	s.writeBody(w, 200, obj{{"input_tokens", p.tokens}})
}

func (s *server) tokenize(w http.ResponseWriter, r *http.Request) {
	req, ok := s.read(w, r)
	if !ok {
		return
	}
	p := prompt{req.Content, countWords(req.Content)}
	if s.opts.vllm() {
		var err error
		if len(req.Messages) > 0 {
			p, err = chatPrompt(nil, req.Messages)
		} else if p, ok = onePrompt(req.Prompt); !ok {
			err = errAbsent
		}
		if err != nil {
			s.refuse(w, completions{}, err)
			return
		}
	}
	ids := list{}
	for i := range p.tokens {
		ids = append(ids, tokenID(fmt.Sprint(p.text, i)))
	}
	if s.opts.vllm() {
		s.writeBody(w, 200, obj{{"count", p.tokens}, {"max_model_len", s.opts.ctxSize}, {"tokens", ids}, {"token_strs", nil}})
		return
	}
	s.writeBody(w, 200, obj{{"tokens", ids}})
}

func (s *server) embed(w http.ResponseWriter, r *http.Request) {
	if !s.opts.vllm() && !s.opts.embeddings {
		s.writeError(w, apiError{status: 501, message: "This server does not support embeddings. Start it with `--embeddings`"})
		return
	}
	req, ok := s.read(w, r)
	if !ok {
		return
	}
	prompts, err := textPrompts(req.Input)
	if err != nil {
		s.refuse(w, responses{}, err)
		return
	}
	total := 0
	data := list{}
	for i, p := range prompts {
		total += p.tokens
		if s.opts.vllm() {
			data = append(data, obj{{"index", i}, {"object", "embedding"}, {"embedding", vector(p.text)}})
		} else {
			data = append(data, obj{{"embedding", vector(p.text)}, {"index", i}, {"object", "embedding"}})
		}
	}
	s.counts.pooled(total)
	usage := obj{{"prompt_tokens", total}, {"total_tokens", total}}
	if s.opts.vllm() {
		usage = append(usage, field{"completion_tokens", 0}, field{"prompt_tokens_details", nil})
		s.writeBody(w, 200, obj{
			{"id", "embd-" + randomID()}, {"object", "list"}, {"created", s.started.Unix()},
			{"model", s.opts.model}, {"data", data}, {"usage", usage},
		})
		return
	}
	s.writeBody(w, 200, obj{{"model", s.opts.model}, {"object", "list"}, {"usage", usage}, {"data", data}})
}

// vector is a unit vector with one direction a word.
func vector(text string) list {
	v := make([]float64, 32)
	for _, word := range answer(text, max(countWords(text), 1)) {
		v[tokenID(word)%len(v)]++
	}
	norm := 0.0
	for _, x := range v {
		norm += x * x
	}
	out := list{}
	for _, x := range v {
		out = append(out, x/math.Sqrt(norm))
	}
	return out
}

func (s *server) rerank(w http.ResponseWriter, r *http.Request) {
	if !s.opts.vllm() && !s.opts.reranking {
		s.writeError(w, apiError{status: 501, message: "This server does not support reranking. Start it with `--reranking`"})
		return
	}
	req, ok := s.read(w, r)
	if !ok {
		return
	}
	if req.Query == "" || len(req.Documents) == 0 {
		s.writeError(w, apiError{status: 400, message: "\"query\" and \"documents\" must be provided"})
		return
	}
	total := 0
	results := list{}
	for i, doc := range req.Documents {
		total += countWords(req.Query) + countWords(doc) + 2
		score := float64(tokenID(req.Query+doc)) / 32000
		if s.opts.vllm() {
			results = append(results, obj{{"index", i}, {"document", obj{{"text", doc}}}, {"relevance_score", score}})
		} else {
			results = append(results, obj{{"index", i}, {"relevance_score", score}})
		}
	}
	s.counts.pooled(total)
	usage := obj{{"prompt_tokens", total}, {"total_tokens", total}}
	if s.opts.vllm() {
		s.writeBody(w, 200, obj{{"id", "score-" + randomID()}, {"model", s.opts.model}, {"usage", usage}, {"results", results}})
		return
	}
	s.writeBody(w, 200, obj{{"model", s.opts.model}, {"object", "list"}, {"usage", usage}, {"results", results}})
}
