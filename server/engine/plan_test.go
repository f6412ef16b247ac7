package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/internal/hint"
	"spotinference/server/queue"
)

var (
	onSocket = endpoint{"unix", "/run/x/engine.sock"}
	onTCP    = endpoint{"tcp", "127.0.0.1:4321"}
)

func TestKindOf(t *testing.T) {
	f := func(want queue.Kind, command ...string) {
		t.Helper()
		got, err := KindOf(command)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("KindOf(%q) = %q, %v, want %q", command, got, err, want)
		}
		if err != nil && hint.Of(err) == "" {
			t.Errorf("KindOf(%q) gives no hint", command)
		}
	}
	f(queue.Llama, "llama-server", "-m", "x")
	f(queue.Llama, "/opt/llama.cpp/llama-server")
	f(queue.Llama, "./llama-server-cuda")
	f(queue.VLLM, "vllm", "serve", "x")
	f(queue.VLLM, "/venv/bin/vllm")

	// What starts an engine without being one must be named with --engine.
	f("")
	f("", "")
	f("", "python", "-m", "vllm.entrypoints.openai.api_server")
	f("", "docker", "run", "vllm/vllm-openai")
	f("", "/lib64/ld-linux-x86-64.so.2", "llama-server")
	f("", "./start.sh")
	f("", "llama-cli", "-m", "x")
}

func TestPlanLlama(t *testing.T) {
	f := func(at endpoint, command, want, replaced string) {
		t.Helper()
		p, err := planFor(queue.Llama, strings.Fields(command), nil, at, "secret")
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if got := strings.Join(p.argv, " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", command, got, want)
		}
		if got := strings.Join(p.replaced, ", "); got != replaced {
			t.Errorf("%s: replaced %q, want %q", command, got, replaced)
		}
		if !slices.Equal(p.env, []string{"LLAMA_API_KEY=secret"}) || strings.Contains(strings.Join(p.argv, " "), "secret") {
			t.Errorf("%s: the key is not in the environment alone", command)
		}
	}
	const added = " --host /run/x/engine.sock --metrics --threads-http 256"
	f(onSocket, "llama-server -m q4.gguf -ngl 99", "llama-server -m q4.gguf -ngl 99"+added, "")
	f(onTCP, "llama-server -m q4.gguf", "llama-server -m q4.gguf --host 127.0.0.1 --port 4321 --metrics --threads-http 256", "")

	// The user's address gives way, in each of its spellings.
	f(onSocket, "llama-server --host 0.0.0.0 --port 8080 -m x", "llama-server -m x"+added, "--host 0.0.0.0, --port 8080")
	f(onSocket, "llama-server --host=0.0.0.0 -m x --port=1", "llama-server -m x"+added, "--host=0.0.0.0, --port=1")
	f(onSocket, "llama-server -m x --host a --host b", "llama-server -m x"+added, "--host a, --host b")
	f(onSocket, "llama-server -m x --port", "llama-server -m x"+added, "--port")
	f(onSocket, "llama-server --port -m x", "llama-server -m x"+added, "--port")

	// What the user chose already stays theirs.
	f(onSocket, "llama-server -m x --metrics --threads-http 8", "llama-server -m x --metrics --threads-http 8 --host /run/x/engine.sock", "")
	f(onSocket, "llama-server -m x --threads_http 8 --no-ui", "llama-server -m x --threads_http 8 --no-ui --host /run/x/engine.sock --metrics", "")
	f(onSocket, "llama-server -m x --sleep-idle-seconds -1", "llama-server -m x --sleep-idle-seconds -1"+added, "")
	f(onSocket, "llama-server -m x -c -1", "llama-server -m x -c -1"+added, "")

	// Every way to name a model; a script may hold its own.
	for _, model := range []string{"--model x", "-hf a/b:Q4", "-hfr a/b", "--hf-repo a/b", "-mu http://x", "--model-url http://x", "-dr ai/x", "--gpt-oss-20b-default"} {
		f(onSocket, "llama-server "+model, "llama-server "+model+added, "")
	}
	f(onSocket, "./start.sh -v", "./start.sh -v"+added, "")
}

