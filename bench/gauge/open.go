package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand"
	"strconv"
	"strings"
	"time"
)

// The open loop sends requests at fixed times to an upstream that takes its time: each request is
// held for 20 ms to 2 s, and some are answered by a stream. All durations begin at the scheduled
// time of the request, and leave out the time for which the upstream has held it. The rate is
// raised in steps, until the 99th percentile has doubled.

const (
	shortestHold, longestHold = 20 * time.Millisecond, 2 * time.Second
	streamShare               = 1.0 / 3
	openFrames                = 60 // of each stream
)

// openRates are the frames per second of the streams.
var openRates = []float64{30, 40, 50, 60, 70, 80, 90, 100}

// maxVisitors is the number of connections; more requests wait, and their wait is measured.
const maxVisitors = 8000

// visitor is a kept connection with at most one request on it.
type visitor struct {
	follower
	answer exact
	step   *openStep // of the request; nil without one
}

// openStep is the interval of one rate.
type openStep struct {
	rate    float64
	start   int64
	end     int64
	settled int64 // requests that are due earlier are not measured
	tally   *tally
	latency *histogram // of documents, and of the first frames of streams
	due     int        // measured requests
}

// openLoop sends the requests of all steps from one pool of connections.
type openLoop struct {
	fleet    *fleet
	to       target
	timer    int
	random   *rand.Rand
	steps    []*openStep
	visitors []*visitor
	idle     []*visitor
	users    int
	streams  int
}

// open measures what a relay adds, at rising rates.
func open(arguments []string) (report, error) {
	flags := options("open")
	address := flags.String("url", "", "server to measure, http://127.0.0.1:PORT")
	rates := flags.String("rates", "500,1000", "requests per second of each step, rising")
	first := flags.Float64("first", 6, "seconds of the first step, with which the others are compared")
	seconds := flags.Float64("seconds", 3, "seconds of each other step")
	settle := flags.Float64("settle", 1, "seconds at the beginning of each step that are not measured")
	factor := flags.Float64("factor", 2, "growth of the 99th percentile that ends the measurement")
	_ = flags.Parse(arguments)
	if *settle < 0 || *settle >= *seconds || *settle >= *first || *factor <= 1 {
		usage(flags, "each step must be longer than -settle, and -factor above 1")
	}
	to, err := parseTarget(*address)
	if err != nil {
		return nil, err
	}
	l := &openLoop{to: to, random: rand.New(rand.NewSource(1))}
	if l.fleet, err = newFleet(); err != nil {
		return nil, err
	}
	defer l.fleet.close()
	for number, text := range strings.Split(*rates, ",") {
		rate, err := strconv.ParseFloat(text, 64)
		if err != nil || rate <= 0 || number > 0 && rate <= l.steps[number-1].rate {
			usage(flags, "-rates must be rising numbers")
		}
		l.steps = append(l.steps, newOpenStep(l.fleet, rate))
	}
	if len(l.steps) < 2 {
		usage(flags, "-rates must be two or more")
	}
	l.schedule(nanoseconds(*first), nanoseconds(*seconds), nanoseconds(*settle))
	if l.timer, err = newTimer(); err != nil {
		return nil, err
	}
	if err := l.fleet.poll.add(l.timer, timerNumber); err != nil {
		return nil, err
	}
	sustained, doubled, err := l.run(*factor)
	if err != nil {
		return nil, err
	}
	return l.describe(sustained, doubled)
}

func newOpenStep(f *fleet, rate float64) *openStep {
	s := &openStep{rate: rate, tally: newTally(f), latency: &histogram{}}
	s.tally.to = math.MaxInt64
	return s
}

func (l *openLoop) schedule(first, others, settle int64) {
	at := monotonic() + int64(10*time.Millisecond)
	for number, s := range l.steps {
		length := others
		if number == 0 {
			length = first
		}
		s.start, s.settled, s.end = at, at+settle, at+length
		at = s.end
	}
}

// run returns the highest rate before the 99th percentile grew by a factor, and whether it grew.
func (l *openLoop) run(factor float64) (sustained float64, doubled bool, err error) {
	for number, s := range l.steps {
		if err := l.step(s); err != nil {
			return 0, false, err
		}
		// The previous step has been answered by now, unless its rate was too high.
		if first := l.steps[0]; number == 1 && first.grown(first, factor) {
			return 0, false, fmt.Errorf("at the lowest rate, %d of %d requests have no answer in time",
				first.due-int(first.latency.count), first.due)
		}
		if number > 1 && l.steps[number-1].grown(l.steps[0], factor) {
			return l.steps[number-2].rate, true, nil
		}
	}
	last := len(l.steps) - 1 // above zero, as the command line was checked
	if err := l.drain(l.steps[last].end + int64(longestHold) + int64(500*time.Millisecond)); err != nil {
		return 0, false, err
	}
	if l.steps[last].grown(l.steps[0], factor) {
		return l.steps[last-1].rate, true, nil
	}
	return l.steps[last].rate, false, nil
}

// grown returns whether the 99th percentile is a multiple of the first step's. Requests without an
// answer count as slow ones.
func (s *openStep) grown(first *openStep, factor float64) bool {
	unanswered := s.due - int(s.latency.count)
	return float64(unanswered) > 0.01*float64(s.due) || s.p99() > factor*first.p99()
}

