// Package sim is a simulated inference engine: a program that answers as
// llama-server or vLLM would, with words in place of a model and a file lock in place
// of a GPU. The demo runs it, and so do the tests; it is a real process that is
// started, probed, signalled and killed like the one it stands for.
//
// It knows the two engines' HTTP, byte for byte where llama-server was recorded
// (testdata), and their bad habits: wrong usage for n > 1, late reactions to a
// disconnect, children that outlive their parent. It knows nothing of spotinference
// and imports nothing of it, so that an error shared by both cannot hide.
//
//	sim-engine -flavour llama -load 2s -tokens 64 -delay 20ms --host /run/x/engine.sock --metrics
//
// The engines' own flags are accepted; those without a meaning here are skipped.
// optionTable lists what it takes.
package sim
