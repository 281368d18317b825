package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// maxHeld is the number of ports of one source address in the default range.
const maxHeld = 20000

// hold keeps connections or streams open until stdin is closed, so that memory can be measured.
func hold(arguments []string) (report, error) {
	flags := options("hold")
	address := flags.String("url", "", "server to measure, http://127.0.0.1:PORT")
	idle := flags.Int("idle", 0, "idle connections, each after one request")
	wanted := flags.Int("streams", 0, "open streams, instead of idle connections")
	rate := flags.Float64("rate", 1, "frames per second of each stream")
	_ = flags.Parse(arguments)
	if *idle < 0 || *wanted < 0 || (*idle == 0) == (*wanted == 0) || *idle+*wanted > maxHeld {
		usage(flags, fmt.Sprintf("one of -idle and -streams must be 1 to %d", maxHeld))
	}
	if !validRate(*rate) || *rate == 0 {
		usage(flags, rateRule+", and not 0")
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
	if *idle > 0 {
		return holdIdle(f, to, *idle)
	}
	return holdStreams(f, to, *wanted, *rate)
}

// holdIdle opens the connections one after the other, and reads each answer completely, so that
// a relay may use as few connections to the upstream as it needs.
func holdIdle(f *fleet, to target, wanted int) (report, error) {
	request := post(to, question)
	for number := 0; number < wanted; number++ {
		if err := openIdle(f, to, request); err != nil {
			return nil, fmt.Errorf("with %d connections open: %w", number, err)
		}
		f.sweep(0) // notices connections that were closed
	}
	start := monotonic()
	if err := waitForStdin(f, wanted); err != nil {
		return nil, err
	}
	figures := report{"held": wanted, "broken": f.failures, "seconds": secondsSince(start)}
	return figures, broken(f, wanted)
}

func openIdle(f *fleet, to target, request []byte) error {
	fd, err := dial(to, patience)
	if err != nil {
		return err
	}
	answer := &exact{text: completion}
	m := &member{fd: fd, reply: reply{body: answer}}
	if err := send(fd, request); err != nil {
		return err
	}
	if err := f.readAnswer(m); err != nil {
		return err
	}
	if !answer.whole() {
		return errBody
	}
	if m.reply.closing {
		return errors.New("the connection is not keep-alive")
	}
	return f.add(m)
}

// holdStreams opens the streams one after the other, each after the first frame of the previous.
func holdStreams(f *fleet, to target, wanted int, rate float64) (report, error) {
	f.endless = true
	t := newTally(f)
	t.to = 1 << 62
	for user := 0; user < wanted; user++ {
		if err := openStream(f, t, to, user, rate); err != nil {
			return nil, fmt.Errorf("with %d streams open: %w", user, err)
		}
		f.sweep(0)
	}
	start := monotonic()
	if err := waitForStdin(f, wanted); err != nil {
		return nil, err
	}
	figures := report{
		"held": wanted, "broken": f.failures, "seconds": secondsSince(start),
		"frames": t.frames, "lost": t.lost,
	}
	if err := broken(f, wanted); err != nil || t.lost == 0 {
		return figures, err
	}
	return figures, fmt.Errorf("%d frames were lost", t.lost)
}

func openStream(f *fleet, t *tally, to target, user int, rate float64) error {
	fd, err := dial(to, patience)
	if err != nil {
		return err
	}
	s := newFollower(fd, t)
	s.asked = monotonic()
	if err := send(fd, post(to, streamQuestion(user, 0, rate))); err != nil {
		return err
	}
	if err := f.readUntil(&s.member, func() bool { return s.seen > 0 }); err != nil {
		return err
	}
	return f.add(&s.member)
}

func secondsSince(start int64) float64 { return tenths(float64(monotonic()-start) / 1e9) }

func broken(f *fleet, wanted int) error {
	if f.failures == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d were closed, the first one: %w", f.failures, wanted, f.failure)
}

// waitForStdin prints that all are open, and reads arriving data until stdin is closed.
func waitForStdin(f *fleet, wanted int) error {
	fmt.Printf("ready %d\n", wanted)
	err := f.poll.add(syscall.Stdin, stdinNumber)
	if errors.Is(err, syscall.EPERM) {
		return nil // a file, or /dev/null: already at its end
	}
	for err == nil && !f.stdinClosed {
		f.sweep(monotonic() + int64(time.Second))
	}
	return err
}
