package main

import (
	"fmt"
	"strings"
	"time"
)

// smiName is nvidia-smi's, whose place this program takes: a helper that reads a card
// must be there to be killed.
const smiName = "nvidia-smi"

// smi answers as nvidia-smi --query-gpu --loop=1 does, until it is killed.
func smi(args []string) int {
	known := map[string]string{"count": "1", "index": "0", "uuid": "GPU-torture", "name": "Simulated", "driver_version": "0",
		"utilization.gpu": "50", "memory.used": "1000", "memory.total": "80000", "power.draw": "300.5", "temperature.gpu": "60"}
	var values []string
	for _, arg := range args {
		if fields, ok := strings.CutPrefix(arg, "--query-gpu="); ok {
			for field := range strings.SplitSeq(fields, ",") {
				value, ok := known[field]
				if !ok {
					value = "[N/A]"
				}
				values = append(values, value)
			}
		}
	}
	for {
		if _, err := fmt.Println(strings.Join(values, ", ")); err != nil {
			return 1
		}
		time.Sleep(time.Second)
	}
}
