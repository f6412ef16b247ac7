// Package tinymodel writes a language model that is small enough to make on the
// spot and that the real llama-server can load, so tests against the real engine
// need neither a download nor weights in the repository.
//
// The model is a bigram model of prose.txt in the shape of a llama. The next word
// depends on the last one alone, so the one block that the architecture asks for
// has weights of zero and adds nothing to the residual stream. A token's embedding
// is one at a single position and zero elsewhere, and the output matrix holds, for
// each position, the logarithms of what may follow. The text that comes out is
// readable, ends by itself now and then, and costs next to no time.
//
// A model of another kind says one text, always: see [WriteScript].
//
// It knows nothing of the engine that runs it, and its answers mean nothing.
//
//	f, err := os.Create("tiny.gguf")
//	...
//	err = tinymodel.Write(f)
//
// or, from the root of the module:
//
//	go run ./server/engine/tinymodel/cmd/tinymodel -o tiny.gguf
package tinymodel

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

//go:embed prose.txt
var prose string

const (
	contextLength = 4096
	width         = 192 // the embedding length: a position for each word, and some to spare
	head          = 64  // one, for attention is idle; every backend has a kernel for its size
	feedForward   = 64
	epsilon       = 1e-6

	// stop is the chance that an answer ends where a sentence does.
	stop = 0.2
	// never is the logarithm for a token that cannot follow. It is finite, since
	// samplers multiply it, and low enough to stay out at any sane temperature.
	never = -40

	// space marks the start of a word, as in SentencePiece.
	space = "▁"

	// template puts the role before each message, as a script for a play does. There
	// is no cue for the answer: llama-server checks such a cue against the grammar of
	// a structured answer, and the space that this tokenizer adds fails that check.
	template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
)

// scriptTemplate writes tools, calls and thoughts as models of the Qwen family have them.
// llama-server finds out by trial how a template writes them, and reads answers so.
//
//go:embed script.jinja
var scriptTemplate string

// The ids of the special tokens, which come first in the vocabulary.
const (
	unknown = iota
	begin
	end
)

// The kinds of token that GGUF tells apart.
const (
	normal      = 1
	unknownKind = 2
	control     = 3
	byteKind    = 6
)

// A token is an entry of the vocabulary.
type token struct {
	text     string
	kind     int32
	position int // where its embedding is one
}

// Write writes the model to w in the GGUF format. The bytes are the same each time.
func Write(w io.Writer) error {
	words := split(prose)
	tokens, ids := vocabulary(words)
	return write(w, template, tokens, follow(words, ids, len(tokens)))
}

// WriteScript writes a model whose answer is always the pieces, one token each, in their
// order. No two may be the same. So an answer can be what a random text never is.
func WriteScript(w io.Writer, pieces ...string) error {
	tokens, ids := vocabulary(pieces)
	if len(ids) == 0 || len(ids) != len(pieces) {
		return errors.New("write model: a script is of one or more pieces, no two of them the same")
	}
	logs := make([][]float64, width)
	for position := range logs {
		next := ids[pieces[0]] // after whatever a prompt ends with
		switch {
		case position < len(pieces)-1:
			next = ids[pieces[position+1]]
		case position == len(pieces)-1:
			next = end
		}
		logs[position] = slices.Repeat([]float64{never}, len(tokens))
		logs[position][next] = 0
	}
	return write(w, scriptTemplate, tokens, logs)
}

// Caller is a script: thoughts, a sentence, and two calls of the tool price, with USD and
// with EUR as its unit.
func Caller() []string {
	return []string{
		"<think>", "\nThe", " bill", " grows", ".\n", "</think>\n\n",
		"I ask", " twice.", "\n<tool_call>",
		"\n{\"name\": \"", "price", "\", \"arguments\": ", `{"unit": `, `"USD"`, "}", "}\n", "</tool_call>",
		"\n<tool_call>\n", `{"name": "price"`, `, "arguments": `, `{"unit":`, ` "EUR"`, "}}", "\n</tool_call>",
	}
}

func write(w io.Writer, template string, tokens []token, logs [][]float64) error {
	if _, err := w.Write(encode(metadata(template, tokens), tensors(tokens, logs))); err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	return nil
}

// split returns the tokens of text, in its order: words with the mark of the space
// before them, and the punctuation after them.
func split(text string) []string {
	var words []string
	for _, field := range strings.Fields(text) {
		word := strings.TrimRight(field, ".,")
		words = append(words, space+word)
		for _, mark := range field[len(word):] {
			words = append(words, string(mark))
		}
	}
	return words
}

