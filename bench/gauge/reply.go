package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// sink receives a response's body in pieces of any length, which it must not keep.
type sink interface{ take(run []byte) error }

// stage is the part of a response to which the next byte belongs.
type stage int

const (
	inHead stage = iota
	inBody       // of a known length
	inRest       // of a body that ends with the connection
	inSize       // of a chunk, hexadecimal
	inExtension
	inChunk
	inBreak // after a chunk
	inTrailer
	atEnd
)

const maxHead = 16 << 10

var (
	errChunk  = errors.New("invalid chunked framing")
	errBehind = errors.New("bytes after the end of the answer")
	errClosed = errors.New("the other side closed the connection")
	errShort  = errors.New("a stream ended too early")
	errEarly  = errors.New("the other side closed the connection within the answer")
)

// reply parses consecutive responses. Only a 200 is accepted.
type reply struct {
	body        sink
	stage       stage
	left        int64 // bytes of the body, or of the chunk
	digits      int   // of the chunk's size, or bytes of the trailer's line
	head        []byte
	eventStream bool
	held        int64 // ns that the upstream took for the answer, if it says so
	closing     bool  // the other side will close the connection after the response
}

// next prepares for the next response on the same connection.
func (r *reply) next() { *r = reply{body: r.body, head: r.head[:0]} }

func (r *reply) ended() bool { return r.stage == atEnd }

// feed parses data that was read from the connection.
func (r *reply) feed(b []byte) (err error) {
	for len(b) > 0 && err == nil {
		switch r.stage {
		case inHead:
			b, err = r.takeHead(b)
		case inBody, inChunk:
			b, err = r.takeBody(b)
		case inRest:
			b, err = nil, r.body.take(b)
		case atEnd:
			err = errBehind
		default:
			err = r.takeFraming(b[0])
			b = b[1:]
		}
	}
	return err
}

// closed returns the error of a connection that ends here; nil if the end completes the body.
func (r *reply) closed() error {
	switch r.stage {
	case atEnd:
		return errClosed
	case inRest:
		r.stage = atEnd
		return nil
	}
	return errEarly
}

func (r *reply) takeBody(b []byte) ([]byte, error) {
	run := b
	if int64(len(run)) > r.left {
		run = run[:r.left]
	}
	r.left -= int64(len(run))
	if r.left == 0 {
		if r.stage == inBody {
			r.stage = atEnd
		} else {
			r.stage = inBreak
		}
	}
	return b[len(run):], r.body.take(run)
}

// takeFraming parses one of the bytes around a chunk.
func (r *reply) takeFraming(c byte) error {
	switch r.stage {
	case inSize:
		return r.takeSize(c)
	case inExtension:
		if c == '\n' {
			r.startChunk()
		}
	case inBreak:
		if c == '\n' {
			r.stage, r.left, r.digits = inSize, 0, 0
		} else if c != '\r' {
			return errChunk
		}
	case inTrailer:
		if c == '\n' && r.digits == 0 {
			r.stage = atEnd
		} else if c == '\n' {
			r.digits = 0
		} else if c != '\r' {
			r.digits++
		}
	}
	return nil
}

func (r *reply) takeSize(c byte) error {
	digit := int64(-1)
	switch {
	case c >= '0' && c <= '9':
		digit = int64(c - '0')
	case c >= 'a' && c <= 'f':
		digit = int64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		digit = int64(c-'A') + 10
	}
	if digit >= 0 && r.digits < 8 {
		r.left, r.digits = r.left<<4|digit, r.digits+1
		return nil
	}
	if r.digits == 0 || digit >= 0 || (c != '\r' && c != '\n' && c != ';' && c != ' ') {
		return errChunk
	}
	r.stage = inExtension
	if c == '\n' {
		r.startChunk()
	}
	return nil
}

// startChunk handles the end of a line with a chunk size; a size of zero ends the body.
func (r *reply) startChunk() {
	r.stage, r.digits = inChunk, 0
	if r.left == 0 {
		r.stage = inTrailer
	}
}

var heldField = strings.ToLower(heldName)

var headEnd = []byte("\r\n\r\n")

// takeHead parses the head in place if it arrived in one read, as it nearly always does.
func (r *reply) takeHead(b []byte) ([]byte, error) {
	if end := bytes.Index(b, headEnd); len(r.head) == 0 && end >= 0 {
		return b[end+len(headEnd):], r.parseHead(b[:end])
	}
	seen := len(r.head)
	r.head = append(r.head, b...)
	end := bytes.Index(r.head, headEnd)
	if end < 0 {
		if len(r.head) > maxHead {
			return nil, errors.New("response headers beyond 16 KiB")
		}
		return nil, nil
	}
	return b[end+len(headEnd)-seen:], r.parseHead(r.head[:end])
}

func (r *reply) parseHead(head []byte) error {
	line, rest := cut(head)
	if !bytes.HasPrefix(line, []byte("HTTP/1.")) || len(line) < 12 || string(line[8:12]) != " 200" {
		return fmt.Errorf("the status is not 200: %.200q", head)
	}
	length, chunked := int64(-1), false
	for len(rest) > 0 {
		line, rest = cut(rest)
		name, value := field(line)
		switch {
		case named(name, "content-length"):
			if length = readDigits(value); length < 0 || len(value) == 0 || len(value) > 18 {
				return errors.New("the Content-Length is not a number")
			}
		case named(name, "transfer-encoding"):
			chunked = named(value, "chunked")
		case named(name, "content-type"):
			r.eventStream = bytes.HasPrefix(value, []byte("text/event-stream"))
		case named(name, "connection"):
			r.closing = named(value, "close")
		case named(name, heldField):
			if r.held = readDigits(value); r.held < 0 {
				return errors.New("the " + heldName + " is not a number")
			}
		}
	}
	r.start(length, chunked)
	return nil
}

func (r *reply) start(length int64, chunked bool) {
	switch {
	case chunked:
		r.stage = inSize
	case length > 0:
		r.stage, r.left = inBody, length
	case length == 0:
		r.stage = atEnd
	default:
		r.stage, r.closing = inRest, true
	}
}

// cut returns the first line, without its line end, and the rest.
func cut(text []byte) (line, rest []byte) {
	end := bytes.IndexByte(text, '\n')
	if end < 0 {
		return text, nil
	}
	return bytes.TrimSuffix(text[:end], []byte("\r")), text[end+1:]
}

// field returns a header's name and value; a line without a colon has no name.
func field(line []byte) (name, value []byte) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return nil, nil
	}
	return line[:colon], bytes.TrimSpace(line[colon+1:])
}

// named compares case-insensitively, without allocation.
func named(text []byte, name string) bool {
	if len(text) != len(name) {
		return false
	}
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != name[i] {
			return false
		}
	}
	return true
}
