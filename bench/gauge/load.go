package main

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"syscall"
)

// demand is the next request of a load. Its bytes are valid until the next one is made, but for
// those after fixed, which do not change.
type demand struct {
	request []byte
	fixed   int
	answer  string
	unique  bool // no cache can have the answer
}

// traffic makes the requests of a load.
type traffic interface{ next() demand }

// plain repeats one small request.
type plain struct{ demand }

func (p *plain) next() demand { return p.demand }

// mixed draws its requests from many questions, whose sizes, clients and IDs differ.
type mixed struct {
	letters []*letter
	answers []string
	share   float64 // of the questions that are asked only once
	random  *rand.Rand
	user    int64 // the last one that has asked
}

func newMixed(to target, sizes []exchangeSize, share float64) *mixed {
	m := &mixed{share: share, user: monotonic()} // so that no other run has the same users
	m.random = rand.New(rand.NewSource(m.user))
	for number, size := range sizes {
		m.letters = append(m.letters, newLetter(to, number%len(clientHeads), number, size.question))
		m.answers = append(m.answers, answerText(number, size.answer))
	}
	return m
}

func (m *mixed) next() demand {
	number, user := m.random.Intn(len(m.letters)), int64(0)
	unique := m.random.Float64() < m.share
	if unique {
		m.user++
		user = m.user
	}
	l := m.letters[number]
	l.vary(m.random, user)
	return demand{l.bytes, l.varied, m.answers[number], unique}
}

// all returns each question once, as a cache is filled.
func (m *mixed) all() traffic { return &inTurn{m, 0} }

type inTurn struct {
	*mixed
	at int
}

func (t *inTurn) next() demand {
	number := t.at % len(t.letters)
	t.at++
	l := t.letters[number]
	l.vary(t.random, 0)
	return demand{l.bytes, l.varied, t.answers[number], false}
}

// client sends one request after the other, on its kept connection or on one for the request.
type client struct {
	number int
	kept   int // file descriptor, or -1
	fd     int // of the request's connection
	once   bool
	reply  reply
	answer exact
	rest   []byte // of the request, if the socket has not accepted it
}

// load is a number of clients that send requests at the maximum rate.
type load struct {
	poll    *poller
	to      target
	traffic traffic
	fresh   float64 // share of requests with a connection of their own
	random  *rand.Rand
	clients []*client
	buffer  [64 << 10]byte

	end      int64 // no request begins later
	limit    int   // number of requests, 0: any
	active   int
	sent     int
	unique   int
	received int64
}

// saturate measures the rate of requests. A connection for one request is closed by the client as
// soon as the answer is complete; the request does not announce it.
func saturate(arguments []string) (report, error) {
	flags := options("load")
	address := flags.String("url", "", "server to measure, http://127.0.0.1:PORT")
	connections := flags.Int("connections", 32, "simultaneous requests")
	seconds := flags.Float64("seconds", 5, "duration of the measurement")
	fresh := flags.Float64("fresh", 0, "share of requests with a connection of their own")
	sizes := flags.String("sizes", "", "file with the sizes of mixed traffic; by default one small request")
	unique := flags.Float64("unique", 0.5, "share of mixed requests that no cache can answer")
	fill := flags.Bool("fill", false, "send each mixed question once instead")
	_ = flags.Parse(arguments)
	if *connections < 1 || *seconds <= 0 || *fresh < 0 || *fresh > 1 || *fill && *sizes == "" {
		usage(flags, "connections and seconds must be above zero, -fresh 0 to 1; -fill needs -sizes")
	}
	to, err := parseTarget(*address)
	if err != nil {
		return nil, err
	}
	l := &load{to: to, fresh: *fresh, random: rand.New(rand.NewSource(1))}
	question := post(to, question)
	l.traffic = &plain{demand{question, len(question), completion, false}}
	if *sizes != "" {
		exchanges, err := readSizes(*sizes)
		if err != nil {
			return nil, err
		}
		m := newMixed(to, exchanges, *unique)
		l.traffic = m
		if *fill {
			l.traffic, l.limit = m.all(), len(exchanges)
		}
	}
	if err := l.open(*connections); err != nil {
		return nil, err
	}
	start := monotonic()
	l.end = start + nanoseconds(*seconds)
	if *fill {
		l.end = start + nanoseconds(60)
	}
	if err := l.run(); err != nil {
		return nil, fmt.Errorf("after %d requests: %w", l.sent, err)
	}
	elapsed := float64(monotonic()-start) / 1e9
	return report{
		"requests": l.sent, "unique": l.unique, "seconds": elapsed,
		"rate": tenths(float64(l.sent) / elapsed), "bytes": l.received,
	}, nil
}

