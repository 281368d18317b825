package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
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
	frames   int     // of a stream whose request has no number of frames
	rate     float64 // likewise
}

// upstream serves until SIGTERM or SIGINT.
func upstream(arguments []string) (report, error) {
	flags := options("upstream")
	listen := flags.String("listen", "127.0.0.1:0", "address and port")
	frames := flags.Int("frames", 0, "frames of a stream, 0: until the client disconnects")
	rate := flags.Float64("rate", 20, "frames per second of a stream, 0: the maximum")
	_ = flags.Parse(arguments)
	if !validRate(*rate) || *frames < 0 {
		usage(flags, rateRule)
	}

	debug.SetGCPercent(400)
	listener, err := net.Listen("tcp4", *listen)
	if err != nil {
		return nil, err
	}
	s := &server{frames: *frames, rate: *rate}
	s.wheels = newWheels(&s.counters)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 1)
	go func() { failed <- s.accept(listener) }()
	select {
	case <-stop:
		return s.counters.report(), nil
	case err := <-failed:
		return nil, err
	}
}

func (s *server) accept(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.serve(conn.(*net.TCPConn))
	}
}

// exchange is a connection with the request that is being read or answered.
type exchange struct {
	*server
	conn   *net.TCPConn
	reader *bufio.Reader
	method string
	path   string
	query  string
	length int64 // of the request's body; -1: chunked
	keep   bool
	http10 bool
	body   []byte // of small requests, reused by the next
}

const (
	maxQuestion = 4 << 20
	copySize    = 64 << 10
)

var errMalformed = errors.New("malformed request")

