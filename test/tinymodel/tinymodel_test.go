package tinymodel_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"spotinference/test/tinymodel"
)

// A file is a GGUF file as an engine would see it: read by the format's rules, not
// by the package's.
type file struct {
	fields  map[string]any
	tensors map[string]tensor
}

type tensor struct {
	dimensions []uint64
	values     []float32
}

// A reader cuts values off the front of a file.
type reader struct {
	all  []byte
	rest []byte
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		panic(fmt.Sprintf("%d bytes wanted, %d left", n, len(r.rest)))
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) string() string { return string(r.take(r.uint64())) }

func (r *reader) value(kind uint32) any {
	switch kind {
	case 4:
		return r.uint32()
	case 5:
		return int32(r.uint32())
	case 6:
		return math.Float32frombits(r.uint32())
	case 7:
		return r.take(1)[0] == 1
	case 8:
		return r.string()
	case 9:
		elem := r.uint32()
		list := make([]any, r.uint64())
		for i := range list {
			list[i] = r.value(elem)
		}
		return list
	}
	panic(fmt.Sprintf("metadata of type %d", kind))
}

func read(t *testing.T) file {
	t.Helper()
	var b bytes.Buffer
	if err := tinymodel.Write(&b); err != nil {
		t.Fatal(err)
	}
	return parse(t, b.Bytes())
}

func parse(t *testing.T, model []byte) file {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Fatalf("read model: %v", r)
		}
	}()
	r := &reader{all: model, rest: model}
	if got := string(r.take(4)); got != "GGUF" {
		t.Fatalf("magic = %q, want GGUF", got)
	}
	if got := r.uint32(); got != 3 {
		t.Fatalf("version = %d, want 3", got)
	}
	tensors, fields := r.uint64(), r.uint64()

	f := file{fields: map[string]any{}, tensors: map[string]tensor{}}
	for range fields {
		key := r.string()
		if _, twice := f.fields[key]; twice {
			t.Fatalf("%s is there twice", key)
		}
		f.fields[key] = r.value(r.uint32())
	}
	offsets := map[string]uint64{}
	for range tensors {
		name := r.string()
		dimensions := make([]uint64, r.uint32())
		for i := range dimensions {
			dimensions[i] = r.uint64()
		}
		if got := r.uint32(); got != 0 {
			t.Fatalf("%s has values of type %d, want 0 (F32)", name, got)
		}
		f.tensors[name] = tensor{dimensions: dimensions}
		offsets[name] = r.uint64()
	}
	if len(f.tensors) != int(tensors) {
		t.Fatalf("%d tensors have %d names", tensors, len(f.tensors))
	}

	start := (len(r.all) - len(r.rest) + 31) / 32 * 32
	data, end := r.all[start:], uint64(0)
	for name, ts := range f.tensors {
		if offsets[name]%32 != 0 {
			t.Errorf("%s starts at %d, not at a multiple of 32", name, offsets[name])
		}
		n := uint64(1)
		for _, d := range ts.dimensions {
			n *= d
		}
		part := &reader{rest: data[offsets[name]:]}
		ts.values = make([]float32, n)
		for i := range ts.values {
			ts.values[i] = math.Float32frombits(part.uint32())
		}
		f.tensors[name] = ts
		end = max(end, offsets[name]+4*n)
	}
	if want := (end + 31) / 32 * 32; uint64(len(data)) != want {
		t.Errorf("the data is %d bytes, the tensors take %d", len(data), want)
	}
	return f
}

func (f file) tokens() (texts []string, ids map[string]int) {
	ids = map[string]int{}
	for id, text := range f.fields["tokenizer.ggml.tokens"].([]any) {
		texts = append(texts, text.(string))
		ids[text.(string)] = id
	}
	return texts, ids
}

// position returns where the embedding of a token is one.
func (f file) position(t *testing.T, id int) int {
	t.Helper()
	embedding := f.tensors["token_embd.weight"]
	width := int(embedding.dimensions[0])
	position := -1
	for i, v := range embedding.values[id*width : (id+1)*width] {
		switch {
		case v == 1 && position < 0:
			position = i
		case v != 0:
			t.Fatalf("the embedding of token %d isn't one-hot", id)
		}
	}
	if position < 0 {
		t.Fatalf("the embedding of token %d is zero", id)
	}
	return position
}