// vocabulary returns all tokens and the id of each word. A word's embedding has a
// position of its own. All tokens that are not words share the positions that are
// left: what follows them is the same, the start of a sentence, and they have
// several only so that embeddings of different texts differ.
func vocabulary(words []string) (tokens []token, ids map[string]int) {
	ids = make(map[string]int)
	var distinct []string
	for _, word := range words {
		if _, ok := ids[word]; !ok {
			ids[word] = -1 // its id is known further down
			distinct = append(distinct, word)
		}
	}
	spare := width - len(distinct)
	if spare < 1 {
		panic(fmt.Sprintf("BUG: %d distinct words do not fit a width of %d", len(distinct), width))
	}
	other := func(text string, kind int32, n int) {
		tokens = append(tokens, token{text, kind, len(distinct) + n%spare})
	}

	other("<unk>", unknownKind, unknown)
	other("<s>", control, begin)
	other("</s>", control, end)
	for b := range 256 {
		other(fmt.Sprintf("<0x%02X>", b), byteKind, b)
	}
	other(space, normal, 0)

	// The tokenizer builds a word by joining two neighbours at a time, and joins
	// them only to something that is in the vocabulary. So each word brings along
	// everything that it begins with.
	seen := make(map[string]bool)
	for _, word := range distinct {
		runes := []rune(word)
		for n := 2; n < len(runes); n++ {
			piece := string(runes[:n])
			if _, isWord := ids[piece]; isWord || seen[piece] {
				continue
			}
			seen[piece] = true
			other(piece, normal, int(runes[n-1]))
		}
	}

	for position, word := range distinct {
		ids[word] = len(tokens)
		tokens = append(tokens, token{word, normal, position})
	}
	return tokens, ids
}

// follow returns, for each position of the embedding, the logarithms of the chances
// that each of the n tokens comes next.
func follow(words []string, ids map[string]int, n int) [][]float64 {
	first := n - len(ids) // words have the last ids, in the order of their positions
	count := make([][]float64, width)
	for position := range count {
		count[position] = make([]float64, n)
	}

	last := "." // the text is read as a ring, so that its last word has a successor too
	for _, word := range words {
		count[ids[last]-first][ids[word]]++
		last = word
	}
	stopAt := count[ids["."]-first]
	for position := len(ids); position < width; position++ {
		copy(count[position], stopAt)
	}
	// Only now, for an answer must not end before it has begun.
	stopAt[end] = sum(stopAt) * stop / (1 - stop)

	for _, row := range count {
		total := sum(row)
		for id := range row {
			if row[id] == 0 {
				row[id] = never
			} else {
				row[id] = math.Log(row[id] / total)
			}
		}
	}
	return count
}

func sum(values []float64) (total float64) {
	for _, v := range values {
		total += v
	}
	return total
}

func metadata(template string, tokens []token) []field {
	texts := make([]string, len(tokens))
	scores := make([]float32, len(tokens))
	kinds := make([]int32, len(tokens))
	for id, t := range tokens {
		texts[id] = t.text
		kinds[id] = t.kind
		// Joins with a higher score are made first. Every join begins with the mark of
		// a space, so words never compete for a letter and any order will do.
		scores[id] = float32(-id)
	}
	return []field{
		{"general.architecture", "llama"},
		{"general.name", "tinymodel"},
		{"general.description", "a bigram model for tests"},
		{"general.file_type", uint32(0)}, // all F32
		{"llama.context_length", uint32(contextLength)},
		{"llama.embedding_length", uint32(width)},
		{"llama.block_count", uint32(1)},
		{"llama.feed_forward_length", uint32(feedForward)},
		{"llama.attention.head_count", uint32(1)},
		{"llama.attention.head_count_kv", uint32(1)},
		{"llama.attention.key_length", uint32(head)},
		{"llama.attention.value_length", uint32(head)},
		{"llama.attention.layer_norm_rms_epsilon", float32(epsilon)},
		{"llama.rope.dimension_count", uint32(head)},
		{"llama.pooling_type", uint32(1)}, // mean, for embeddings of whole texts
		{"llama.vocab_size", uint32(len(tokens))},
		{"tokenizer.ggml.model", "llama"},
		{"tokenizer.ggml.tokens", texts},
		{"tokenizer.ggml.scores", scores},
		{"tokenizer.ggml.token_type", kinds},
		{"tokenizer.ggml.unknown_token_id", uint32(unknown)},
		{"tokenizer.ggml.bos_token_id", uint32(begin)},
		{"tokenizer.ggml.eos_token_id", uint32(end)},
		{"tokenizer.ggml.add_bos_token", true},
		{"tokenizer.ggml.add_eos_token", false},
		{"tokenizer.chat_template", template},
	}
}

func tensors(tokens []token, logs [][]float64) []tensor {
	embedding := make([]float32, len(tokens)*width)
	output := make([]float32, len(tokens)*width)
	// The last norm divides by the root of the mean square, which for a single one
	// among width positions is √(1/width + ε). The output matrix takes that back.
	undo := math.Sqrt(1.0/width + epsilon)
	for id, t := range tokens {
		embedding[id*width+t.position] = 1
		for position := range width {
			output[id*width+position] = float32(logs[position][id] * undo)
		}
	}
	ones := make([]float32, width)
	for i := range ones {
		ones[i] = 1
	}
	zeros := func(name string, columns, rows int) tensor {
		return tensor{name, []int{columns, rows}, make([]float32, columns*rows)}
	}
	return []tensor{
		{"token_embd.weight", []int{width, len(tokens)}, embedding},
		{"output_norm.weight", []int{width}, ones},
		{"output.weight", []int{width, len(tokens)}, output},
		{"blk.0.attn_norm.weight", []int{width}, ones},
		zeros("blk.0.attn_q.weight", width, head),
		zeros("blk.0.attn_k.weight", width, head),
		zeros("blk.0.attn_v.weight", width, head),
		zeros("blk.0.attn_output.weight", head, width),
		{"blk.0.ffn_norm.weight", []int{width}, ones},
		zeros("blk.0.ffn_gate.weight", width, feedForward),
		zeros("blk.0.ffn_up.weight", width, feedForward),
		zeros("blk.0.ffn_down.weight", feedForward, width),
	}
}
