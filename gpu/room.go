package gpu

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// room is how much memory the host has left for us, and what says so.
type room struct {
	bytes int64
	by    string
}

// hostRoom reads how much more memory our processes may use: what the kernel says is
// available, or what the tightest of our control groups leaves, where that is less.
// Past it, the kernel kills somebody. root is / but for tests.
func hostRoom(root string) (room, error) {
	available, err := meminfo(filepath.Join(root, "proc/meminfo"), "MemAvailable")
	if err != nil {
		return room{}, fmt.Errorf("read the host's free memory: %w", err)
	}
	least := room{available, "MemAvailable"}
	groups, err := memoryGroups(root)
	if err != nil {
		return room{}, fmt.Errorf("read the control group's memory: %w", err)
	}
	for _, g := range groups {
		left, limited, err := g.left()
		if err != nil {
			return room{}, fmt.Errorf("read the control group's memory: %w", err)
		}
		if limited && left < least.bytes {
			least = room{left, "the control group's limit"}
		}
	}
	return least, nil
}

// HostMemory is how much memory the host has, or the tightest of our control groups may use,
// where that is less.
func HostMemory() (int64, error) { return hostMemory("/") }

func hostMemory(root string) (int64, error) {
	total, err := meminfo(filepath.Join(root, "proc/meminfo"), "MemTotal")
	if err != nil {
		return 0, fmt.Errorf("read the host's memory: %w", err)
	}
	groups, err := memoryGroups(root)
	if err != nil {
		return 0, fmt.Errorf("read the control group's memory: %w", err)
	}
	for _, g := range groups {
		limit, limited, err := g.most()
		if err != nil {
			return 0, fmt.Errorf("read the control group's memory: %w", err)
		}
		if limited {
			total = min(total, limit)
		}
	}
	return total, nil
}

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(file, name string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) == 3 && f[0] == name+":" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil || n < 0 || n > math.MaxInt64>>10 {
				return 0, fmt.Errorf("%s %q: not an amount", name, f[1])
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

// memoryGroup is one control group, by the names of its version's files.
type memoryGroup struct {
	dir, limit, usage string
	file              []string // of memory.stat: pages of files, which make way
}

// memoryGroups are those that bound us: ours and all above it, as far as they are
// seen from here (cgroups(7)). A container may see its own as the root.
func memoryGroups(root string) (all []memoryGroup, err error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("line %q", line)
		}
		g := memoryGroup{limit: "memory.max", usage: "memory.current", file: []string{"active_file", "inactive_file"}}
		base := filepath.Join(root, "sys/fs/cgroup")
		switch {
		case f[0] == "0" && f[1] == "":
		case f[1] == "memory": // version 1
			g = memoryGroup{limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", file: []string{"total_active_file", "total_inactive_file"}}
			base = filepath.Join(base, "memory")
		default:
			continue
		}
		for at := path.Clean("/" + f[2]); ; at = path.Dir(at) {
			g.dir = filepath.Join(base, at)
			all = append(all, g)
			if at == "/" {
				break
			}
		}
	}
	return all, nil
}

// most is the group's limit; limited is false where there is none.
func (g memoryGroup) most() (limit int64, limited bool, err error) {
	text, err := os.ReadFile(filepath.Join(g.dir, g.limit))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil // the root has none, nor has a group that is not seen from here
	}
	if err != nil {
		return 0, false, err
	}
	// A limit that no machine has is version 1's way to say that there is none.
	limit, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if strings.TrimSpace(string(text)) == "max" || errors.Is(err, strconv.ErrRange) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("%s %q: not an amount", g.limit, bytes.TrimSpace(text))
	}
	return limit, true, nil
}

// left is what may be used until the group's limit; limited is false where there is none.
func (g memoryGroup) left() (n int64, limited bool, err error) {
	limit, limited, err := g.most()
	if err != nil || !limited {
		return 0, false, err
	}
	text, err := os.ReadFile(filepath.Join(g.dir, g.usage))
	if err != nil {
		return 0, false, err
	}
	used, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("%s %q: not an amount", g.usage, bytes.TrimSpace(text))
	}
	// A model that was read lies in the page cache, which counts as used and makes way.
	stat, err := os.ReadFile(filepath.Join(g.dir, "memory.stat"))
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		for _, want := range g.file {
			if name == want {
				cached, err := strconv.ParseInt(value, 10, 64)
				if err != nil {
					return 0, false, fmt.Errorf("memory.stat: %s %q: not an amount", name, value)
				}
				used -= cached
			}
		}
	}
	return max(0, limit-max(0, used)), true, nil
}
