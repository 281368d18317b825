package main

import (
	"fmt"
	"os"
	"strings"
)

// Mixed traffic has numbered questions of different sizes. The answer to each has a size of its
// own, too. bench/sizes.py draws the sizes, because both ends must have the same ones.

// exchangeSize is the length of a question and of its answer in bytes.
type exchangeSize struct{ question, answer int }

// readSizes reads a file with one question a line: its length, and that of the answer.
func readSizes(path string) ([]exchangeSize, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var sizes []exchangeSize
	for number, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var size exchangeSize
		if _, err := fmt.Sscanf(line, "%d %d", &size.question, &size.answer); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, number+1, err)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

const uniqueDigits = 19

// The upstream finds the number of the answer at the beginning of the question. The user is
// different in each question that must not be answered from a cache.
const (
	questionHead = `{"model":"gpt-4.1","stream":false,"answer":%d,"user":"`
	questionTail = `","temperature":0.2,"messages":[{"role":"user","content":"%s"}]}`
	answerHead   = `{"id":"chatcmpl-%07d","object":"chat.completion","created":1741569952,` +
		`"model":"gpt-4.1-2025-04-14","choices":[{"index":0,"message":{"role":"assistant",` +
		`"content":"`
	answerTail = `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":19,` +
		`"completion_tokens":10,"total_tokens":29}}`
)

// questionText returns a question, and the offset of the digits of its user.
func questionText(number, size int) (text string, unique int) {
	head := fmt.Sprintf(questionHead, number)
	rest := size - len(head) - uniqueDigits - len(questionTail) + len("%s")
	tail := fmt.Sprintf(questionTail, prose(number, rest))
	return head + strings.Repeat("0", uniqueDigits) + tail, len(head)
}

func answerText(number, size int) string {
	head := fmt.Sprintf(answerHead, number)
	return head + prose(number, size-len(head)-len(answerTail)) + answerTail
}

const letters = "abcdefghijklmnopqrstuvwxyz      "

// prose returns letters and spaces that differ from number to number.
func prose(number, length int) string {
	if length <= 0 {
		return ""
	}
	text := make([]byte, length)
	for i := range text {
		text[i] = letters[int(block[(number*977+i)%len(block)])%len(letters)]
	}
	return string(text)
}
