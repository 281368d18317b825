package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"
)

// tally is the sum over all streams. Frames count within an interval of time; lost and wrong
// frames always count.
type tally struct {
	fleet    *fleet
	from     int64
	to       int64
	frames   int64
	lost     int64
	started  int        // streams whose first frame was received
	complete int        // streams whose last frame was received
	delay    *histogram // from the sending of a frame to its receipt
	gap      *histogram // difference between the interval of two frames as received and as sent
	first    *histogram // from the request to the first frame, without what the upstream took
}

func newTally(f *fleet) *tally {
	return &tally{fleet: f, delay: &histogram{}, gap: &histogram{}, first: &histogram{}}
}

// follower parses one stream's frames from pieces that may split and join them anywhere.
type follower struct {
	member
	tally    *tally
	asked    int64 // when the request was sent
	sequence int64 // of the next frame
	stamp    int64 // of the last frame, as it was sent
	seen     int64 // frames received
	partial  []byte
	complete bool // the last frame was received
}

// maxFrame exceeds the length of every frame; a longer one has lost its end.
const maxFrame = 512

var (
	frameEnd    = []byte("\n\n")
	errSequence = errors.New("a frame is repeated or out of order")
)

func newFollower(fd int, t *tally) *follower {
	f := &follower{tally: t, partial: make([]byte, 0, maxFrame)}
	f.fd, f.reply.body = fd, f
	return f
}

func (f *follower) take(run []byte) error {
	for len(run) > 0 {
		frame, rest := f.cut(run)
		if frame == nil {
			if len(f.partial) == maxFrame {
				return errFrame
			}
			return nil
		}
		if err := f.check(frame); err != nil {
			return err
		}
		f.partial, run = f.partial[:0], rest
	}
	return nil
}

// cut returns the next complete frame and the rest; an incomplete frame is kept for the next call.
func (f *follower) cut(run []byte) (frame, rest []byte) {
	kept := len(f.partial)
	if kept == 0 {
		if end := bytes.Index(run, frameEnd); end >= 0 {
			return run[:end+len(frameEnd)], run[end+len(frameEnd):]
		}
	}
	f.partial = append(f.partial, run[:atMost(int64(len(run)), maxFrame-kept)]...)
	from := kept - 1 // the frame's end may itself be split
	if from < 0 {
		from = 0
	}
	end := bytes.Index(f.partial[from:], frameEnd)
	if end < 0 {
		return nil, nil
	}
	end += from + len(frameEnd)
	return f.partial[:end], run[end-kept:]
}

func (f *follower) check(frame []byte) error {
	if f.complete {
		return errBehind
	}
	if bytes.Equal(frame, lastFrameBytes) {
		f.complete = true
		f.tally.complete++
		return nil
	}
	sequence, stamp, err := readFrame(frame)
	if err != nil {
		return err
	}
	if sequence < f.sequence || f.seen > 0 && stamp < f.stamp {
		return errSequence
	}
	if !f.reply.eventStream {
		return errors.New("the Content-Type is not text/event-stream")
	}
	f.tally.lost += sequence - f.sequence
	f.measure(stamp, f.tally.fleet.now)
	f.sequence, f.stamp, f.seen = sequence+1, stamp, f.tally.fleet.now
	return nil
}

func (f *follower) measure(stamp, now int64) {
	t := f.tally
	if f.seen == 0 {
		t.started++
		t.first.add(now - f.asked - f.reply.held)
	}
	if now < t.from || now >= t.to {
		return
	}
	t.frames++
	t.delay.add(now - stamp)
	if f.seen > 0 {
		added := (now - f.seen) - (stamp - f.stamp)
		if added < 0 {
			added = -added
		}
		t.gap.add(added)
	}
}

// streamLoad opens streams and follows them.
type streamLoad struct {
	fleet  *fleet
	tally  *tally
	target target
	wanted int
	rate   float64
	frames int // of each stream, 0: until the client leaves
	opened []*follower
}

// streams measures many open streams at a rate, or at the maximum rate.
func streams(arguments []string) (report, error) {
	flags := options("streams")
	address := flags.String("url", "", "server to measure, http://127.0.0.1:PORT")
	wanted := flags.Int("streams", 1000, "number of streams")
	rate := flags.Float64("rate", 20, "frames per second of each, 0: the maximum")
	frames := flags.Int("frames", 0, "frames of each stream; only with -rate 0, which needs it")
	seconds := flags.Float64("seconds", 5, "duration of the measurement, after all are open")
	ramp := flags.Float64("ramp", 2, "seconds in which the streams are opened; unused with -rate 0")
	_ = flags.Parse(arguments)
	if !validRate(*rate) {
		usage(flags, rateRule)
	}
	if *wanted < 1 || *frames < 0 || *seconds <= 0 || *ramp < 0 || (*rate == 0) != (*frames > 0) {
		usage(flags, "streams and seconds must be above zero; -frames needs -rate 0")
	}
	to, err := parseTarget(*address)
	if err != nil {
		return nil, err
	}
	f, err := newFleet()
	if err != nil {
		return nil, err
	}
	defer f.close()
	c := &streamLoad{fleet: f, tally: newTally(f), target: to, wanted: *wanted, rate: *rate, frames: *frames}
	if *rate == 0 {
		return c.saturate()
	}
	return c.sustain(nanoseconds(*ramp), nanoseconds(*seconds))
}

