package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spotinference/test/tinymodel"
)

// realModel is the name of the real engine's model.
const realModel = "bigram"

// realFlags make the tiny model take prompts of 40,000 tokens, and end its answers.
var realFlags = []string{"--alias", realModel, "-c", "262144", "-t", "1", "--parallel", "2", "-n", "200", "--logit-bias", "2+4",
	"--override-kv", "llama.context_length=int:131072"}

// backends are those of llama-server's build, the fastest first, and what each asks of
// the processor.
var backends = []struct {
	name string
	asks []string
}{
	{"sapphirerapids", []string{"amx_int8", "avx512_bf16", "avx512_vbmi", "avx512_vnni"}},
	{"zen4", []string{"avx512_bf16", "avx512_vbmi", "avx512_vnni"}},
	{"icelake", []string{"avx512_vbmi", "avx512_vnni"}},
	{"cascadelake", []string{"avx512_vnni"}},
	{"skylakex", []string{"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}},
	{"haswell", []string{"avx2", "fma", "f16c", "bmi2"}},
	{"x64", nil},
}

// realEngine writes a script into dir that runs llama-server with the backend that is
// the fastest here, and the model. It returns the words of the command.
func (w *world) realEngine(dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	backend, err := fastestBackend(engineFolder(w.opts.dir))
	if err != nil {
		return nil, err
	}
	var model bytes.Buffer
	if err := tinymodel.Write(&model); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "tiny.gguf")
	if err := os.WriteFile(file, model.Bytes(), 0o600); err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "engine.sh")
	launcher := filepath.Join(engineFolder(w.opts.dir), "llama-server")
	err = writeScript(script, fmt.Sprintf("export GGML_BACKEND_PATH='%s'\nexec '%s' \"$@\"\n", backend, launcher))
	return append([]string{script, "-m", file}, realFlags...), err
}

func fastestBackend(folder string) (string, error) {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	_, flags, _ := strings.Cut(string(cpu), "\nflags")
	flags, _, _ = strings.Cut(flags, "\n")
	have := strings.Fields(flags)
	for _, b := range backends {
		files, err := filepath.Glob(filepath.Join(folder, "root/usr/lib/*/ggml/backends*/libggml-cpu-"+b.name+".so"))
		if err != nil {
			return "", err
		}
		lacks := func(flag string) bool { return !slices.Contains(have, flag) }
		if len(files) > 0 && !slices.ContainsFunc(b.asks, lacks) {
			return files[0], nil
		}
	}
	return "", fmt.Errorf("llama-server in %s has no backend for this processor", folder)
}

// hiDirect has the agents ask llama-server itself.
func hiDirect(ctx context.Context, w *world, dir string) (*stage, error) {
	command, err := w.realEngine(dir)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "engine.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:], "--host", host, "--port", port)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
	url := "http://" + net.JoinHostPort(host, port)
	if err := healthy(ctx, url); err != nil {
		stop()
		return nil, err
	}
	return &stage{target: url, model: realModel, stop: stop, key: func(context.Context, agent) (string, error) { return mainKey, nil }}, nil
}

// healthy waits until an engine has loaded its model.
func healthy(ctx context.Context, url string) error {
	for deadline := time.Now().Add(patience); ; {
		resp, err := http.Get(url + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("llama-server is not ready within %s", patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// hiThrough has them ask it through serve.
func hiThrough(ctx context.Context, w *world, dir string) (*stage, error) {
	command, err := w.realEngine(dir)
	if err != nil {
		return nil, err
	}
	st, err := w.ready(ctx, dir, withoutBill(append([]string{"--engine", "llama", "--"}, command...)))
	if err != nil {
		return nil, err
	}
	st.model = realModel
	return st, nil
}
