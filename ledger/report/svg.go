package report

import (
	"encoding/xml"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// The drawing: the price by the bucket with its band above, the utilisation
// below, on one axis of time. Black on white and two greys, so that it can be
// printed; no script, no style sheet and no font of its own. All lengths are
// integers, in tenths of a pixel.
const (
	svgWidth, svgHeight = 9600, 5600
	plotLeft, plotRight = 1050, 8200
	priceTop, priceFoot = 1000, 3300
	usedTop, usedFoot   = 3800, 4700
)

// canvas is an SVG while it is drawn.
type canvas struct{ strings.Builder }

// px writes tenths of a pixel.
func px(n int64) string {
	if n%10 == 0 {
		return fmt.Sprint(n / 10)
	}
	return fmt.Sprintf("%d.%d", n/10, n%10)
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}

// text writes s at a point; anchor is start, middle or end.
func (v *canvas) text(x, y int64, anchor, style, s string) {
	fmt.Fprintf(v, `<text x="%s" y="%s" text-anchor="%s"%s>%s</text>`+"\n", px(x), px(y), anchor, style, escape(s))
}

func (v *canvas) line(x1, y1, x2, y2 int64, style string) {
	fmt.Fprintf(v, `<line x1="%s" y1="%s" x2="%s" y2="%s" %s/>`+"\n", px(x1), px(y1), px(x2), px(y2), style)
}

func (v *canvas) rect(x, y, w, h int64, style string) {
	fmt.Fprintf(v, `<rect x="%s" y="%s" width="%s" height="%s" %s/>`+"\n", px(x), px(y), px(w), px(h), style)
}

// The pens of the drawing.
const (
	axisPen  = `stroke="#000" stroke-width="1"`
	gridPen  = `stroke="#bbb" stroke-width="0.5"`
	pricePen = `stroke="#000" stroke-width="2.5"`
	partPen  = `stroke="#000" stroke-width="2.5" stroke-dasharray="2 2"`
	joinPen  = `stroke="#000" stroke-width="0.7"`
	edgePen  = `stroke="#666" stroke-width="0.8"`
	midPen   = `stroke="#000" stroke-width="0.8" stroke-dasharray="7 4"`
	bandFill = `fill="#e2e2e2"`
	usedFill = `fill="#777"`
	partFill = `fill="#c8c8c8" stroke="#777" stroke-width="0.5"`
	bold     = ` font-weight="bold"`
)

// svg draws the report, or says why it cannot be drawn.
func (c CostReport) svg() string {
	w := Span{c.Window.AskedFrom, c.Window.AskedTo}
	if !c.Refused() {
		w = Span{*c.Window.From, *c.Window.To}
	}
	title := fmt.Sprintf("Cost from %s (%s)", period(w), length(w.To.Sub(w.From)))
	v := &canvas{}
	fmt.Fprintf(v, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]s %[2]s" width="%[1]s" height="%[2]s" role="img" font-family="Helvetica, Arial, sans-serif" font-size="13">`+"\n",
		px(svgWidth), px(svgHeight))
	fmt.Fprintf(v, "<title>%s</title>\n", escape(title))
	v.rect(0, 0, svgWidth, svgHeight, `fill="#fff"`)
	v.text(300, 320, "start", ` font-size="18"`+bold, title)
	if c.Demo {
		v.text(svgWidth-300, 560, "end", bold, "demo: simulated figures")
	}
	if c.Refused() {
		v.prose(600, "Not known: "+c.source.explainReason(c.Reason))
	} else {
		v.text(300, 560, "start", "", c.summary())
		t := timeAxis{w}
		c.drawPrices(v, t)
		c.drawUtilisation(v, t)
		v.text(300, svgHeight-180, "start", ` font-size="11"`, c.footer())
	}
	v.WriteString("</svg>\n")
	return v.String()
}

// prose writes a paragraph from y on.
func (v *canvas) prose(y int64, s string) {
	var b strings.Builder
	paragraph(&b, s)
	for line := range strings.Lines(b.String()) {
		v.text(300, y, "start", "", strings.TrimSpace(line))
		y += 200
	}
}

// summary is the report in a line.
func (c CostReport) summary() string {
	s := fmt.Sprintf("spend %s, %s output tokens", money(c.Currency, *c.Spend.Net), count(c.CompletionTokens))
	if c.CostPerMillion != nil {
		s += fmt.Sprintf(": %s per million", money(c.Currency, *c.CostPerMillion))
	}
	return s + ", utilisation " + percent(c.Utilisation)
}

