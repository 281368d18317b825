package main

import (
	"math"
	"math/bits"
)

// histogram counts durations (ns) in cells as wide as a thousandth of what is in them.
type histogram struct {
	cells [(64 - fineBits) << fineBits]uint32
	count int64
	max   int64
}

const fineBits = 10 // 1024 cells for each doubling

// add counts one duration; one below zero, of two clocks' readings a hair apart, is zero.
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

// cellOf is exact below 1024 ns; above, the leading 11 bits choose the cell.
func cellOf(ns uint64) int {
	shift := bits.Len64(ns) - fineBits - 1
	if shift <= 0 {
		return int(ns)
	}
	return shift<<fineBits + int(ns>>uint(shift))
}

// middleOf is the value in the middle of a cell, the inverse of cellOf.
func middleOf(cell int) float64 {
	shift := cell>>fineBits - 1
	if shift <= 0 {
		return float64(cell)
	}
	low := uint64(cell-shift<<fineBits) << uint(shift)
	return float64(low) + float64(uint64(1)<<uint(shift))/2
}

// micros is the duration, in microseconds, that a share of all do not exceed.
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

// tenths rounds, so that the JSON reads well.
func tenths(x float64) float64 { return float64(int64(x*10+0.5)) / 10 }

// percentiles by the names that they have in a report; p999 is 99.9 %.
var percentiles = map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

// describe adds NAME_us for each of the named percentiles, and for "max", behind a prefix.
func (h *histogram) describe(into report, prefix string, names ...string) {
	for _, name := range names {
		if name == "max" {
			into[prefix+"max_us"] = tenths(float64(h.max) / 1000)
		} else {
			into[prefix+name+"_us"] = h.micros(percentiles[name])
		}
	}
}
