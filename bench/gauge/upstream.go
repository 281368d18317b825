package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
)

// counters are shown by /status; they cover the life of the upstream.
type counters struct {
	requests, frames, skipped, open int64
}

func (c *counters) report() report {
	return report{
		"requests":     atomic.LoadInt64(&c.requests), // without those for /status
		"open_streams": atomic.LoadInt64(&c.open),
		"frames":       atomic.LoadInt64(&c.frames),
		"skipped":      atomic.LoadInt64(&c.skipped), // frames that were due while the socket's buffer was full
	}
}

// server is the fake OpenAI API, with one goroutine per connection; wheels send the paced frames.
type server struct {
	counters counters
	wheels   *wheels
	frames   int      // of a stream whose request has no number of frames
	rate     float64  // likewise
	answers  [][]byte // complete responses to the questions of mixed traffic
}

// upstream serves until SIGTERM or SIGINT.
func upstream(arguments []string) (report, error) {
	flags := options("upstream")
	listen := flags.String("listen", "127.0.0.1:0", "address and port")
	frames := flags.Int("frames", 0, "frames of a stream, 0: until the client disconnects")
	rate := flags.Float64("rate", 20, "frames per second of a stream, 0: the maximum")
	secure := flags.String("tls-listen", "", "address and port with TLS; needs -cert and -key")
	certificate := flags.String("cert", "", "file of the certificate for TLS")
	key := flags.String("key", "", "file of its private key")
	sizes := flags.String("sizes", "", "file with the sizes of mixed traffic")
	_ = flags.Parse(arguments)
	if !validRate(*rate) || *frames < 0 {
		usage(flags, rateRule)
	}

	debug.SetGCPercent(400)
	s := &server{frames: *frames, rate: *rate}
	s.wheels = newWheels(&s.counters)
	if *sizes != "" {
		exchanges, err := readSizes(*sizes)
		if err != nil {
			return nil, err
		}
		for number, each := range exchanges {
			s.answers = append(s.answers, jsonResponse("200 OK", answerText(number, each.answer)))
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 2)
	go func() { failed <- s.listen(*listen, nil) }()
	if *secure != "" {
		config, err := serverTLS(*certificate, *key)
		if err != nil {
			return nil, err
		}
		go func() { failed <- s.listen(*secure, config) }()
	}
	select {
	case <-stop:
		return s.counters.report(), nil
	case err := <-failed:
		return nil, err
	}
}

// listen serves an address, with TLS if there is a configuration.
func (s *server) listen(address string, config *tls.Config) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.serve(conn.(*net.TCPConn), config)
	}
}

// exchange is a connection with the request that is being read or answered.
type exchange struct {
	*server
	conn   net.Conn
	out    *outlet // below the connection
	reader *bufio.Reader
	method string
	path   string
	query  string
	length int64 // of the request's body; -1: chunked
	keep   bool
	http10 bool
	body   []byte // the beginning of a completion's request, reused by the next
}

var errMalformed = errors.New("malformed request")

func (s *server) serve(socket *net.TCPConn, config *tls.Config) {
	defer socket.Close()
	out, err := newOutlet(socket)
	if err != nil {
		return
	}
	conn := over(out, config)
	x := &exchange{server: s, conn: conn, out: out, reader: bufio.NewReaderSize(conn, 4<<10)}
	for {
		if err := x.readHead(); err != nil {
			if errors.Is(err, errMalformed) || errors.Is(err, bufio.ErrBufferFull) {
				x.keep = false
				_ = x.refuse("400 Bad Request", "malformed request")
			}
			return
		}
		if x.path != "/status" {
			atomic.AddInt64(&s.counters.requests, 1)
		}
		if err := x.answer(); err != nil || !x.keep {
			return
		}
	}
}

func (x *exchange) readHead() error {
	line, err := x.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if err := x.parseRequestLine(bytes.TrimRight(line, "\r\n")); err != nil {
		return err
	}
	x.length, x.keep = 0, !x.http10
	for {
		line, err := x.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			return nil
		}
		if err := x.parseField(line); err != nil {
			return err
		}
	}
}

func (x *exchange) parseRequestLine(line []byte) error {
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if first < 0 || last <= first || !bytes.HasPrefix(line[last+1:], []byte("HTTP/1.")) {
		return errMalformed
	}
	x.http10 = string(line[last+1:]) == "HTTP/1.0"
	x.method = known(line[:first], x.method)
	target, query := line[first+1:last], []byte(nil)
	if mark := bytes.IndexByte(target, '?'); mark >= 0 {
		target, query = target[:mark], target[mark+1:]
	}
	x.path, x.query = known(target, x.path), known(query, x.query)
	return nil
}

// known returns a text as a string; it reuses the previous request's string if that is equal, as
// it nearly always is, and then allocates nothing.
func known(text []byte, before string) string {
	if string(text) == before {
		return before
	}
	return string(text)
}

func (x *exchange) parseField(line []byte) error {
	name, value := field(line)
	switch {
	case named(name, "content-length"):
		if x.length = readDigits(value); x.length < 0 || len(value) == 0 || len(value) > 18 {
			return errMalformed
		}
	case named(name, "transfer-encoding"):
		if !named(value, "chunked") {
			return errMalformed
		}
		x.length = -1
	case named(name, "connection"):
		if named(value, "close") {
			x.keep = false
		} else if named(value, "keep-alive") {
			x.keep = true
		}
	}
	return nil
}
