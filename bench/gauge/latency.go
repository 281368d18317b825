package main

import (
	"errors"
	"fmt"
)

// caller is a keep-alive connection with at most one request on it.
type caller struct {
	fd       int
	reply    reply
	answer   exact
	intended int64 // the scheduled time of its request
	sent     int64 // the actual time
}

// schedule sends requests at fixed times, whether or not earlier ones have been answered. If all
// connections are in use, a request waits for one, and its latency includes the wait. Otherwise
// a stalled relay would get fewer requests, and so be measured less often, during the stall.
type schedule struct {
	poll    *poller
	timer   int
	request []byte
	idle    []*caller
	callers []*caller
	buffer  [16 << 10]byte

	start    int64
	interval float64 // ns
	warm     int     // requests at the start that are not counted
	total    int
	next     int
	answered int
	end      int64 // time of the last answer

	latency *histogram // from the scheduled time
	service *histogram // from the actual time
	late    *histogram // from the scheduled to the actual time
}

const timerNumber = -1

// closeBy is the time (ns) between the timer and a request's time; it is spent in a busy loop,
// because the kernel needs part of it to wake the process up.
const closeBy = 60_000

// latency measures the latency of the small completion at a fixed rate.
func latency(arguments []string) (report, error) {
	flags := options("latency")
	address := flags.String("url", "", "server to measure, http://127.0.0.1:PORT")
	concurrency := flags.Int("concurrency", 1, "keep-alive connections")
	rate := flags.Float64("rate", 1000, "requests per second")
	seconds := flags.Float64("seconds", 5, "duration of the measurement")
	warm := flags.Float64("warm", 1, "seconds of warm-up before the measurement")
	_ = flags.Parse(arguments)
	if *concurrency < 1 || *rate <= 0 || *seconds <= 0 || *warm < 0 || *rate**seconds < 1 {
		usage(flags, "concurrency, rate and seconds must be above zero, with at least one request in all")
	}
	to, err := parseTarget(*address)
	if err != nil {
		return nil, err
	}
	s := &schedule{
		request: post(to, question), interval: 1e9 / *rate,
		warm: int(*rate * *warm), latency: &histogram{}, service: &histogram{}, late: &histogram{},
	}
	s.total = s.warm + int(*rate**seconds)
	if err := s.open(to, *concurrency); err != nil {
		return nil, err
	}
	if err := s.run(); err != nil {
		return nil, fmt.Errorf("after %d answers: %w", s.answered, err)
	}
	figures := report{"concurrency": *concurrency, "rate": *rate, "seconds": *seconds}
	s.describe(figures)
	return figures, nil
}

func (s *schedule) describe(into report) {
	counted := s.total - s.warm
	elapsed := float64(s.end) - float64(s.moment(s.warm))
	into["count"], into["warm"] = counted, s.warm
	// The last answer arrives one latency after the beginning of the last interval, not at its end.
	if elapsed < float64(counted)*s.interval {
		elapsed = float64(counted) * s.interval
	}
	into["achieved_rate"] = tenths(float64(counted) / elapsed * 1e9)
	s.latency.describe(into, "", "p50", "p90", "p99", "p999", "max")
	s.service.describe(into, "service_", "p50", "p90", "p99", "p999", "max")
	s.late.describe(into, "late_", "p50", "p99", "max")
}

func (s *schedule) open(to target, concurrency int) (err error) {
	if s.poll, err = newPoller(); err != nil {
		return err
	}
	if s.timer, err = newTimer(); err != nil {
		return err
	}
	if err := s.poll.add(s.timer, timerNumber); err != nil {
		return err
	}
	for number := 0; number < concurrency; number++ {
		fd, err := dial(to, patience)
		if err != nil {
			return err
		}
		if err := s.poll.add(fd, number); err != nil {
			return err
		}
		c := &caller{fd: fd, answer: exact{text: completion}}
		c.reply.body = &c.answer
		s.callers, s.idle = append(s.callers, c), append(s.idle, c)
	}
	return nil
}

// moment returns the scheduled time of a request.
func (s *schedule) moment(number int) int64 { return s.start + int64(float64(number)*s.interval) }

func (s *schedule) run() error {
	s.start = monotonic() + 10*int64(closeBy)
	heard := s.start // time of the last answer or the last request
	for s.answered < s.total {
		now := monotonic()
		for s.next < s.total && len(s.idle) > 0 && now >= s.moment(s.next) {
			if err := s.send(now); err != nil {
				return err
			}
			heard, now = now, monotonic()
		}
		before := s.answered
		if err := s.receive(s.wait(now)); err != nil {
			return err
		}
		if s.answered > before {
			heard = monotonic()
		} else if now-heard > int64(patience) && s.answered < s.next {
			return errors.New("no answer for 10 s")
		}
	}
	return nil
}

// wait returns how many milliseconds to wait for answers before the next request is due.
func (s *schedule) wait(now int64) int {
	if s.next == s.total || len(s.idle) == 0 {
		return 1000
	}
	if wake := s.moment(s.next) - closeBy; wake > now {
		setTimer(s.timer, wake, 0)
		return 1000
	}
	if len(s.idle) < len(s.callers) {
		giveWay() // the relay's upstream on this core may have work to do
	}
	return 0
}

func (s *schedule) send(now int64) error {
	c := s.idle[len(s.idle)-1]
	s.idle = s.idle[:len(s.idle)-1]
	c.reply.next()
	c.answer.seen = 0
	c.intended, c.sent = s.moment(s.next), now
	s.next++
	return send(c.fd, s.request)
}

// receive reads the answers that arrive within a time; the timer only ends the wait.
func (s *schedule) receive(milliseconds int) error {
	for _, event := range s.poll.wait(milliseconds) {
		if event.Fd == timerNumber {
			clearTimer(s.timer)
		} else if err := s.read(s.callers[event.Fd]); err != nil {
			return err
		}
	}
	return nil
}

func (s *schedule) read(c *caller) error {
	_, ended, err := receive(c.fd, &c.reply, s.buffer[:])
	now := monotonic()
	if err != nil || !ended {
		return err
	}
	if !c.answer.whole() {
		return errBody
	}
	if c.reply.closing {
		return errors.New("the connection is not keep-alive")
	}
	s.record(c, now)
	return nil
}

// record counts an answer, except those of the warm-up; late answers count.
func (s *schedule) record(c *caller, now int64) {
	if c.intended >= s.moment(s.warm) {
		s.latency.add(now - c.intended)
		s.service.add(now - c.sent)
		s.late.add(c.sent - c.intended)
	}
	s.end = now
	s.answered++
	s.idle = append(s.idle, c)
}
