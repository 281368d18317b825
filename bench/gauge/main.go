// Gauge is the bench's made-up OpenAI, and the clients that measure what wrk cannot: latency at
// a fixed rate, many event streams, idle connections, and large bodies.
//
//	main.go       the command line; every subcommand prints one JSON object as its last line
//	clock.go      one clock for both ends of a frame's way, and a ticker finer than Go's
//	histogram.go  percentiles of any number of samples in fixed memory, to a thousandth
//	wire.go       what is asked and answered; a frame's layout, and the test that it is whole
//	reply.go      an HTTP/1.1 response read as it comes, without allocation
//	poll.go       raw sockets under epoll: thousands of connections on one thread
//	upstream.go   the made-up OpenAI
//	wheel.go      its paced streams: one timer writes for all of them
//	latency.go    requests sent by the clock, whether or not earlier ones have been answered
//	streams.go    frames a second, lost ones, and the time that a relay adds to each
//	hold.go       connections and streams held open while somebody else looks at memory
//	transfer.go   one large upload or download
//
// What it refuses to count:
//
//  1. An answer that is not a 200 with exactly the expected body, to the byte.
//  2. A frame that differs in a byte, comes twice, or comes late. One that is missing is lost.
//  3. A stream that ends early, and one that goes on behind its end.
//  4. A connection that was closed although the answer said that it would be kept.
//
// Any of these ends in exit status 1 and a line on stderr. Figures that were measured until then
// are still printed, for the reader; they are no result.
//
// Everything runs on one core, which it shares with the other end, so that the clients use no
// goroutines and the processor is left alone where there is nothing to do. IPv4 loopback only.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
)

// report is what a subcommand prints: names that JSON shows, and their figures.
type report map[string]interface{}

var subcommands = map[string]func(arguments []string) (report, error){
	"upstream": upstream,
	"latency":  latency,
	"streams":  streams,
	"hold":     hold,
	"transfer": transfer,
}

func main() {
	if len(os.Args) < 2 || subcommands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gauge upstream|latency|streams|hold|transfer [-help]")
		os.Exit(2)
	}
	runtime.GOMAXPROCS(1)
	// Clients allocate while they start and hardly afterwards; a collection would be measured
	// as the relay's. The upstream, which runs for long, sets this anew.
	debug.SetGCPercent(-1)
	raiseFileLimit()

	figures, failure := subcommands[os.Args[1]](os.Args[2:])
	if figures != nil {
		line, err := json.Marshal(figures)
		if err != nil {
			panic(err) // only a NaN could do that
		}
		fmt.Printf("%s\n", line)
	}
	if failure != nil {
		fmt.Fprintf(os.Stderr, "gauge %s: %v\n", os.Args[1], failure)
		os.Exit(1)
	}
}

// raiseFileLimit lets this process open as many sockets as it may; too few show as an error of
// the call that wanted one more.
func raiseFileLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// options is a subcommand's command line; a mistake in it ends the process with status 2.
func options(name string) *flag.FlagSet {
	return flag.NewFlagSet("gauge "+name, flag.ExitOnError)
}

// usage ends the process over an option that parses and makes no sense.
func usage(flags *flag.FlagSet, problem string) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", flags.Name(), problem)
	os.Exit(2)
}

// target is what is measured: an IPv4 address and a port.
type target struct {
	host    string // as the Host header says it
	address syscall.SockaddrInet4
}

// parseTarget understands http://127.0.0.1:8080 and http://localhost:8080.
func parseTarget(text string) (target, error) {
	var to target
	parsed, err := url.Parse(text)
	if err != nil {
		return to, err
	}
	port, err := strconv.Atoi(parsed.Port())
	if err != nil || parsed.Scheme != "http" || (parsed.Path != "" && parsed.Path != "/") {
		return to, fmt.Errorf("%q is not of the form http://127.0.0.1:PORT", text)
	}
	name := parsed.Hostname()
	if name == "localhost" {
		name = "127.0.0.1"
	}
	ip := net.ParseIP(name).To4()
	if ip == nil {
		return to, fmt.Errorf("%q is not an IPv4 address", name)
	}
	to.host, to.address.Port = parsed.Host, port
	copy(to.address.Addr[:], ip)
	return to, nil
}
