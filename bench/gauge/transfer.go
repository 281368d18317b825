package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"time"
)

// transferPatience exceeds patience, because a relay may buffer a large body first.
const transferPatience = time.Minute

// transfer measures one large upload or download, and compares every byte.
func transfer(arguments []string) (report, error) {
	flags := options("transfer")
	address := flags.String("url", "", "server to measure, http://127.0.0.1:PORT")
	up := flags.Int64("up", 0, "bytes to send")
	down := flags.Int64("down", 0, "bytes to receive, instead")
	_ = flags.Parse(arguments)
	if *up < 0 || *down < 0 || (*up == 0) == (*down == 0) {
		usage(flags, "needs either -up or -down")
	}
	to, err := parseTarget(*address)
	if err != nil {
		return nil, err
	}
	fd, err := dial(to, transferPatience)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	f, err := newFleet()
	if err != nil {
		return nil, err
	}
	move, size := download, *down
	if *up > 0 {
		move, size = upload, *up
	}
	start := monotonic()
	if err := move(f, fd, to, size); err != nil {
		return nil, err
	}
	seconds := float64(monotonic()-start) / 1e9
	return report{
		"bytes": size, "seconds": math.Round(seconds*1e6) / 1e6,
		"mb_per_second": tenths(float64(size) / seconds / 1e6),
	}, nil
}

// upload ends when the other end has confirmed that it received all bytes unchanged.
func upload(f *fleet, fd int, to target, size int64) error {
	answer := &exact{text: receipt(size, true)}
	m := &member{fd: fd, reply: reply{body: answer}}
	head := fmt.Sprintf("POST /v1/files HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer sk-bench\r\n"+
		"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", to.host, size)
	problem := writeAll(fd, []byte(head))
	for left := size; left > 0 && problem == nil; left -= int64(len(block)) {
		problem = writeAll(fd, block[:atMost(left, len(block))])
	}
	// An error answer within the body explains more than the failed write that it causes.
	if err := f.readAnswer(m); err != nil {
		if problem != nil {
			return fmt.Errorf("%w, after %v", err, problem)
		}
		return err
	}
	if problem != nil {
		return problem
	}
	if !answer.whole() {
		return errBody
	}
	return nil
}

func download(f *fleet, fd int, to target, size int64) error {
	body := &pattern{}
	m := &member{fd: fd, reply: reply{body: body}}
	head := fmt.Sprintf("GET /v1/files/blob/content?bytes=%d HTTP/1.1\r\nHost: %s\r\n"+
		"Authorization: Bearer sk-bench\r\n\r\n", size, to.host)
	if err := writeAll(fd, []byte(head)); err != nil {
		return err
	}
	if err := f.readAnswer(m); err != nil {
		return err
	}
	if body.wrong || body.bytes != size {
		return errBody
	}
	return nil
}

// writeAll writes to a blocking connection.
func writeAll(fd int, from []byte) error {
	for len(from) > 0 {
		n, err := rawWrite(fd, from)
		switch err {
		case nil, syscall.EINTR:
			from = from[n:]
		case syscall.EAGAIN:
			return errors.New("no byte was accepted before the timeout")
		default:
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}