func TestPlanLlamaEnvironment(t *testing.T) {
	f := func(env, want, replaced string) {
		t.Helper()
		p, err := planFor(queue.Llama, []string{"llama-server", "-m", "x"}, strings.Fields(env), onSocket, "k")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(p.env, " "); got != want {
			t.Errorf("%s: env = %s, want %s", env, got, want)
		}
		if got := strings.Join(p.replaced, " "); got != replaced {
			t.Errorf("%s: replaced %q, want %q", env, got, replaced)
		}
	}
	f("A=1 LLAMA_ARG_CTX_SIZE=1", "A=1 LLAMA_ARG_CTX_SIZE=1 LLAMA_API_KEY=k", "")
	f("LLAMA_ARG_HOST=0.0.0.0 LLAMA_ARG_PORT=80 A=1", "A=1 LLAMA_API_KEY=k", "LLAMA_ARG_HOST LLAMA_ARG_PORT")
	f("LLAMA_API_KEY=old LLAMA_ARG_API_KEY_FILE=f", "LLAMA_API_KEY=k", "LLAMA_API_KEY LLAMA_ARG_API_KEY_FILE")
	f("AIP_MODE=PREDICTION AIP_HTTP_PORT=1", "LLAMA_API_KEY=k", "AIP_MODE AIP_HTTP_PORT")
	f("LLAMA_ARG_MODELS_DIR=d LLAMA_ARG_SSL_KEY_FILE=f", "LLAMA_API_KEY=k", "LLAMA_ARG_MODELS_DIR LLAMA_ARG_SSL_KEY_FILE")
	f("GGML_CUDA_ENABLE_UNIFIED_MEMORY=1 LLAMA_ARG_NO_HOST=1", "GGML_CUDA_ENABLE_UNIFIED_MEMORY=1 LLAMA_ARG_NO_HOST=1 LLAMA_API_KEY=k", "")

	// The model and the threads may come from it.
	p, err := planFor(queue.Llama, []string{"llama-server"}, []string{"LLAMA_ARG_MODEL=x", "LLAMA_ARG_THREADS_HTTP=9"}, onSocket, "k")
	if err != nil || slices.Contains(p.argv, "--threads-http") {
		t.Errorf("plan with a model in the environment = %q, %v", p.argv, err)
	}
}

func TestPlanVLLM(t *testing.T) {
	f := func(at endpoint, command, want, replaced string) {
		t.Helper()
		p, err := planFor(queue.VLLM, strings.Fields(command), []string{"VLLM_API_KEY=old", "PROMETHEUS_MULTIPROC_DIR=d"}, at, "secret")
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if got := strings.Join(p.argv, " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", command, got, want)
		}
		want = strings.TrimPrefix(replaced+", VLLM_API_KEY, PROMETHEUS_MULTIPROC_DIR", ", ")
		if got := strings.Join(p.replaced, ", "); got != want {
			t.Errorf("%s: replaced %q, want %q", command, got, want)
		}
		if !slices.Equal(p.env, []string{"VLLM_API_KEY=secret"}) {
			t.Errorf("%s: env = %q", command, p.env)
		}
	}
	const added = " --uds /run/x/engine.sock --enable-prompt-tokens-details --disable-uvicorn-access-log"
	f(onSocket, "vllm serve m -tp 2", "vllm serve m -tp 2"+added, "")
	f(onTCP, "vllm serve m", "vllm serve m --host 127.0.0.1 --port 4321 --enable-prompt-tokens-details --disable-uvicorn-access-log", "")
	f(onSocket, "vllm serve m --host ::1 --port=9 --uds /tmp/v", "vllm serve m"+added, "--host ::1, --port=9, --uds /tmp/v")
	f(onSocket, "vllm serve m --enable_prompt_tokens_details --disable-uvicorn-access-log",
		"vllm serve m --enable_prompt_tokens_details --disable-uvicorn-access-log --uds /run/x/engine.sock", "")
	f(onSocket, "vllm serve m --api-server-count 1 --shutdown-timeout 30", "vllm serve m --api-server-count 1 --shutdown-timeout 30"+added, "")
	f(onSocket, "python -m vllm.entrypoints.openai.api_server --model m", "python -m vllm.entrypoints.openai.api_server --model m"+added, "")
}

