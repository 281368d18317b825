package main

import (
	"bytes"
	"errors"
	"fmt"
)

const (
	modelsBody = `{"object":"list","data":[{"id":"gpt-4.1","object":"model","owned_by":"system"}]}`
	completion = `{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion",` +
		`"created":1741569952,"model":"gpt-4.1-2025-04-14","choices":[{"index":0,"message":` +
		`{"role":"assistant","content":"Hello! How can I assist you today?","refusal":null,` +
		`"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,` +
		`"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0},` +
		`"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}`
	question = `{"model":"gpt-4.1","messages":[{"role":"user","content":"Hello!"}]}`
)

// streamQuestion requests a number of frames (0: until the client leaves) at a rate (0: the maximum).
// Each stream has another user, so that no relay can share one answer.
func streamQuestion(user, frames int, rate float64) string {
	return fmt.Sprintf(`{"model":"gpt-4.1","stream":true,"n_frames":%d,"frame_rate":%g,`+
		`"user":"user-%d","messages":[{"role":"user","content":"Hello!"}]}`, frames, rate, user)
}

// post returns a complete request for a chat completion, with the headers of the other loads.
func post(to target, body string) []byte {
	return []byte(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\n"+
		"Authorization: Bearer sk-bench\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", to.host, len(body), body))
}

// A frame's content is its sequence number and the time of sending (monotonic ns), at constant
// offsets: all other bytes are the same in every frame, and are compared.
const (
	frameHead = `data: {"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":` +
		`"chat.completion.chunk","created":1741569952,"model":"gpt-4.1-2025-04-14",` +
		`"choices":[{"index":0,"delta":{"content":"`
	frameTail      = "\"},\"finish_reason\":null}]}\n\n"
	sequenceDigits = 10
	stampDigits    = 19
	frameStamp     = len(frameHead) + sequenceDigits + 1 // offset of the time, after a space
	frameLength    = frameStamp + stampDigits + len(frameTail)
	lastFrame      = "data: [DONE]\n\n"
)

var (
	frameHeadBytes, frameTailBytes = []byte(frameHead), []byte(frameTail)
	lastFrameBytes                 = []byte(lastFrame)
	errFrame                       = errors.New("a frame differs from what was sent")
)

// chunkOverhead is the length of a chunk's size line: two hexadecimal digits and the line end.
const chunkOverhead = 4

const _ = uint(0xff - frameLength) // does not compile if the length needs more than two digits

// newChunk returns a chunk with one frame; stampChunk fills in the parts that differ.
func newChunk() []byte {
	blank := fmt.Sprintf("%0*d %0*d", sequenceDigits, 0, stampDigits, 0)
	return []byte(fmt.Sprintf("%02x\r\n%s%s%s\r\n", frameLength, frameHead, blank, frameTail))
}

func stampChunk(chunk []byte, sequence, now int64) {
	frame := chunk[chunkOverhead:]
	writeDigits(frame[len(frameHead):len(frameHead)+sequenceDigits], sequence)
	writeDigits(frame[frameStamp:frameStamp+stampDigits], now)
}

// readFrame parses a frame, and rejects it if any byte is wrong.
func readFrame(frame []byte) (sequence, stamp int64, err error) {
	if len(frame) != frameLength || !bytes.HasPrefix(frame, frameHeadBytes) ||
		!bytes.HasSuffix(frame, frameTailBytes) || frame[frameStamp-1] != ' ' {
		return 0, 0, errFrame
	}
	sequence = readDigits(frame[len(frameHead) : frameStamp-1])
	stamp = readDigits(frame[frameStamp : frameStamp+stampDigits])
	if sequence < 0 || stamp < 0 {
		return 0, 0, errFrame
	}
	return sequence, stamp, nil
}

func writeDigits(into []byte, value int64) {
	for i := len(into) - 1; i >= 0; i-- {
		into[i] = byte('0' + value%10)
		value /= 10
	}
}

// readDigits returns -1 if a byte is not a digit.
func readDigits(text []byte) int64 {
	value := int64(0)
	for _, c := range text {
		if c < '0' || c > '9' {
			return -1
		}
		value = value*10 + int64(c-'0')
	}
	return value
}

// block is repeated in large bodies: pseudo-random bytes, the same in every run.
var block = makeBlock()

func makeBlock() []byte {
	noise, state := make([]byte, 64<<10), uint64(0x9E3779B97F4A7C15)
	for i := range noise {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		noise[i] = byte(state >> 32)
	}
	return noise
}

// pattern compares a body with repeated blocks. A hash would be slower than the relays; the
// comparison is much cheaper and detects every difference.
type pattern struct {
	bytes int64
	wrong bool
}

func (p *pattern) take(run []byte) error {
	for len(run) > 0 {
		expected := block[p.bytes%int64(len(block)):]
		expected = expected[:atMost(int64(len(run)), len(expected))]
		if !bytes.Equal(run[:len(expected)], expected) {
			p.wrong = true
		}
		p.bytes += int64(len(expected))
		run = run[len(expected):]
	}
	return nil
}

// exact compares a body with the one expected text.
type exact struct {
	text string
	seen int
}

var errBody = errors.New("the body differs from what was sent")

func (e *exact) take(run []byte) error {
	if len(run) > len(e.text)-e.seen || string(run) != e.text[e.seen:e.seen+len(run)] {
		return errBody
	}
	e.seen += len(run)
	return nil
}

func (e *exact) whole() bool { return e.seen == len(e.text) }