func (l *load) open(connections int) (err error) {
	if l.poll, err = newPoller(); err != nil {
		return err
	}
	for number := 0; number < connections; number++ {
		l.clients = append(l.clients, &client{number: number, kept: -1})
	}
	return nil
}

// run ends when all requests have been answered.
func (l *load) run() error {
	for _, c := range l.clients {
		if err := l.ask(c); err != nil {
			return err
		}
	}
	heard := monotonic()
	for l.active > 0 {
		events := l.poll.wait(1000)
		now := monotonic()
		if len(events) > 0 {
			heard = now
		} else if now-heard > int64(patience) {
			return errors.New("no answer for 10 s")
		}
		for _, event := range events {
			if err := l.serve(l.clients[event.Fd], event.Events); err != nil {
				return err
			}
		}
	}
	return nil
}

// ask sends the client's next request, unless the time is over.
func (l *load) ask(c *client) error {
	if l.limit > 0 && l.sent == l.limit || monotonic() >= l.end {
		return nil
	}
	if c.once = l.fresh > 0 && l.random.Float64() < l.fresh; c.once || c.kept < 0 {
		fd, err := dialFrom(uint8(2+c.number%200), l.to, patience)
		if err != nil {
			return err
		}
		if err := l.poll.add(fd, c.number); err != nil {
			return err
		}
		if c.fd = fd; !c.once {
			c.kept = fd
		}
	} else {
		c.fd = c.kept
	}
	d := l.traffic.next()
	c.reply.body = &c.answer
	c.reply.next()
	c.answer = exact{text: d.answer}
	l.active++
	l.sent++
	if d.unique {
		l.unique++
	}
	return l.write(c, d.request, d.fixed)
}

// write sends as much as the socket accepts, at least the bytes before fixed.
func (l *load) write(c *client, request []byte, fixed int) error {
	n, err := rawWrite(c.fd, request)
	if err != nil && !later(err) {
		return os.NewSyscallError("write", err)
	}
	if n < fixed {
		return errors.New("the beginning of a request was written only in part")
	}
	before := len(c.rest)
	if c.rest = request[n:]; (len(c.rest) > 0) != (before > 0) {
		return l.poll.watch(c.fd, c.number, len(c.rest) > 0)
	}
	return nil
}

// serve handles one event of a client's connection.
func (l *load) serve(c *client, events uint32) error {
	if len(c.rest) > 0 && events&syscall.EPOLLOUT != 0 {
		if err := l.write(c, c.rest, 0); err != nil {
			return err
		}
	}
	if events&^syscall.EPOLLOUT == 0 {
		return nil
	}
	n, ended, err := receive(c.fd, &c.reply, l.buffer[:])
	l.received += int64(n)
	if err != nil || !ended {
		return err
	}
	if !c.answer.whole() {
		return errBody
	}
	if len(c.rest) > 0 {
		return errors.New("an answer came before the request was sent")
	}
	if c.once {
		_ = syscall.Close(c.fd)
	} else if c.reply.closing {
		return errors.New("the connection is not keep-alive")
	}
	l.active--
	return l.ask(c)
}
