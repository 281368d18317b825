package main

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A wheel turns once in the interval between two frames of a stream, so one wheel serves all
// streams of a rate. Its slots are a tick apart; a stream is in one slot, and sends a frame when
// the slot is due. One ticker turns all wheels, and stops while no stream is open.
//
// Streams are assigned to slots by the golden ratio, which spreads any number of them evenly. The
// first frame of each is sent immediately, because its delay is measured.
//
// Writes never block. If a socket's buffer is full, no frame is made: it is counted as skipped, not
// as lost, and the next frame gets its number.

const tick = 500 * time.Microsecond

// maxRate leaves two ticks for a turn of the wheel.
const maxRate = 1000

var rateRule = fmt.Sprintf("a rate must be 0, or 0.01 to %d frames per second", maxRate)

func validRate(rate float64) bool { return rate == 0 || rate >= 0.01 && rate <= maxRate }

var streamEnd = []byte(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(lastFrame), lastFrame))

// paced is one stream on a wheel.
type paced struct {
	conn     net.Conn
	out      *outlet // below the connection; keeps what the socket has not accepted
	chunk    []byte
	sequence int64
	frames   int64 // 0: until the client leaves
	wheel    *wheel
	slot     int
	place    int
	closing  bool // the end is written
	ended    chan struct{}
}

// step sends a frame, or the end after the last one; it returns whether the stream is over.
func (s *paced) step(counters *counters) bool {
	switch {
	case !s.out.flush():
		atomic.AddInt64(&counters.skipped, 1)
	case s.frames > 0 && s.sequence == s.frames:
		if !s.closing {
			s.closing = true
			_, _ = s.conn.Write(streamEnd) // an error is in the outlet
		}
	default:
		stampChunk(s.chunk, s.sequence, monotonic())
		_, _ = s.conn.Write(s.chunk)
		s.sequence++
		atomic.AddInt64(&counters.frames, 1)
	}
	return s.out.broken != nil || s.closing && s.out.flush()
}

// wheel holds the streams of one rate.
type wheel struct {
	slots  [][]*paced
	turn   int64 // ns
	passed int64 // slots since the clock's zero
	taken  uint64
	count  int
}

func newWheel(rate float64, now int64) *wheel {
	turn := int64(float64(time.Second) / rate)
	count := (turn + int64(tick) - 1) / int64(tick)
	w := &wheel{slots: make([][]*paced, count), turn: turn}
	w.passed = w.due(now)
	return w
}

// due returns the number of slots that are due, from the clock's zero.
func (w *wheel) due(now int64) int64 {
	count := int64(len(w.slots))
	return now/w.turn*count + now%w.turn*count/w.turn
}

func (w *wheel) add(s *paced) {
	const golden = 0x9E3779B97F4A7C15 // 2^64 divided by the golden ratio
	w.taken++
	s.slot = int((w.taken * golden >> 32) * uint64(len(w.slots)) >> 32)
	s.wheel, s.place = w, len(w.slots[s.slot])
	w.slots[s.slot] = append(w.slots[s.slot], s)
	w.count++
}

func (w *wheel) remove(s *paced) {
	slot := w.slots[s.slot]
	last := slot[len(slot)-1]
	slot[s.place], last.place = last, s.place
	slot[len(slot)-1] = nil
	w.slots[s.slot] = slot[:len(slot)-1]
	s.wheel = nil
	w.count--
}

// advance lets the streams in all due slots send. If the wheel is late by more than a turn, it
// skips frames: the rate is then visibly too low.
func (w *wheel) advance(now int64, counters *counters) {
	count, due := int64(len(w.slots)), w.due(now)
	if due-w.passed > count {
		atomic.AddInt64(&counters.skipped, (due-w.passed-count)*int64(w.count)/count)
		w.passed = due - count
	}
	for ; w.passed < due; w.passed++ {
		slot := w.slots[w.passed%count]
		for i := len(slot) - 1; i >= 0; i-- { // backwards, because remove moves the last stream forwards
			if s := slot[i]; s.step(counters) {
				w.remove(s)
				atomic.AddInt64(&counters.open, -1)
				close(s.ended)
			}
		}
	}
}

// wheels are the wheels of all rates, and a goroutine for the ticker while there are streams.
type wheels struct {
	mutex    sync.Mutex
	counters *counters
	byRate   map[float64]*wheel
	turning  bool
}

func newWheels(counters *counters) *wheels {
	return &wheels{counters: counters, byRate: map[float64]*wheel{}}
}

// start sends a stream's first frame and adds the stream to the wheel of its rate.
func (all *wheels) start(conn net.Conn, out *outlet, frames int, rate float64) (*paced, error) {
	s := &paced{
		conn: conn, out: out, chunk: newChunk(), frames: int64(frames), ended: make(chan struct{}),
	}
	out.mode = queuing
	all.mutex.Lock()
	defer all.mutex.Unlock()
	if !all.turning {
		ticker, err := newTicker(tick)
		if err != nil {
			return nil, err
		}
		all.turning = true
		go all.turn(ticker)
	}
	s.step(all.counters)
	w := all.byRate[rate]
	if w == nil {
		w = newWheel(rate, monotonic())
		all.byRate[rate] = w
	}
	w.add(s)
	atomic.AddInt64(&all.counters.open, 1)
	return s, nil
}

// end removes a stream whose client has disconnected.
func (all *wheels) end(s *paced) {
	all.mutex.Lock()
	defer all.mutex.Unlock()
	if s.wheel != nil {
		s.wheel.remove(s)
		atomic.AddInt64(&all.counters.open, -1)
	}
}

// turn runs until all wheels are empty.
func (all *wheels) turn(ticker *ticker) {
	defer ticker.stop()
	for ticker.wait() == nil && all.advance() {
	}
}

// advance turns all wheels; it returns whether a stream is left.
func (all *wheels) advance() bool {
	all.mutex.Lock()
	defer all.mutex.Unlock()
	for rate, w := range all.byRate {
		if w.count == 0 {
			delete(all.byRate, rate)
		} else {
			w.advance(monotonic(), all.counters)
		}
	}
	all.turning = len(all.byRate) > 0
	return all.turning
}
