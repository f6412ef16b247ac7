package report_test

import (
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

func num(v int64) *int64 { return &v }

// cardMinute is what a card did in the minute that ends at minute; nil where its
// energy is not known.
func (b *book) cardMinute(uuid string, minute float64, energy *int64, change ...func(*ledger.GPUMinute)) {
	b.t.Helper()
	m := ledger.GPUMinute{
		UUID: uuid, Name: "NVIDIA H100 80GB HBM3", Source: "helper", Since: at(minute - 1), At: at(minute), Readings: 60,
		UtilisationAvg: num(5000), UtilisationMax: num(100), MemoryAvg: num(40 << 30), MemoryMax: num(72 << 30),
		PowerAvg: num(300_000), PowerMax: num(700_000), TemperatureMax: num(61), Energy: energy,
	}
	for _, c := range change {
		c(&m)
	}
	if err := b.AddGPUMinute(m); err != nil {
		b.t.Fatal(err)
	}
}

func (b *book) gpu(from, to float64) report.GPUReport {
	b.t.Helper()
	g, err := report.GPU(b.Reader, report.GPUQuery{
		Window: ledger.Window{From: at(from), To: at(to)}, Now: at(to), MaxSampleAge: 3 * time.Minute,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return g
}

const cardA, cardB = "GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-0000"

// Two cards, four minutes, one of them not seen and one without the energy of a
// card: 18 kJ a card and minute, and only the tokens made meanwhile.
func TestGPU(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.provider("hyperstack")
	b.bills(0, 5)
	idle := func(m *ledger.GPUMinute) {
		m.Readings, m.UtilisationAvg, m.UtilisationMax, m.PowerAvg, m.PowerMax = 20, num(1000), num(10), num(100_000), num(100_000)
	}
	for _, minute := range []float64{1, 2} {
		b.cardMinute(cardA, minute, num(18_000_000))
		b.cardMinute(cardB, minute, num(18_000_000), idle)
	}
	b.cardMinute(cardA, 4, num(18_000_000))
	b.cardMinute(cardB, 4, nil, func(m *ledger.GPUMinute) {
		m.UtilisationAvg, m.UtilisationMax, m.MemoryAvg, m.MemoryMax, m.PowerAvg, m.PowerMax, m.TemperatureMax = nil, nil, nil, nil, nil, nil, nil
	})
	b.served(1, 30_000)
	b.served(2, 6_000)
	b.served(2.5, 1_000_000) // nobody looked
	b.served(3.5, 1_000_000) // a card was not known
	g := b.gpu(0, 5)

	same(t, "text", written(t, g, report.Text), `
GPU from 2026-10-17 08:00:00 to 08:04:00 UTC (4m)

joules per output token        2.0000
per million output tokens   $ 0.09823   by the bill: see report cost
energy                        20.0 Wh   72,000 J in 2m
output tokens                  36,000   finished while the energy was measured
seen                               3m   of 5m

card                                 utilisation      max   memory max     power       max   temperature max    energy
NVIDIA H100 80GB HBM3 GPU-aaaaaaaa         50.0%   100.0%     72.0 GiB   300.0 W   700.0 W             61 °C   15.0 Wh
NVIDIA H100 80GB HBM3 GPU-bbbbbbbb         10.0%    10.0%     72.0 GiB   100.0 W   100.0 W             61 °C   10.0 Wh

Counted: what the cards themselves draw, by their own counters. Not counted: the
  rest of the machine, and the time in which nobody read them.
`)
	same(t, "json", written(t, g, report.JSON), `
{
  "window": {
    "from": "2026-10-17T08:00:00Z",
    "to": "2026-10-17T08:04:00Z",
    "asked_from": "2026-10-17T08:00:00Z",
    "asked_to": "2026-10-17T08:05:00Z",
    "seen_seconds": "180"
  },
  "cards": [
    {
      "uuid": "GPU-aaaaaaaa-0000",
      "name": "NVIDIA H100 80GB HBM3",
      "sources": [
        "helper"
      ],
      "readings": 180,
      "utilisation_average": "0.5000",
      "utilisation_max": "1.0000",
      "memory_average_bytes": 42949672960,
      "memory_max_bytes": 77309411328,
      "power_average_watts": "300",
      "power_max_watts": "700",
      "temperature_max_celsius": 61,
      "energy_joules": "54000",
      "energy_watt_hours": "15"
    },
    {
      "uuid": "GPU-bbbbbbbb-0000",
      "name": "NVIDIA H100 80GB HBM3",
      "sources": [
        "helper"
      ],
      "readings": 100,
      "utilisation_average": "0.1000",
      "utilisation_max": "0.1000",
      "memory_average_bytes": 42949672960,
      "memory_max_bytes": 77309411328,
      "power_average_watts": "100",
      "power_max_watts": "100",
      "temperature_max_celsius": 61,
      "energy_joules": "36000",
      "energy_watt_hours": "10"
    }
  ],
  "energy": {
    "joules": "72000",
    "watt_hours": "20",
    "seen_seconds": "120",
    "completion_tokens": 36000
  },
  "joules_per_output_token": "2",
  "reason": "",
  "currency": "USD",
  "cost_per_million_output_tokens": "0.098231827",
  "cost_reason": "",
  "demo": false
}
`)
	same(t, "csv", written(t, g, report.CSV), `
window_from,window_to,window_asked_from,window_asked_to,window_seen_seconds,uuid,name,sources,readings,utilisation_average,utilisation_max,memory_average_bytes,memory_max_bytes,power_average_watts,power_max_watts,temperature_max_celsius,energy_joules,energy_watt_hours,all_energy_joules,all_energy_watt_hours,all_energy_seen_seconds,completion_tokens,joules_per_output_token,reason,currency,cost_per_million_output_tokens,cost_reason,demo
2026-10-17T08:00:00Z,2026-10-17T08:04:00Z,2026-10-17T08:00:00Z,2026-10-17T08:05:00Z,180,GPU-aaaaaaaa-0000,NVIDIA H100 80GB HBM3,helper,180,0.5000,1.0000,42949672960,77309411328,300,700,61,54000,15,72000,20,120,36000,2,,USD,0.098231827,,false
2026-10-17T08:00:00Z,2026-10-17T08:04:00Z,2026-10-17T08:00:00Z,2026-10-17T08:05:00Z,180,GPU-bbbbbbbb-0000,NVIDIA H100 80GB HBM3,helper,100,0.1000,0.1000,42949672960,77309411328,100,100,61,36000,10,72000,20,120,36000,2,,USD,0.098231827,,false
`)
}

func TestGPUWithoutReadings(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.provider("hyperstack")
	b.bills(0, 5)
	b.served(1, 1000)
	b.cardMinute(cardA, -1, num(1)) // before the window
	b.cardMinute(cardA, 6, num(1))  // and after it
	g := b.gpu(0, 5)
	if !g.Refused() || g.Reason != report.ReasonNoReadings || g.JoulesPerToken != nil || g.Energy.Joules != nil {
		t.Errorf("report %+v", g)
	}
	same(t, "text", written(t, g, report.Text), `
GPU from 2026-10-17 08:00:00 to 08:05:00 UTC (5m)

Not known: no GPU readings in this window. Nothing was serving then, or it found
  no driver: its log says at the start which source it reads the cards from, and
  why no better one.
`)
	same(t, "csv", written(t, g, report.CSV), `
window_from,window_to,window_asked_from,window_asked_to,window_seen_seconds,uuid,name,sources,readings,utilisation_average,utilisation_max,memory_average_bytes,memory_max_bytes,power_average_watts,power_max_watts,temperature_max_celsius,energy_joules,energy_watt_hours,all_energy_joules,all_energy_watt_hours,all_energy_seen_seconds,completion_tokens,joules_per_output_token,reason,currency,cost_per_million_output_tokens,cost_reason,demo
,,2026-10-17T08:00:00Z,2026-10-17T08:05:00Z,0,,,,0,,,,,,,,,,,,0,0,,no_readings,USD,200,,false
`)
}

// What is read without an energy counter has no energy, and no price hangs on it.
func TestGPUReason(t *testing.T) {
	t.Parallel()
	smi := func(m *ledger.GPUMinute) { m.Source, m.Energy = "nvidia-smi", nil }
	for _, c := range []struct {
		name   string
		fill   func(*book)
		reason string
		joules string // "" where not known
		words  string
	}{
		{"nvidia-smi", func(b *book) { b.cardMinute(cardA, 1, nil, smi); b.served(0.5, 10) }, report.ReasonNoEnergy, "", "-   no energy counter was read"},
		{"nobody asked for a token", func(b *book) { b.cardMinute(cardA, 1, num(5)) }, report.ReasonNoTokens, "0.005", "-   no output token was finished"},
		{"one reading", func(b *book) {
			b.cardMinute(cardA, 1, num(0), func(m *ledger.GPUMinute) { m.Since, m.Readings = m.At, 1 })
			b.served(1, 10)
		}, report.ReasonNoEnergy, "", "-   no energy counter was read"},
		{"half of it by nvidia-smi", func(b *book) {
			b.cardMinute(cardA, 1, num(5000))
			b.cardMinute(cardA, 2, nil, smi)
			b.served(1, 2)
			b.served(2, 100)
		}, "", "5", "2.5000\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			b.provider("none")
			c.fill(b)
			g := b.gpu(0, 5)
			joules := ""
			if g.Energy.Joules != nil {
				joules = string(*g.Energy.Joules)
			}
			if g.Refused() || g.Reason != c.reason || joules != c.joules || (g.JoulesPerToken == nil) == (c.reason == "") {
				t.Errorf("reason %q, joules %q, want %q, %q: %+v", g.Reason, joules, c.reason, c.joules, g)
			}
			if g.CostPerMillion != nil || g.CostReason != report.ReasonNoProvider {
				t.Errorf("price %v, reason %q", g.CostPerMillion, g.CostReason)
			}
			if text := written(t, g, report.Text); !strings.Contains(text, c.words) || !strings.Contains(text, "-   not known: report cost says why") {
				t.Errorf("text lacks %q:\n%s", c.words, text)
			}
		})
	}
}
