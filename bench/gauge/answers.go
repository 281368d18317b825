package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

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

// heldName is the header with the time (ns) from the receipt of a request to its answer.
const heldName = "X-Held-Ns"

func heldResponse(held int64) []byte {
	return []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"+
		heldName+": %d\r\nContent-Length: %d\r\n\r\n%s", held, len(completion), completion))
}

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

// maxFields is the part of a completion's request that has the fields for this upstream.
const maxFields = 1 << 10

// complete answers a completion request, with a document or a stream.
func (x *exchange) complete() error {
	x.body = x.body[:0]
	err := x.readBody(func(run []byte) {
		x.body = append(x.body, run[:atMost(int64(len(run)), maxFields-len(x.body))]...)
	})
	if err != nil {
		return err
	}
	held, err := x.hold()
	if err != nil {
		return x.refuse("400 Bad Request", "hold_us is a number of microseconds")
	}
	if string(valueOf(x.body, `"stream":`)) == "true" {
		return x.stream(held)
	}
	if text := valueOf(x.body, `"answer":`); text != nil {
		number, err := strconv.Atoi(string(text))
		if err != nil || number < 0 || number >= len(x.answers) {
			return x.refuse("400 Bad Request", "answer is the number of an answer")
		}
		return x.write(x.answers[number])
	}
	if held > 0 {
		return x.write(heldResponse(held))
	}
	return x.write(completionResponse)
}

// hold waits as long as the request says, as a model does before its first token. It returns the
// actual time in nanoseconds, which exceeds the wanted one.
func (x *exchange) hold() (int64, error) {
	text := valueOf(x.body, `"hold_us":`)
	if text == nil {
		return 0, nil
	}
	wanted, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || wanted < 0 {
		return 0, errMalformed
	}
	received := monotonic()
	time.Sleep(time.Duration(wanted) * time.Microsecond)
	return monotonic() - received, nil
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
	"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n" + heldName + ": %d\r\n\r\n"

// stream answers with frames, as many and as fast as the request or the command line says.
func (x *exchange) stream(held int64) error {
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
	if err := x.write([]byte(fmt.Sprintf(streamHead, held))); err != nil {
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
	x.out.mode = batching
	chunk := newChunk()
	for sequence := 0; frames == 0 || sequence < frames; sequence++ {
		stampChunk(chunk, int64(sequence), monotonic())
		if err := x.write(chunk); err != nil {
			return err
		}
		atomic.AddInt64(&x.counters.frames, 1)
	}
	if err := x.write(streamEnd); err != nil {
		return err
	}
	x.out.mode = blocking
	return x.out.drain()
}

// pace hands the stream over to a wheel. A read meanwhile returns the client's disconnection, or
// its next request, which waits until the stream has ended.
func (x *exchange) pace(frames int, rate float64) error {
	s, err := x.wheels.start(x.conn, x.out, frames, rate)
	if err != nil {
		return err
	}
	if _, err := x.reader.Peek(1); err != nil {
		x.wheels.end(s)
		return err
	}
	<-s.ended
	x.out.mode = blocking
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
