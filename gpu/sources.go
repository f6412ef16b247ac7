package gpu

import (
	"errors"
	"os/exec"
)

// helperName is how the helper shows in a list of processes.
const helperName = "spotinference-gpu"

// sources are what this build has, the best first.
func sources() []source {
	return []source{
		{name: Helper, start: func() (process, error) { return startHelper() }, decoder: helperDecoder},
		newSMI(),
	}
}

// ErrNoHelper is why a plain go build reads no card through NVML and suspends nothing
// by checkpoint.
var ErrNoHelper = errors.New("this build carries none")

// startHelper starts the helper that we carry.
func startHelper(args ...string) (process, error) {
	if len(helperImage) == 0 {
		return nil, ErrNoHelper
	}
	c, err := startImage(helperImage, append([]string{helperName}, args...), startFromMemory, startFromFile)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func helperDecoder() func([]byte) (Message, bool, error) {
	return func(line []byte) (Message, bool, error) {
		m, err := ParseMessage(line)
		return m, true, err
	}
}

func newSMI() source {
	q := &smiQuery{fields: smiFields()}
	return source{
		name: SMI,
		start: func() (process, error) {
			path, err := exec.LookPath("nvidia-smi")
			if err != nil {
				return nil, errors.New("not found in PATH")
			}
			c, err := startChild(exec.Command(path, q.args()...))
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		decoder: q.decoder,
	}
}