// footer explains the marks that occur, and names the flags.
func (c CostReport) footer() string {
	var says []string
	if c.source.bucket != NoBucket {
		says = append(says, "Each step: "+spell(c.source.bucket)+".")
	}
	if slices.ContainsFunc(c.Buckets, Bucket.partial) {
		says = append(says, "Dashed, pale: a part of that.")
	}
	if c.Band.over > 0 {
		says = append(says, "Grey: the band from the lowest to the highest price.")
	}
	if c.clipped() != nil {
		says = append(says, "Arrow: a price beyond the axis.")
	}
	if len(c.Flags) > 0 {
		says = append(says, "Flags: "+strings.Join(c.Flags, ", ")+".")
	}
	return strings.Join(says, " ")
}

func (k Bucket) partial() bool { return slices.Contains(k.Flags, FlagPartial) }

// timeAxis maps the window to the width of the plot.
type timeAxis struct{ Span }

func (t timeAxis) x(at time.Time) int64 {
	return plotLeft + at.Sub(t.From).Milliseconds()*(plotRight-plotLeft)/max(1, t.To.Sub(t.From).Milliseconds())
}

// tickSteps are the distances of the ticks of time.
var tickSteps = []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	day, 2 * day, 7 * day, 14 * day, 28 * day, 56 * day, 182 * day, 364 * day, 3640 * day}

// draw writes the axis of time below a plot; labels only where they are asked for.
func (t timeAxis) draw(v *canvas, top, foot int64, labels bool) {
	step := tickSteps[len(tickSteps)-1]
	for _, s := range slices.Backward(tickSteps) {
		if t.To.Sub(t.From)/s <= 10 {
			step = s
		}
	}
	v.line(plotLeft, foot, plotRight, foot, axisPen)
	for at := t.From.Truncate(step); !at.After(t.To); at = at.Add(step) {
		if at.Before(t.From) {
			continue
		}
		x := t.x(at)
		v.line(x, top, x, foot, gridPen)
		v.line(x, foot, x, foot+50, axisPen)
		if !labels {
			continue
		}
		layout := "15:04"
		switch {
		case step > 60*day:
			layout = "Jan 2006"
		case step >= day || at.Equal(at.Truncate(day)):
			layout = "Jan 2"
		}
		v.text(x, foot+200, "middle", "", at.UTC().Format(layout))
	}
	if labels {
		v.text((plotLeft+plotRight)/2, foot+420, "middle", "", "time (UTC)")
	}
}

// priceAxis maps prices, in units of 1e-9, to the height of the plot.
type priceAxis struct{ foot, top, step *big.Int }

func (p priceAxis) y(price *big.Int) int64 {
	up := new(big.Int).Sub(price, p.foot)
	up.Mul(up, big.NewInt(priceFoot-priceTop))
	return priceFoot - quotient(up, new(big.Int).Sub(p.top, p.foot)).Int64()
}

// newPriceAxis holds zero and all prices from lo to hi, in three to eight steps.
func newPriceAxis(lo, hi *big.Int) priceAxis {
	zero := new(big.Int)
	if lo.Sign() > 0 {
		lo = zero
	}
	if hi.Sign() < 0 {
		hi = zero
	}
	// The first of 1, 2, 5, 10, 20, ... that makes six steps or fewer.
	step, limit := big.NewInt(1), new(big.Int).Sub(hi, lo)
	for i := 0; new(big.Int).Mul(step, big.NewInt(6)).Cmp(limit) < 0; i++ {
		if i%3 == 1 { // 2 → 5
			step.Mul(step, big.NewInt(5)).Quo(step, big.NewInt(2))
		} else {
			step.Mul(step, big.NewInt(2))
		}
	}
	// Euclidean division rounds down, so the foot is at or below lo.
	foot := new(big.Int).Div(lo, step)
	top := new(big.Int).Neg(new(big.Int).Div(new(big.Int).Neg(hi), step))
	if top.Cmp(foot) == 0 {
		top.Add(top, big.NewInt(1))
	}
	return priceAxis{foot.Mul(foot, step), top.Mul(top, step), step}
}

// prices are those of the buckets that have one.
func (c CostReport) prices() (out []*big.Int) {
	for _, k := range c.Buckets {
		if k.price != nil {
			out = append(out, k.price)
		}
	}
	return out
}

// clipped is where the axis ends although a price is higher: one hour with a
// handful of tokens must not flatten all others. nil where it need not.
func (c CostReport) clipped() *big.Int {
	sorted := c.prices()
	n := len(sorted)
	if n == 0 {
		return nil
	}
	slices.SortFunc(sorted, (*big.Int).Cmp)
	median := sorted[n/2]
	if median.Sign() <= 0 || sorted[n-1].Cmp(new(big.Int).Mul(median, big.NewInt(10))) <= 0 {
		return nil
	}
	return new(big.Int).Mul(median, big.NewInt(4))
}

