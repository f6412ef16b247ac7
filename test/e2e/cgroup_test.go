package e2e_test

import (
	"os"
	"os/exec"
	"spotinference/test/harness"
	"testing"
)

// TestQuietWithoutCgroupFiles: in a bare container the kernel's cgroup files are not
// there. No library of ours may say so on stderr: it would stand before the output of
// every command, and among the JSON lines of serve's log.
func TestQuietWithoutCgroupFiles(t *testing.T) {
	t.Parallel()
	namespace := []string{"--mount"}
	if os.Getuid() != 0 {
		namespace = append(namespace, "--map-root-user")
	}
	run := func(script string, args ...string) ([]byte, error) {
		return exec.Command("unshare", append(append(namespace, "sh", "-c", script, "sh"), args...)...).CombinedOutput()
	}
	const hide = `mount -t tmpfs none /sys/fs/cgroup && `
	if out, err := run(hide + "true"); err != nil {
		t.Skipf("no mount namespace to hide /sys/fs/cgroup in: %v: %s", err, out)
	}
	for _, command := range []string{"--help", "no-such-command"} {
		want, _ := exec.Command(harness.Program(t), command).CombinedOutput()
		got, err := run(hide+`exec "$@"`, harness.Program(t), command)
		if string(got) != string(want) {
			t.Errorf("spotinference %s, without cgroup files: %v\n%s\nwant\n%s", command, err, got, want)
		}
	}
}