func (s *openStep) p99() float64 { return s.latency.micros(0.99) }

// step sends the requests of a step at their times.
func (l *openLoop) step(s *openStep) error {
	interval := 1e9 / s.rate
	for number := 0; ; {
		due := s.start + int64(float64(number)*interval)
		if due >= s.end {
			return nil
		}
		now := monotonic()
		if now >= due && (len(l.idle) > 0 || len(l.visitors) < maxVisitors) {
			if err := l.ask(s, due); err != nil {
				return err
			}
			number++
			if number%8 != 0 {
				continue // after a delay, answers are read meanwhile
			}
		}
		if err := l.read(due); err != nil {
			return err
		}
		if monotonic() > s.end+int64(patience) {
			return fmt.Errorf("%.0f requests per second cannot be sent", s.rate)
		}
	}
}

// drain reads until all requests have been answered, or until a time.
func (l *openLoop) drain(until int64) error {
	for len(l.idle) < len(l.visitors) && monotonic() < until {
		if err := l.read(until); err != nil {
			return err
		}
	}
	return nil
}

// read waits until a time for data, and reads what has arrived.
func (l *openLoop) read(until int64) error {
	wait := 0
	if until > monotonic() {
		setTimer(l.timer, until, 0)
		wait = 1000
	}
	for _, event := range l.fleet.poll.wait(wait) {
		if event.Fd == timerNumber {
			clearTimer(l.timer)
		} else if err := l.receive(l.visitors[event.Fd]); err != nil {
			return err
		}
	}
	return nil
}

func (l *openLoop) visitor() (*visitor, error) {
	if last := len(l.idle) - 1; last >= 0 {
		v := l.idle[last]
		l.idle = l.idle[:last]
		return v, nil
	}
	fd, err := dial(l.to, patience)
	if err != nil {
		return nil, err
	}
	v := &visitor{}
	v.fd = fd
	err = l.fleet.poll.add(fd, len(l.visitors))
	l.visitors = append(l.visitors, v)
	return v, err
}

// ask sends the next request, which was due at a time.
func (l *openLoop) ask(s *openStep, due int64) error {
	v, err := l.visitor()
	if err != nil {
		return fmt.Errorf("with %d connections: %w", len(l.visitors), err)
	}
	v.step = s
	v.follower = follower{member: v.member, tally: s.tally, asked: due, partial: v.partial[:0]}
	v.answer = exact{text: completion}
	streaming := l.random.Float64() < streamShare
	v.reply.body = &v.answer
	if streaming {
		v.reply.body = &v.follower
		l.streams++
	}
	v.reply.next()
	if due >= s.settled {
		s.due++
	}
	l.users++
	return send(v.fd, post(l.to, l.question(streaming)))
}

// question asks for a document or a stream, after a time with a logarithmic distribution.
func (l *openLoop) question(streaming bool) string {
	ratio := float64(longestHold) / float64(shortestHold)
	hold := float64(shortestHold.Microseconds()) * math.Pow(ratio, l.random.Float64())
	held := fmt.Sprintf(`{"hold_us":%d,`, int(hold))
	if !streaming {
		return held + question[1:]
	}
	rate := openRates[l.random.Intn(len(openRates))]
	return held + streamQuestion(l.users, openFrames, rate)[1:]
}

func (l *openLoop) receive(v *visitor) error {
	if v.step == nil {
		return errors.New("a connection without a request was closed, or has sent data")
	}
	began := v.seen > 0
	l.fleet.now = monotonic()
	_, ended, err := receive(v.fd, &v.reply, l.fleet.buffer[:])
	if err != nil {
		return err
	}
	streaming := v.reply.eventStream
	if streaming && !began && v.seen > 0 || ended && !streaming {
		v.step.add(v.asked, l.fleet.now-v.asked-v.reply.held)
	}
	if !ended {
		return nil
	}
	if streaming && (!v.complete || v.sequence != openFrames) {
		return errShort
	}
	if !streaming && !v.answer.whole() {
		return errBody
	}
	if v.reply.closing {
		return errors.New("the connection is not keep-alive")
	}
	v.step = nil
	l.idle = append(l.idle, v)
	return nil
}

func (s *openStep) add(due, latency int64) {
	if due >= s.settled {
		s.latency.add(latency)
	}
}

// describe returns the figures of the first step, and the 99th percentile at each rate.
func (l *openLoop) describe(sustained float64, doubled bool) (report, error) {
	first := l.steps[0]
	figures := report{
		"sustained_rate": sustained, "doubled": 0, "count": first.latency.count,
		"connections": len(l.visitors), "requests": l.users, "streams": l.streams,
	}
	if doubled {
		figures["doubled"] = 1
	}
	first.latency.describe(figures, "", "p50", "p99", "p999", "max")
	first.tally.first.describe(figures, "first_frame_", "p50", "p99", "max")
	first.tally.gap.describe(figures, "gap_", "p50", "p99", "max")
	lost := int64(0)
	for _, s := range l.steps {
		lost += s.tally.lost
		if s.latency.count > 0 {
			figures[fmt.Sprintf("p99_us_at_%g", s.rate)] = s.p99()
		}
	}
	figures["lost"] = lost
	if lost > 0 {
		return figures, fmt.Errorf("%d frames were lost", lost)
	}
	return figures, nil
}