func (c CostReport) drawPrices(v *canvas, t timeAxis) {
	v.text(300, priceTop-180, "start", bold, "Cost per million output tokens ("+c.Currency+")")
	prices := c.prices()
	if len(prices) == 0 {
		t.draw(v, priceTop, priceFoot, false)
		v.text((plotLeft+plotRight)/2, (priceTop+priceFoot)/2, "middle", "", "no output token was made, so there is no price")
		return
	}
	lo, hi := slices.MinFunc(prices, (*big.Int).Cmp), slices.MaxFunc(prices, (*big.Int).Cmp)
	if clip := c.clipped(); clip != nil {
		hi = clip
	}
	axis := newPriceAxis(lo, hi)
	within := func(p *big.Int) *big.Int {
		if p.Cmp(axis.top) > 0 {
			return axis.top
		}
		return p
	}
	if c.Band.over > 0 {
		top, foot := axis.y(within(c.Band.hi)), axis.y(within(c.Band.lo))
		v.rect(plotLeft, top, plotRight-plotLeft, max(10, foot-top), bandFill)
	}
	for p := new(big.Int).Set(axis.foot); p.Cmp(axis.top) <= 0; p = new(big.Int).Add(p, axis.step) {
		y := axis.y(p)
		v.line(plotLeft, y, plotRight, y, gridPen)
		v.text(plotLeft-80, y+45, "end", "", money(c.Currency, *decimal(p, 9)))
	}
	t.draw(v, priceTop, priceFoot, false)
	v.line(plotLeft, priceTop, plotLeft, priceFoot, axisPen)
	c.drawBand(v, axis, within)

	var joinX, joinY int64 // where the last bucket's line ended, 0 after a hole
	for _, k := range c.Buckets {
		if k.price == nil {
			joinX = 0
			continue
		}
		from, to, y := t.x(k.From), t.x(k.To), axis.y(within(k.price))
		if joinX != 0 && joinY != y {
			v.line(from, joinY, from, y, joinPen)
		}
		joinX, joinY = to, y
		pen := pricePen
		if k.partial() {
			pen = partPen
		}
		v.line(from, y, max(to, from+10), y, pen)
		if k.price.Cmp(axis.top) > 0 {
			x := (from + to) / 2
			fmt.Fprintf(v, `<path d="M%s %s l-4 7 h8 z"/>`+"\n", px(x), px(y-130))
			v.text(x+70, y-60, "start", ` font-size="11"`, money(c.Currency, *k.CostPerMillion))
		}
	}
}

// drawBand names the band's three prices at the right, apart from each other.
func (c CostReport) drawBand(v *canvas, axis priceAxis, within func(*big.Int) *big.Int) {
	if c.Band.over == 0 {
		return
	}
	next := int64(priceTop)
	for _, m := range []struct {
		name  string
		price *Decimal
		nanos *big.Int
		pen   string
	}{{"high", c.Band.High, c.Band.hi, edgePen}, {"median", c.Band.Median, c.Band.mid, midPen}, {"low", c.Band.Low, c.Band.lo, edgePen}} {
		y := axis.y(within(m.nanos))
		v.line(plotLeft, y, plotRight, y, m.pen)
		at := max(y, next)
		v.text(plotRight+60, at+45, "start", "", m.name+" "+money(c.Currency, *m.price))
		next = at + 170
	}
}

func (c CostReport) drawUtilisation(v *canvas, t timeAxis) {
	v.text(300, usedTop-180, "start", bold, "Utilisation (share of the time a request ran)")
	for _, p := range []int64{0, 50, 100} {
		y := usedFoot - (usedFoot-usedTop)*p/100
		v.line(plotLeft, y, plotRight, y, gridPen)
		v.text(plotLeft-80, y+45, "end", "", fmt.Sprintf("%d%%", p))
	}
	for _, k := range c.Buckets {
		if k.Utilisation == nil {
			continue
		}
		n, _ := new(big.Int).SetString(strings.Replace(string(*k.Utilisation), ".", "", 1), 10)
		from, to, high := t.x(k.From), t.x(k.To), (usedFoot-usedTop)*n.Int64()/10_000
		fill := usedFill
		if k.partial() {
			fill = partFill
		}
		v.rect(from, usedFoot-high, max(10, to-from-10), high, fill)
	}
	t.draw(v, usedTop, usedFoot, true)
	v.line(plotLeft, usedTop, plotLeft, usedFoot, axisPen)
}
