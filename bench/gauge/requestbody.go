package main

import (
	"bytes"
	"strconv"
	"strings"
)

// copySize is the size of a read of a large body.
const copySize = 64 << 10

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