func TestRefusals(t *testing.T) {
	f := func(kind queue.Kind, command, want string) {
		t.Helper()
		_, err := planFor(kind, strings.Fields(command), nil, onSocket, "k")
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", command, err, want)
			return
		}
		if hint.Of(err) == "" {
			t.Errorf("%s: no hint", command)
		}
	}
	f(queue.Llama, "llama-server", "llama-server is given no model")
	f(queue.Llama, "/x/llama-server --metrics", "llama-server is given no model")
	f(queue.Llama, "llama-server -m x --api-key k", "cannot run llama-server with --api-key")
	f(queue.Llama, "llama-server -m x --api_key k", "cannot run llama-server with --api-key")
	f(queue.Llama, "llama-server -m x --api-key-file f", "cannot run llama-server with --api-key-file")
	f(queue.Llama, "llama-server -m x --api-prefix /p", "cannot run llama-server with --api-prefix")
	f(queue.Llama, "llama-server -m x --ssl-key-file f", "cannot run llama-server with --ssl-key-file")
	f(queue.Llama, "llama-server -m x --ssl-cert-file f", "cannot run llama-server with --ssl-cert-file")
	f(queue.Llama, "llama-server -m x --models-dir d", "cannot run llama-server with --models-dir")
	f(queue.Llama, "llama-server -m x --no-models-autoload", "cannot run llama-server with --no-models-autoload")
	f(queue.Llama, "llama-server -m x --sleep-idle-seconds 60", "cannot run llama-server with --sleep-idle-seconds")
	f(queue.VLLM, "vllm", "vllm is given no serve command")
	f(queue.VLLM, "vllm chat", "vllm is given no serve command")
	f(queue.VLLM, "vllm serve m --api-key k", "cannot run vllm with --api-key")
	f(queue.VLLM, "vllm serve m --api_key=k", "cannot run vllm with --api-key")
	f(queue.VLLM, "vllm serve m --root-path /p", "cannot run vllm with --root-path")
	f(queue.VLLM, "vllm serve m --ssl-keyfile=f", "cannot run vllm with --ssl-keyfile")
	f(queue.VLLM, "vllm serve m --api-server-count 2", "cannot run vllm with --api-server-count 2")
	f(queue.VLLM, "vllm serve m --no-enable-prompt-tokens-details", "cannot run vllm with --no-enable-prompt-tokens-details")
	f("ollama", "ollama serve", `unknown engine "ollama"`)
}

func TestNewRefuses(t *testing.T) {
	f := func(cfg Config, want string) {
		t.Helper()
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("New(%q) = %v, want an error with %q and a hint", cfg.Command, err, want)
		}
	}
	f(Config{}, "no engine command")
	f(Config{Kind: queue.Llama}, "no engine command")
	f(Config{Command: []string{"/bin/sh"}}, `cannot tell which engine "sh" starts`)
	f(Config{Command: []string{"llama-server-that-is-nowhere", "-m", "x"}}, "executable file not found")
	f(Config{Command: []string{"/bin/sh", "--api-key", "x"}, Kind: queue.VLLM}, "--api-key")
}

func TestDrainTime(t *testing.T) {
	f := func(kind queue.Kind, command string, want time.Duration) {
		t.Helper()
		if got := drainTime(kind, strings.Fields(command)); got != want {
			t.Errorf("%s: drainTime = %v, want %v", command, got, want)
		}
	}
	f(queue.VLLM, "vllm serve m", 0)
	f(queue.VLLM, "vllm serve m --shutdown-timeout 30", 30*time.Second)
	f(queue.VLLM, "vllm serve m --shutdown_timeout=2.5", 2500*time.Millisecond)
	f(queue.VLLM, "vllm serve m --shutdown-timeout soon", 0)
	f(queue.Llama, "llama-server --shutdown-timeout 30", 0)
}

func TestDropEnv(t *testing.T) {
	f := func(name string, kept bool) {
		t.Helper()
		left, dropped := dropEnv([]string{name + "=x"}, secretNames)
		if (len(left) == 1) != kept || (len(dropped) == 0) != kept {
			t.Errorf("%s: kept %q, dropped %q", name, left, dropped)
		}
	}
	for _, name := range []string{"SPOTINFERENCE_BUDGET", "HYPERSTACK_API_KEY", "HYPERSTACK_API_URL", "RUNPOD_API_KEY", "VAST_API_KEY",
		"CONTAINER_API_KEY", "VERDA_CLIENT_ID", "DATACRUNCH_SECRET", "SCW_SECRET_KEY", "LAMBDA_API_KEY", "NEBIUS_IAM_TOKEN",
		"DIGITALOCEAN_TOKEN", "VULTR_API_KEY", "SHADEFORM_KEY", "TENSORDOCK_TOKEN", "CRUSOE_SECRET", "OVH_APPLICATION_SECRET"} {
		f(name, false)
	}
	for _, name := range []string{"PATH", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "RUNPOD_POD_ID", "CUDA_VISIBLE_DEVICES", "LAMBDA_X"} {
		f(name, true)
	}
}
