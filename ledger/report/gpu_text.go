package report

import (
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Write writes the report.
func (g GPUReport) Write(w io.Writer, f Format) error {
	if f == CSV {
		return writeRecords(w, g.table())
	}
	return write(w, f, g, g.text, nil)
}

// table is the CSV: one row a GPU, each with the figures of all; without a GPU
// one row, which says why.
func (g GPUReport) table() (rows [][]cell) {
	for _, c := range g.GPUs {
		rows = append(rows, g.cells(c))
	}
	if rows == nil {
		rows = append(rows, g.cells(GPUUse{}))
	}
	return rows
}

func (g GPUReport) cells(c GPUUse) []cell {
	return []cell{
		{"window_from", stampOrEmpty(g.Window.From)},
		{"window_to", stampOrEmpty(g.Window.To)},
		{"window_asked_from", stamp(g.Window.AskedFrom)},
		{"window_asked_to", stamp(g.Window.AskedTo)},
		{"window_seen_seconds", string(g.Window.SeenSeconds)},
		{"uuid", c.UUID},
		{"name", c.Name},
		{"sources", strings.Join(c.Sources, " ")},
		{"readings", integer(c.Readings)},
		{"utilisation_average", decimalOrEmpty(c.UtilisationAvg)},
		{"utilisation_max", decimalOrEmpty(c.UtilisationMax)},
		{"memory_average_bytes", integerOrEmpty(c.MemoryAvg)},
		{"memory_max_bytes", integerOrEmpty(c.MemoryMax)},
		{"power_average_watts", decimalOrEmpty(c.PowerAvg)},
		{"power_max_watts", decimalOrEmpty(c.PowerMax)},
		{"temperature_max_celsius", integerOrEmpty(c.TemperatureMax)},
		{"energy_joules", decimalOrEmpty(c.Joules)},
		{"energy_watt_hours", decimalOrEmpty(c.WattHours)},
		{"all_energy_joules", decimalOrEmpty(g.Energy.Joules)},
		{"all_energy_watt_hours", decimalOrEmpty(g.Energy.WattHours)},
		{"all_energy_seen_seconds", string(g.Energy.SeenSeconds)},
		{"completion_tokens", integer(g.Energy.CompletionTokens)},
		{"joules_per_output_token", decimalOrEmpty(g.JoulesPerToken)},
		{"reason", g.Reason},
		{"currency", g.Currency},
		{"cost_per_million_output_tokens", decimalOrEmpty(g.CostPerMillion)},
		{"cost_reason", g.CostReason},
		{"demo", strconv.FormatBool(g.Demo)},
	}
}

func integerOrEmpty(n *int64) string {
	if n == nil {
		return ""
	}
	return integer(*n)
}

func (g GPUReport) text() string {
	var b strings.Builder
	if g.Refused() {
		heading(&b, "GPU", Span{g.Window.AskedFrom, g.Window.AskedTo}, g.Demo)
		b.WriteString("\n")
		paragraph(&b, "Not known: no GPU readings in this window. Nothing was serving then, or it found no driver: its log says at the start which source it reads the cards from, and why no better one.")
		g.Chain.write(&b)
		return b.String()
	}
	heading(&b, "GPU", Span{*g.Window.From, *g.Window.To}, g.Demo)
	b.WriteString("\n")
	writeRows(&b, g.rows())
	b.WriteString("\n")
	t := table{{"card", "utilisation", "max", "memory max", "power", "max", "temperature max", "energy"}}
	for _, c := range g.GPUs {
		t = append(t, []string{
			gpuName(c), percent(c.UtilisationAvg), percent(c.UtilisationMax), gibibytes(c.MemoryMax),
			unit(c.PowerAvg, 1, "W"), unit(c.PowerMax, 1, "W"), celsius(c.TemperatureMax), unit(c.WattHours, 1, "Wh"),
		})
	}
	t.write(&b, "", 1, 2, 3, 4, 5, 6, 7)
	b.WriteString("\n")
	for _, r := range g.remarks() {
		paragraph(&b, r)
	}
	g.Chain.write(&b)
	return b.String()
}

// rows are the figures of all GPUs together.
func (g GPUReport) rows() []row {
	perToken := row{"joules per output token", "-", ""}
	switch g.Reason {
	case "":
		perToken.value = shorten(*g.JoulesPerToken, 4)
	case ReasonNoTokens:
		perToken.aside = "no output token was finished while the energy was measured"
	case ReasonNoEnergy:
		perToken.aside = "no energy counter was read"
	}
	price := row{"per million output tokens", "-", g.costWords()}
	if g.CostPerMillion != nil {
		price = row{"per million output tokens", money(g.Currency, *g.CostPerMillion), "by the bill: see report cost"}
	}
	rows := []row{
		perToken, price,
		{"energy", unit(g.Energy.WattHours, 1, "Wh"), ""},
		{"output tokens", count(g.Energy.CompletionTokens), "finished while the energy was measured"},
		{"seen", length(duration(g.Window.SeenSeconds)), "of " + length(g.Window.AskedTo.Sub(g.Window.AskedFrom))},
	}
	if g.Energy.Joules != nil {
		rows[2].aside = unit(g.Energy.Joules, 0, "J") + " in " + length(duration(g.Energy.SeenSeconds))
	}
	return rows
}

// costWords say why there is no price.
func (g GPUReport) costWords() string {
	if g.CostReason == ReasonNoTokens {
		return "no output token was made"
	}
	return "not known: report cost says why"
}

func (g GPUReport) remarks() (out []string) {
	if slices.ContainsFunc(g.GPUs, func(c GPUUse) bool { return slices.Contains(c.Sources, "nvidia-smi") }) {
		out = append(out, "note: nvidia-smi has no energy counter; what it read is without energy. The release that make builds reads the cards through NVML.")
	}
	out = append(out, overrideTexts(g.Overrides)...)
	return append(out, "Counted: what the cards themselves draw, by their own counters. Not counted: the rest of the machine, and the time in which nobody read them.")
}

// gpuName is a GPU's product and the beginning of its id, which is enough to
// tell two apart.
func gpuName(c GPUUse) string {
	id := printable(c.UUID)
	if r := []rune(id); len(r) > 12 {
		id = string(r[:12])
	}
	if c.Name == "" {
		return id
	}
	return printable(c.Name) + " " + id
}

// shorten writes a decimal with so many digits after the point.
func shorten(d Decimal, digits int) string {
	r, ok := new(big.Rat).SetString(string(d))
	if !ok {
		panic("BUG: not a decimal: " + string(d))
	}
	whole, frac, found := strings.Cut(r.FloatString(digits), ".")
	if !found {
		return thousands(whole)
	}
	return thousands(whole) + "." + frac
}

func unit(d *Decimal, digits int, name string) string {
	if d == nil {
		return "-"
	}
	return shorten(*d, digits) + " " + name
}

func gibibytes(bytes *int64) string {
	if bytes == nil {
		return "-"
	}
	return big.NewRat(*bytes, 1<<30).FloatString(1) + " GiB"
}

func celsius(t *int64) string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%d °C", *t)
}

// duration is a decimal of seconds, as seconds wrote it.
func duration(d Decimal) time.Duration {
	v, err := time.ParseDuration(string(d) + "s")
	if err != nil {
		panic("BUG: not seconds: " + string(d))
	}
	return v
}
