package engine

import (
	"path/filepath"
	"strings"

	"spotinference/internal/hint"
	"spotinference/server/queue"
)

// KindOf tells the engine from the base name of its command. It does not look
// through python -m, docker, a loader or a script: there the user must say.
func KindOf(command []string) (queue.Kind, error) {
	if len(command) == 0 || command[0] == "" {
		return "", hint.Errorf("write it after --, as in: spotinference serve -- llama-server -m model.gguf", "no engine command")
	}
	base := filepath.Base(command[0])
	switch {
	case strings.HasPrefix(base, "llama-server"):
		return queue.Llama, nil
	case base == "vllm":
		return queue.VLLM, nil
	}
	return "", hint.Errorf("name it with --engine llama or --engine vllm", "cannot tell which engine %q starts", base)
}

// endpoint is where the engine listens: ("unix", path) or ("tcp", "127.0.0.1:port").
type endpoint struct {
	network, addr string
}

// plan is one start of the engine: what to execute, and which of the user's own
// words had to give way to ours.
type plan struct {
	argv     []string
	env      []string
	replaced []string
}

// planFor adapts command and env, which must be scrubbed already, so that the engine
// listens at at and asks for key. It is pure; New calls it to refuse early.
func planFor(kind queue.Kind, command, env []string, at endpoint, key string) (plan, error) {
	switch kind {
	case queue.Llama:
		return planLlama(command, env, at, key)
	case queue.VLLM:
		return planVLLM(command, env, at, key)
	}
	return plan{}, hint.Errorf("use llama or vllm", "unknown engine %q", string(kind))
}
