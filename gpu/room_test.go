package gpu

import (
	"strings"
	"testing"
)

func TestHostRoom(t *testing.T) {
	const available = "MemTotal: 999 kB\nMemAvailable:    8388608 kB\n" // 8 GiB
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64 // GiB
		by    string
		err   string
	}{
		{"no groups", map[string]string{}, 8, "MemAvailable", ""},
		{"no limit", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "max\n",
		}, 8, "MemAvailable", ""},
		{"a wide limit", map[string]string{
			"proc/self/cgroup":             "0::/\n",
			"sys/fs/cgroup/memory.max":     "17179869184\n",
			"sys/fs/cgroup/memory.current": "1073741824\n",
			"sys/fs/cgroup/memory.stat":    "anon 5\n",
		}, 8, "MemAvailable", ""},
		{"a tight one above us", map[string]string{
			"proc/self/cgroup":                  "0::/box/pod\n",
			"sys/fs/cgroup/box/memory.max":      "4294967296\n",
			"sys/fs/cgroup/box/memory.current":  "3221225472\n",
			"sys/fs/cgroup/box/memory.stat":     "anon 5\nactive_file 536870912\ninactive_file 536870912\n",
			"sys/fs/cgroup/box/pod/memory.max":  "max\n",
			"sys/fs/cgroup/box/pod/memory.stat": "anon 5\n",
		}, 2, "the control group's limit", ""},
		{"more used than allowed", map[string]string{
			"proc/self/cgroup":             "0::/\n",
			"sys/fs/cgroup/memory.max":     "1073741824\n",
			"sys/fs/cgroup/memory.current": "2147483648\n",
			"sys/fs/cgroup/memory.stat":    "",
		}, 0, "the control group's limit", ""},
		{"version 1", map[string]string{
			"proc/self/cgroup":                                  "7:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/docker/x\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":        "3221225472\n", // the container's own, seen as the root
			"sys/fs/cgroup/memory/memory.usage_in_bytes":        "2147483648\n",
			"sys/fs/cgroup/memory/memory.stat":                  "total_active_file 0\ntotal_inactive_file 1073741824\n",
			"sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_": "",
		}, 2, "the control group's limit", ""},
		{"version 1 without a limit", map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
			"sys/fs/cgroup/memory/memory.stat":           "",
		}, 8, "MemAvailable", ""},
		{"a limit that is none", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "much\n",
		}, 0, "", `memory.max "much": not an amount`},
		{"a usage that is missing", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "5\n",
		}, 0, "", "memory.current: no such file"},
		{"no word of what is free", map[string]string{"proc/meminfo": "MemFree: 5 kB\n"}, 0, "", "no MemAvailable"},
		{"nonsense", map[string]string{"proc/meminfo": "MemAvailable: -5 kB\n"}, 0, "", `MemAvailable "-5": not an amount`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, ok := c.files["proc/meminfo"]; !ok {
				c.files["proc/meminfo"] = available
			}
			got, err := hostRoom(host(t, c.files))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("hostRoom = %+v, %v, want %s", got, err, c.err)
				}
				return
			}
			if err != nil || got != (room{c.want << 30, c.by}) {
				t.Errorf("hostRoom = %+v, %v, want %d GiB by %s", got, err, c.want, c.by)
			}
		})
	}
	if got, err := hostRoom("/"); err != nil || got.bytes <= 0 {
		t.Errorf("of this machine: %+v, %v", got, err)
	}
}

// TestHostMemory: the machine's, or the tightest limit of a group that it is in.
func TestHostMemory(t *testing.T) {
	const total = "MemTotal: 8388608 kB\n" // 8 GiB
	for name, c := range map[string]struct {
		files map[string]string
		want  int64 // GiB; 0: an error
	}{
		"no groups": {map[string]string{"proc/meminfo": total}, 8},
		"no limit":  {map[string]string{"proc/meminfo": total, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8},
		"a wide limit": {map[string]string{"proc/meminfo": total, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "17179869184\n"}, 8},
		"a tight one above us": {map[string]string{"proc/meminfo": total, "proc/self/cgroup": "0::/box/pod\n",
			"sys/fs/cgroup/box/memory.max": "4294967296\n", "sys/fs/cgroup/box/pod/memory.max": "max\n"}, 4},
		"version 1": {map[string]string{"proc/meminfo": total, "proc/self/cgroup": "4:memory:/docker/x\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "3221225472\n"}, 3},
		"nothing is known": {map[string]string{"proc/meminfo": "MemFree: 5 kB\n"}, 0},
		"a limit that is none": {map[string]string{"proc/meminfo": total, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "much\n"}, 0},
	} {
		got, err := hostMemory(host(t, c.files))
		if got != c.want<<30 || (err == nil) != (c.want > 0) {
			t.Errorf("%s: %d, %v, want %d GiB", name, got, err, c.want)
		}
	}
	if n, err := HostMemory(); err != nil || n <= 0 {
		t.Errorf("this machine: %d, %v", n, err)
	}
}
