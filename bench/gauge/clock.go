package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

const clockMonotonic = 1 // CLOCK_MONOTONIC, which is the same for all processes of a machine

// clockOffset converts Go's monotonic time, which needs no system call, to CLOCK_MONOTONIC.
var clockStart, clockOffset = calibrate()

// calibrate reads CLOCK_MONOTONIC between two readings of Go's clock, and keeps the closest pair.
func calibrate() (time.Time, int64) {
	start := time.Now()
	best, offset := int64(1<<62), int64(0)
	for i := 0; i < 100; i++ {
		var now syscall.Timespec
		before := time.Since(start)
		syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
		after := time.Since(start)
		if width := int64(after - before); width < best {
			best, offset = width, now.Nano()-int64(before+after)/2
		}
	}
	return start, offset
}

// monotonic returns the current time in nanoseconds, comparable between processes.
func monotonic() int64 { return clockOffset + int64(time.Since(clockStart)) }

// A Go timer is late by up to a millisecond, a timerfd of the kernel by microseconds.

type timerSetting struct{ interval, first syscall.Timespec }

// newTimer creates a timerfd, which is readable after the timer has fired.
func newTimer() (int, error) {
	fd, _, errno := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic,
		syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("timerfd_create", errno)
	}
	return int(fd), nil
}

// setTimer fires a timer at a time (ns), then at each interval unless that is zero.
func setTimer(fd int, at, interval int64) {
	const absolute = 1 // TFD_TIMER_ABSTIME
	setting := timerSetting{syscall.NsecToTimespec(interval), syscall.NsecToTimespec(at)}
	syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(fd), absolute,
		uintptr(unsafe.Pointer(&setting)), 0, 0, 0)
}

// clearTimer makes a fired timer unreadable until it fires again.
func clearTimer(fd int) {
	var count [8]byte
	_, _ = rawRead(fd, count[:])
}

// ticker fires at an interval; unlike Go's ticker it supports intervals far below a millisecond.
type ticker struct{ file *os.File }

func newTicker(interval time.Duration) (*ticker, error) {
	fd, err := newTimer()
	if err != nil {
		return nil, err
	}
	setTimer(fd, monotonic()+int64(interval), int64(interval))
	return &ticker{os.NewFile(uintptr(fd), "ticker")}, nil
}

// wait returns at the next tick, or immediately if ticks were missed.
func (t *ticker) wait() error {
	var count [8]byte
	_, err := t.file.Read(count[:])
	return err
}

func (t *ticker) stop() { _ = t.file.Close() }
