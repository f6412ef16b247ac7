package engine

import (
	"net"
	"path/filepath"
	"strings"

	"spotinference/internal/hint"
)

// llamaThreads is how many connections llama-server can hold at once: it parks one
// thread on each, and its default starves dozens of streams.
const llamaThreads = "256"

const (
	hintKey    = "take it out: the engine's key is made afresh at each start; clients send the one in SPOTINFERENCE_API_KEY or --api-key-file"
	hintRouter = "take it out: spotinference runs one model; name it with -m"
	hintTLS    = "take it out: the engine listens on a private socket"
)

var llamaRefusals = []refusal{
	{"--api-key", hintKey},
	{"--api-key-file", hintKey},
	{"--api-prefix", "take it out: the engine is not seen from outside"},
	{"--ssl-key-file", hintTLS},
	{"--ssl-cert-file", hintTLS},
	{"--models-dir", hintRouter},
	{"--models-preset", hintRouter},
	{"--models-max", hintRouter},
	{"--models-autoload", hintRouter},
	{"--no-models-autoload", hintRouter},
}

// llamaEnv are variables with the meaning of a refused or replaced flag. They come
// from an image more often than from a person, so they are cleared and not refused.
// AIP_* would switch llama-server to another port and other paths.
var llamaEnv = []string{
	"LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_ARG_REUSE_PORT",
	"LLAMA_API_KEY", "LLAMA_ARG_API_KEY*", "LLAMA_ARG_API_PREFIX",
	"LLAMA_ARG_SSL_*", "LLAMA_ARG_MODELS_*", "LLAMA_ARG_SLEEP_IDLE_SECONDS",
	"AIP_*",
}

// Without one of these llama-server starts as a router that holds no model.
var (
	llamaModelFlags    = []string{"-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-dr", "--docker-repo"}
	llamaModelPrefixes = []string{"--fim-", "--gpt-oss-", "--vision-", "--embd-gemma-"} // built-in choices, e.g. --gpt-oss-20b-default
	llamaModelEnv      = []string{"LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_DOCKER_REPO"}
)

func planLlama(command, env []string, at endpoint, key string) (plan, error) {
	args := argv(command[1:])
	if err := args.refuse("llama-server", llamaRefusals); err != nil {
		return plan{}, err
	}
	if i, value := args.find("--sleep-idle-seconds"); i >= 0 && value != "-1" {
		return plan{}, hint.Errorf("take it out: an engine that sleeps by itself cannot be told from one that hangs",
			"cannot run llama-server with --sleep-idle-seconds")
	}
	// A script may hold the model itself; the real command must be given one.
	if strings.HasPrefix(filepath.Base(command[0]), "llama-server") && !llamaHasModel(args, env) {
		return plan{}, hint.Errorf("name one with -m FILE or -hf REPO: without it llama-server starts as a router",
			"llama-server is given no model")
	}

	args, replaced := args.without("--host", "--port")
	if at.network == "unix" {
		args = append(args, "--host", at.addr)
	} else {
		host, port, _ := net.SplitHostPort(at.addr)
		args = append(args, "--host", host, "--port", port)
	}
	if !args.has("--metrics") {
		args = append(args, "--metrics")
	}
	if !args.has("--threads-http") && !hasEnv(env, "LLAMA_ARG_THREADS_HTTP") {
		args = append(args, "--threads-http", llamaThreads)
	}

	env, dropped := dropEnv(env, llamaEnv)
	return plan{
		argv:     append([]string{command[0]}, args...),
		env:      append(env, "LLAMA_API_KEY="+key),
		replaced: append(replaced, dropped...),
	}, nil
}

func llamaHasModel(args argv, env []string) bool {
	if args.has(llamaModelFlags...) || hasEnv(env, llamaModelEnv...) {
		return true
	}
	for _, arg := range args {
		for _, prefix := range llamaModelPrefixes {
			if strings.HasPrefix(arg, prefix) {
				return true
			}
		}
	}
	return false
}
