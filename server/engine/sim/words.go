package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"strings"
)

// sentences are what the simulated model knows.
var sentences = [...]string{
	"The bill is a subtraction between two samples.",
	"A token counted twice is worse than a token lost.",
	"The meter only reads what passes by.",
	"An idle box costs as much as a busy one.",
	"The same hour over more tokens makes each of them cheaper.",
	"When the window is dark the gate stays closed.",
	"Every request leaves a line in the ledger.",
	"The engine sleeps and the first caller wakes it.",
	"Nothing is acknowledged before it is on disk.",
	"A clock that jumps back is not to be trusted.",
	"The last sample of the day closes the day.",
	"What cannot be seen cannot be spent.",
}

// answer returns n words that depend on seed alone, each with a space before it, as
// llama-server's tokens have.
func answer(seed string, n int) []string {
	h := fnv.New64a()
	h.Write([]byte(seed))
	random := rand.New(rand.NewPCG(h.Sum64(), 0))
	words := make([]string, 0, n)
	for len(words) < n {
		for _, word := range strings.Fields(sentences[random.IntN(len(sentences))]) {
			words = append(words, " "+word)
		}
	}
	return words[:n]
}

// countWords is our tokenizer: a word is a token.
func countWords(text string) int { return len(strings.Fields(text)) }

// tokenID gives a word a number, the same each time.
func tokenID(word string) int {
	h := fnv.New32a()
	h.Write([]byte(word))
	return int(h.Sum32() % 32000)
}
