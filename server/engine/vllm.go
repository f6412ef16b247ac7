package engine

import (
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"spotinference/internal/hint"
	"spotinference/server/queue"
)

var vllmRefusals = []refusal{
	{"--api-key", hintKey},
	{"--root-path", "take it out: the engine is not seen from outside"},
	{"--ssl-keyfile", hintTLS},
	{"--ssl-certfile", hintTLS},
	{"--ssl-ca-certs", hintTLS},
	{"--ssl-cert-reqs", hintTLS},
	{"--ssl-ciphers", hintTLS},
	{"--enable-ssl-refresh", hintTLS},
	{"--no-enable-prompt-tokens-details", "take it out: cached tokens are counted from it"},
	{"--disable-log-stats", "take it out: it empties /metrics, which the counts are checked against"},
}

// vllmEnv are variables that contradict us. A preset PROMETHEUS_MULTIPROC_DIR makes
// counters survive the process that they count for.
var vllmEnv = []string{"VLLM_API_KEY", "PROMETHEUS_MULTIPROC_DIR"}

func planVLLM(command, env []string, at endpoint, key string) (plan, error) {
	args := argv(command[1:])
	if filepath.Base(command[0]) == "vllm" && (len(args) == 0 || args[0] != "serve") {
		return plan{}, hint.Errorf("write: vllm serve MODEL", "vllm is given no serve command")
	}
	if err := args.refuse("vllm", vllmRefusals); err != nil {
		return plan{}, err
	}
	if i, value := args.find("--api-server-count", "-asc"); i >= 0 && value != "1" {
		return plan{}, hint.Errorf("take it out: the counters of several servers cannot be read on one socket",
			"cannot run vllm with --api-server-count %s", value)
	}

	args, replaced := args.without("--host", "--port", "--uds")
	if at.network == "unix" {
		args = append(args, "--uds", at.addr)
	} else {
		host, port, _ := net.SplitHostPort(at.addr)
		args = append(args, "--host", host, "--port", port)
	}
	if !args.has("--enable-prompt-tokens-details") {
		args = append(args, "--enable-prompt-tokens-details")
	}
	if !args.has("--disable-uvicorn-access-log", "--no-disable-uvicorn-access-log") {
		args = append(args, "--disable-uvicorn-access-log")
	}

	env, dropped := dropEnv(env, vllmEnv)
	return plan{
		argv:     append([]string{command[0]}, args...),
		env:      append(env, "VLLM_API_KEY="+key),
		replaced: append(replaced, dropped...),
	}, nil
}

// drainTime is how long the engine was told to finish its requests after SIGTERM.
func drainTime(kind queue.Kind, command []string) time.Duration {
	if kind != queue.VLLM {
		return 0
	}
	_, value := argv(command).find("--shutdown-timeout")
	seconds, err := strconv.ParseFloat(value, 64)
	if err != nil || seconds < 0 {
		return 0 // vLLM itself will complain
	}
	return time.Duration(seconds * float64(time.Second))
}

// sleepEnabled tells whether vLLM was told to be able to sleep: the allocator by a
// flag, the routes by its development mode. Both are the user's to give: the routes
// of that mode reach deep into the engine.
func sleepEnabled(command, env []string) bool {
	dev := slices.ContainsFunc(env, func(kv string) bool {
		value, ok := strings.CutPrefix(kv, "VLLM_SERVER_DEV_MODE=")
		return ok && value != "" && value != "0"
	})
	return dev && argv(command).has("--enable-sleep-mode")
}