func nanoseconds(seconds float64) int64 { return int64(seconds * float64(time.Second)) }

// connect adds a connection without a request.
func (c *streamLoad) connect() (*follower, error) {
	fd, err := dial(c.target, patience)
	if err != nil {
		return nil, err
	}
	f := newFollower(fd, c.tally)
	c.opened = append(c.opened, f)
	return f, c.fleet.add(&f.member)
}

// ask sends the request for a stream on its connection.
func (c *streamLoad) ask(f *follower, user int) error {
	request := post(c.target, streamQuestion(user, c.frames, c.rate))
	f.asked = monotonic()
	return send(f.fd, request)
}

func (c *streamLoad) open(user int) error {
	f, err := c.connect()
	if err != nil {
		return err
	}
	return c.ask(f, user)
}

// sustain measures an interval during which all streams are open.
func (c *streamLoad) sustain(ramp, window int64) (report, error) {
	c.fleet.endless = true
	start := monotonic()
	for user := 0; user < c.wanted; user++ {
		c.fleet.sweepUntil(start + ramp*int64(user)/int64(c.wanted))
		if err := c.open(user); err != nil {
			return nil, fmt.Errorf("with %d streams open: %w", user, err)
		}
	}
	deadline := monotonic() + int64(patience)
	for c.tally.started+c.fleet.failures < c.wanted && monotonic() < deadline {
		c.fleet.sweep(deadline)
	}
	// The opening of the streams must not affect the measurement.
	c.fleet.sweepUntil(monotonic() + int64(500*time.Millisecond))
	c.tally.from = monotonic()
	c.tally.to = c.tally.from + window
	c.fleet.sweepUntil(c.tally.to)

	figures := c.describe(float64(window) / 1e9)
	figures["expected"] = int64(float64(c.wanted) * c.rate * float64(window) / 1e9)
	c.tally.delay.describe(figures, "delay_", "p50", "p99", "max")
	c.tally.gap.describe(figures, "gap_", "p50", "p99", "max")
	return figures, c.verdict()
}

// saturate measures the time from the first request to the end of the last stream. All
// connections are opened before, so that the streams run simultaneously.
func (c *streamLoad) saturate() (report, error) {
	for user := 0; user < c.wanted; user++ {
		if _, err := c.connect(); err != nil {
			return nil, fmt.Errorf("with %d connections open: %w", user, err)
		}
	}
	c.tally.to = 1 << 62
	start := monotonic()
	for user, f := range c.opened {
		if err := c.ask(f, user); err != nil {
			return nil, err
		}
	}
	c.fleet.now = start
	for c.fleet.ended+c.fleet.failures < c.wanted {
		if c.fleet.sweep(monotonic() + int64(time.Second)); monotonic()-c.fleet.now > int64(patience) {
			break
		}
	}
	elapsed := float64(c.fleet.now-start) / 1e9
	for _, f := range c.opened { // frames missing at the end of a stream leave no gap in its sequence
		if f.complete {
			c.tally.lost += int64(c.frames) - f.sequence
		}
	}
	figures := c.describe(elapsed)
	figures["expected"] = int64(c.wanted) * int64(c.frames)
	return figures, c.verdict()
}

func (c *streamLoad) describe(seconds float64) report {
	figures := report{
		"streams": c.wanted, "open": c.tally.started, "rate": c.rate, "seconds": math.Round(seconds*1e6) / 1e6,
		"frames": c.tally.frames, "frames_per_second": tenths(float64(c.tally.frames) / seconds),
		"lost": c.tally.lost, "errors": c.fleet.failures,
	}
	c.tally.first.describe(figures, "first_frame_", "p50", "p99", "max")
	return figures
}

// verdict returns the first error, if any.
func (c *streamLoad) verdict() error {
	switch {
	case c.fleet.failures > 0:
		return fmt.Errorf("%d of %d streams failed, the first one: %w",
			c.fleet.failures, c.wanted, c.fleet.failure)
	case c.tally.started < c.wanted:
		return fmt.Errorf("%d of %d streams never began", c.wanted-c.tally.started, c.wanted)
	case c.frames > 0 && c.tally.complete < c.wanted:
		return fmt.Errorf("%d of %d streams never ended", c.wanted-c.tally.complete, c.wanted)
	case c.tally.lost > 0:
		return fmt.Errorf("%d frames were lost", c.tally.lost)
	}
	return nil
}