// chances does the engine's arithmetic after a token: norm, output matrix, softmax.
func (f file) chances(t *testing.T, id int) []float64 {
	t.Helper()
	output := f.tensors["output.weight"]
	width := int(output.dimensions[0])
	epsilon := float64(f.fields["llama.attention.layer_norm_rms_epsilon"].(float32))
	position := f.position(t, id)
	hidden := float64(f.tensors["output_norm.weight"].values[position]) / math.Sqrt(1/float64(width)+epsilon)

	chances := make([]float64, output.dimensions[1])
	total := 0.0
	for next := range chances {
		logit := hidden * float64(output.values[next*width+position])
		chances[next] = math.Exp(logit)
		total += chances[next]
	}
	// What the matrix holds are logarithms of chances, so there is nothing to scale.
	if math.Abs(total-1) > 1e-4 {
		t.Errorf("the chances after token %d add up to %v, want 1", id, total)
	}
	return chances
}

func TestWriteIsDeterministic(t *testing.T) {
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := tinymodel.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two writes differ")
	}
	if limit := 3 << 20; first.Len() > limit {
		t.Errorf("the model is %d bytes, want at most %d", first.Len(), limit)
	}
}

type fullDisk struct{}

var errFull = errors.New("disk full")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestWriteError(t *testing.T) {
	err := tinymodel.Write(fullDisk{})
	if !errors.Is(err, errFull) {
		t.Fatalf("Write = %v, want %v", err, errFull)
	}
	if got, want := err.Error(), "write model: disk full"; got != want {
		t.Errorf("Write = %q, want %q", got, want)
	}
}

// A script leaves nothing to chance: each piece follows the one before it, and whatever is
// no piece is followed by the first.
func TestWriteScript(t *testing.T) {
	var b bytes.Buffer
	pieces := []string{"<a>", "\n", " b", `{"c": `}
	if err := tinymodel.WriteScript(&b, pieces...); err != nil {
		t.Fatal(err)
	}
	f := parse(t, b.Bytes())
	_, ids := f.tokens()
	last := "<0x22>" // a byte, as a prompt may end with
	follows := func(token, next string) {
		t.Helper()
		if c := f.chances(t, ids[token])[ids[next]]; c < 0.999 {
			t.Errorf("the chance of %q after %q is %v, want 1", next, token, c)
		}
	}
	for _, piece := range pieces {
		follows(last, piece)
		last = piece
	}
	follows(last, "</s>")

	for _, pieces := range [][]string{nil, {"a", "b", "a"}} {
		if err := tinymodel.WriteScript(&b, pieces...); err == nil {
			t.Errorf("a script of %q was written", pieces)
		}
	}
	if err := tinymodel.WriteScript(fullDisk{}, "a"); !errors.Is(err, errFull) {
		t.Errorf("WriteScript = %v, want %v", err, errFull)
	}
}

func TestMetadata(t *testing.T) {
	f := read(t)
	texts, ids := f.tokens()
	if len(ids) != len(texts) {
		t.Errorf("%d tokens have %d texts", len(texts), len(ids))
	}
	for key, want := range map[string]any{
		"general.architecture":            "llama",
		"llama.context_length":            uint32(4096),
		"llama.block_count":               uint32(1),
		"llama.embedding_length":          uint32(f.tensors["token_embd.weight"].dimensions[0]),
		"llama.vocab_size":                uint32(len(texts)),
		"tokenizer.ggml.model":            "llama",
		"tokenizer.ggml.unknown_token_id": uint32(ids["<unk>"]),
		"tokenizer.ggml.bos_token_id":     uint32(ids["<s>"]),
		"tokenizer.ggml.eos_token_id":     uint32(ids["</s>"]),
		"tokenizer.ggml.add_bos_token":    true,
	} {
		if got := f.fields[key]; got != want {
			t.Errorf("%s = %v, want %v", key, got, want)
		}
	}
	if got, _ := f.fields["tokenizer.chat_template"].(string); !strings.Contains(got, "messages") {
		t.Errorf("tokenizer.chat_template = %q, want one that goes through messages", got)
	}

	kinds := f.fields["tokenizer.ggml.token_type"].([]any)
	scores := f.fields["tokenizer.ggml.scores"].([]any)
	if len(kinds) != len(texts) || len(scores) != len(texts) {
		t.Fatalf("%d tokens have %d types and %d scores", len(texts), len(kinds), len(scores))
	}
	for id, text := range texts {
		want := int32(1)
		switch {
		case id == 0:
			want = 2
		case id < 3:
			want = 3
		case id < 3+256:
			want = 6
			if b := fmt.Sprintf("<0x%02X>", id-3); text != b {
				t.Errorf("token %d = %q, want %q", id, text, b)
			}
		}
		if kinds[id] != want {
			t.Errorf("type of %q = %v, want %d", text, kinds[id], want)
		}
	}
}