func (s *server) serve(conn *net.TCPConn) {
	defer conn.Close()
	x := &exchange{server: s, conn: conn, reader: bufio.NewReaderSize(conn, 4<<10)}
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

func (x *exchange) answer() error {
	switch {
	case x.method == "POST" && x.path == "/v1/chat/completions":
		return x.complete()
	case x.method == "POST" && x.path == "/v1/files":
		return x.receive()
	}
	if err := x.readBody(func([]byte) {}); err != nil {
		return err
	}
	switch {
	case x.method == "GET" && x.path == "/v1/models":
		return x.write(modelsResponse)
	case x.method == "GET" && x.path == "/v1/files/blob/content":
		return x.sendBlob()
	case x.method == "GET" && x.path == "/status":
		text, _ := json.Marshal(x.counters.report())
		return x.write(jsonResponse("200 OK", string(text)))
	}
	return x.refuse("404 Not Found", "no such thing here")
}

var (
	modelsResponse     = jsonResponse("200 OK", modelsBody)
	completionResponse = jsonResponse("200 OK", completion)
)

func jsonResponse(status, body string) []byte {
	return []byte(fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", status, len(body), body))
}

func (x *exchange) write(response []byte) error {
	_, err := x.conn.Write(response)
	return err
}

func (x *exchange) refuse(status, reason string) error {
	body := fmt.Sprintf(`{"error":{"message":%q,"type":"invalid_request_error"}}`, reason)
	return x.write(jsonResponse(status, body))
}

// complete answers a completion request, with a document or a stream.
func (x *exchange) complete() error {
	x.body = x.body[:0]
	err := x.readBody(func(run []byte) {
		if len(x.body) <= maxQuestion {
			x.body = append(x.body, run...)
		}
	})
	if err != nil {
		return err
	}
	if len(x.body) > maxQuestion {
		return x.refuse("413 Content Too Large", "a question of more than 4 MiB")
	}
	if string(valueOf(x.body, `"stream":`)) != "true" {
		return x.write(completionResponse)
	}
	return x.stream()
}

// valueOf returns the value of a name in a JSON text, if it is a number or a word. It searches the
// text without a parser, which suffices for gauge's own requests, reformatted or not.
func valueOf(text []byte, name string) []byte {
	at := bytes.Index(text, []byte(name))
	if at < 0 {
		return nil
	}
	value := bytes.TrimLeft(text[at+len(name):], " ")
	if end := bytes.IndexAny(value, ",} \r\n"); end >= 0 {
		value = value[:end]
	}
	return value
}

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n" +
	"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"

// stream answers with frames, as many and as fast as the request or the command line says.
func (x *exchange) stream() error {
	frames, rate := x.frames, x.rate
	if text := valueOf(x.body, `"n_frames":`); text != nil {
		n, err := strconv.Atoi(string(text))
		if err != nil || n < 0 {
			return x.refuse("400 Bad Request", "n_frames is a count")
		}
		frames = n
	}
	if text := valueOf(x.body, `"frame_rate":`); text != nil {
		n, err := strconv.ParseFloat(string(text), 64)
		if err != nil || !validRate(n) {
			return x.refuse("400 Bad Request", rateRule)
		}
		rate = n
	}
	if x.http10 {
		x.keep = false
		return x.refuse("505 HTTP Version Not Supported", "a stream needs HTTP/1.1")
	}
	if err := x.write([]byte(streamHead)); err != nil {
		return err
	}
	if rate == 0 {
		return x.pour(frames)
	}
	return x.pace(frames, rate)
}

// pour sends frames at the maximum rate of the socket.
func (x *exchange) pour(frames int) error {
	atomic.AddInt64(&x.counters.open, 1)
	defer atomic.AddInt64(&x.counters.open, -1)
	chunk := newChunk()
	for sequence := 0; frames == 0 || sequence < frames; sequence++ {
		stampChunk(chunk, int64(sequence), monotonic())
		if err := x.write(chunk); err != nil {
			return err
		}
		atomic.AddInt64(&x.counters.frames, 1)
	}
	return x.write(streamEnd)
}

// pace hands the stream over to a wheel. A read meanwhile returns the client's disconnection, or
// its next request, which waits until the stream has ended.
func (x *exchange) pace(frames int, rate float64) error {
	s, err := x.wheels.start(x.conn, frames, rate)
	if err != nil {
		return err
	}
	if _, err := x.reader.Peek(1); err != nil {
		x.wheels.end(s)
		return err
	}
	<-s.ended
	return nil
}

// receive reads a body of any size, and returns its size and whether it equals the pattern.
func (x *exchange) receive() error {
	var seen pattern
	if err := x.readBody(func(run []byte) { _ = seen.take(run) }); err != nil {
		return err
	}
	return x.write(jsonResponse("200 OK", receipt(seen.bytes, !seen.wrong)))
}

// receipt is the answer to an upload.
func receipt(length int64, intact bool) string {
	return fmt.Sprintf(`{"bytes":%d,"intact":%t}`, length, intact)
}

// sendBlob sends ?bytes=N of the pattern.
func (x *exchange) sendBlob() error {
	left, err := strconv.ParseInt(strings.TrimPrefix(x.query, "bytes="), 10, 64)
	if err != nil || left < 0 {
		return x.refuse("400 Bad Request", "say ?bytes=N")
	}
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"+
		"Content-Length: %d\r\n\r\n", left)
	if err := x.write([]byte(head)); err != nil {
		return err
	}
	for ; left > 0; left -= int64(len(block)) {
		if err := x.write(block[:atMost(left, len(block))]); err != nil {
			return err
		}
	}
	return nil
}

// readBody passes on a request's body in pieces that are valid during the call only.
func (x *exchange) readBody(take func(run []byte)) error {
	if x.length >= 0 {
		return x.readRun(x.length, take)
	}
	for {
		line, err := x.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		size := string(bytes.TrimRight(line, "\r\n"))
		if extension := strings.IndexByte(size, ';'); extension >= 0 {
			size = size[:extension]
		}
		length, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
		if err != nil || length < 0 {
			return errMalformed
		}
		if length == 0 {
			return x.readTrailer()
		}
		if err := x.readRun(length, take); err != nil {
			return err
		}
		if _, err := x.reader.ReadSlice('\n'); err != nil {
			return err
		}
	}
}

func (x *exchange) readTrailer() error {
	for {
		line, err := x.reader.ReadSlice('\n')
		if err != nil || len(bytes.TrimRight(line, "\r\n")) == 0 {
			return err
		}
	}
}

// readRun passes on buffered data, then reads the rest directly while it exceeds the buffer.
func (x *exchange) readRun(length int64, take func(run []byte)) error {
	var large []byte
	for length > 0 {
		n, err := 0, error(nil)
		if x.reader.Buffered() > 0 || length <= int64(x.reader.Size()) {
			n, err = x.takeBuffered(length, take)
		} else {
			if large == nil {
				large = make([]byte, copySize)
			}
			n, err = x.conn.Read(large[:atMost(length, len(large))])
			take(large[:n])
		}
		if err != nil {
			return err
		}
		length -= int64(n)
	}
	return nil
}

// takeBuffered reads once if nothing is buffered, and passes on the buffered data.
func (x *exchange) takeBuffered(length int64, take func(run []byte)) (int, error) {
	if _, err := x.reader.Peek(1); err != nil {
		return 0, err
	}
	run, _ := x.reader.Peek(atMost(length, x.reader.Buffered()))
	take(run)
	return x.reader.Discard(len(run))
}

func atMost(length int64, limit int) int {
	if length < int64(limit) {
		return int(length)
	}
	return limit
}
