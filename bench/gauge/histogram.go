package main

import (
	"math"
	"math/bits"
)

// histogram counts durations (ns) in cells with a relative width of a thousandth.
type histogram struct {
	cells [(64 - fineBits) << fineBits]uint32
	count int64
	max   int64
}

const fineBits = 10 // 1024 cells for each power of two

// add counts one duration; a negative one, from two clocks that differ slightly, counts as zero.
func (h *histogram) add(ns int64) {
	if ns < 0 {
		ns = 0
	}
	if ns > h.max {
		h.max = ns
	}
	h.count++
	h.cells[cellOf(uint64(ns))]++
}

// cellOf returns the cell of a duration: exact below 1024 ns, the leading 11 bits above.
func cellOf(ns uint64) int {
	shift := bits.Len64(ns) - fineBits - 1
	if shift <= 0 {
		return int(ns)
	}
	return shift<<fineBits + int(ns>>uint(shift))
}

// middleOf returns the value in the middle of a cell; it is the inverse of cellOf.
func middleOf(cell int) float64 {
	shift := cell>>fineBits - 1
	if shift <= 0 {
		return float64(cell)
	}
	low := uint64(cell-shift<<fineBits) << uint(shift)
	return float64(low) + float64(uint64(1)<<uint(shift))/2
}

// micros returns the quantile for a share of all durations, in microseconds.
func (h *histogram) micros(share float64) float64 {
	rank := int64(share * float64(h.count))
	if rank >= h.count {
		rank = h.count - 1
	}
	for cell, n := range h.cells {
		if rank -= int64(n); rank < 0 {
			return tenths(math.Min(middleOf(cell), float64(h.max)) / 1000)
		}
	}
	return 0
}

// tenths rounds to one decimal, for the JSON output.
func tenths(x float64) float64 { return float64(int64(x*10+0.5)) / 10 }

// percentiles by their names in a report; p999 is 99.9 %.
var percentiles = map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

// describe adds NAME_us for each of the named percentiles, and for "max", with a prefix.
func (h *histogram) describe(into report, prefix string, names ...string) {
	for _, name := range names {
		if name == "max" {
			into[prefix+"max_us"] = tenths(float64(h.max) / 1000)
		} else {
			into[prefix+name+"_us"] = h.micros(percentiles[name])
		}
	}
}