func TestTensors(t *testing.T) {
	f := read(t)
	texts, _ := f.tokens()
	vocabulary := uint64(len(texts))
	field := func(key string) uint64 { return uint64(f.fields["llama."+key].(uint32)) }
	width, ff := field("embedding_length"), field("feed_forward_length")
	head := field("attention.key_length") * field("attention.head_count")

	shapes := map[string][]uint64{
		"token_embd.weight":        {width, vocabulary},
		"output_norm.weight":       {width},
		"output.weight":            {width, vocabulary},
		"blk.0.attn_norm.weight":   {width},
		"blk.0.attn_q.weight":      {width, head},
		"blk.0.attn_k.weight":      {width, head},
		"blk.0.attn_v.weight":      {width, head},
		"blk.0.attn_output.weight": {head, width},
		"blk.0.ffn_norm.weight":    {width},
		"blk.0.ffn_gate.weight":    {width, ff},
		"blk.0.ffn_up.weight":      {width, ff},
		"blk.0.ffn_down.weight":    {ff, width},
	}
	for name, want := range shapes {
		ts, ok := f.tensors[name]
		if !ok {
			t.Errorf("no tensor %s", name)
			continue
		}
		if fmt.Sprint(ts.dimensions) != fmt.Sprint(want) {
			t.Errorf("dimensions of %s = %v, want %v", name, ts.dimensions, want)
		}
		fill := float32(0) // the block must not touch the residual stream
		switch {
		case strings.HasSuffix(name, "_norm.weight"):
			fill = 1
		case !strings.HasPrefix(name, "blk."):
			continue
		}
		for _, v := range ts.values {
			if v != fill {
				t.Errorf("%s holds %v, want only %v", name, v, fill)
				break
			}
		}
	}
	if len(f.tensors) != len(shapes) {
		t.Errorf("%d tensors, want %d", len(f.tensors), len(shapes))
	}
}

// What follows each token must be what follows it in the text.
func TestBigrams(t *testing.T) {
	f := read(t)
	texts, ids := f.tokens()
	text, err := os.ReadFile("prose.txt")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, word := range strings.Fields(string(text)) {
		mark := strings.TrimLeft(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
		words = append(words, "▁"+strings.TrimSuffix(word, mark))
		if mark != "" {
			words = append(words, mark)
		}
	}
	if last := words[len(words)-1]; last != "." {
		t.Fatalf("the text ends in %q, want a full stop", last)
	}
	count, follow := map[string]float64{}, map[[2]string]float64{}
	last := "."
	for _, word := range words {
		count[last]++
		follow[[2]string{last, word}]++
		last = word
	}
	if len(count) < 100 {
		t.Errorf("the text has %d distinct words, want 100 or more", len(count))
	}

	// before is the word whose successors a token must have, stop the chance of an end.
	check := func(token, before string, stop float64) {
		t.Helper()
		chances := f.chances(t, ids[token])
		for id, got := range chances {
			want := follow[[2]string{before, texts[id]}] / count[before] * (1 - stop)
			if texts[id] == "</s>" {
				want = stop
			}
			if math.Abs(got-want) > 1e-4 {
				t.Errorf("chance of %q after %q = %v, want %v", texts[id], token, got, want)
			}
		}
	}
	for word := range count {
		if _, ok := ids[word]; !ok {
			t.Fatalf("no token %q", word)
		}
		if word != "." {
			check(word, word, 0)
		}
	}
	check(".", ".", 0.2)
	// All else begins a sentence, and an answer must not end before it has begun.
	for _, token := range []string{"<s>", "</s>", "<unk>", "<0x0A>", "<0x3A>", "▁", "▁t"} {
		check(token, ".", 0)
	}
}

// The tokenizer joins two neighbours at a time and needs a token for each result.
func TestWordsAreReachable(t *testing.T) {
	f := read(t)
	texts, ids := f.tokens()
	for _, text := range texts {
		runes := []rune(text)
		if runes[0] != '▁' {
			continue
		}
		for n := 1; n < len(runes); n++ {
			if _, ok := ids[string(runes[:n])]; !ok {
				t.Errorf("no token %q on the way to %q", string(runes[:n]), text)
			}
		}
	}
}

// Texts must be told apart by their embeddings, though other tokens than words
// have none of their own.
func TestEmbeddingsDiffer(t *testing.T) {
	f := read(t)
	_, ids := f.tokens()
	seen := map[int]string{}
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		token := fmt.Sprintf("<0x%02X>", c)
		position := f.position(t, ids[token])
		if other, ok := seen[position]; ok {
			t.Errorf("%s and %s have the same embedding", token, other)
		}
		seen[position] = token
	}
}
