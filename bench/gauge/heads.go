package main

import (
	"fmt"
	"math/rand"
	"strings"
)

// The request headers of clients: the SDKs for Python and Node, curl, and a browser. Each has a
// trace ID and a request ID that are different in every request, as tracing libraries add them.
//
// In the templates, %s is the host, T is a digit of the trace context and R one of the request ID.
var clientHeads = []string{
	"Host: %s\r\n" +
		"Accept-Encoding: gzip, deflate\r\n" +
		"Connection: keep-alive\r\n" +
		"Accept: application/json\r\n" +
		"Content-Type: application/json\r\n" +
		"User-Agent: OpenAI/Python 1.99.1\r\n" +
		"X-Stainless-Lang: python\r\n" +
		"X-Stainless-Package-Version: 1.99.1\r\n" +
		"X-Stainless-OS: Linux\r\n" +
		"X-Stainless-Arch: x64\r\n" +
		"X-Stainless-Runtime: CPython\r\n" +
		"X-Stainless-Runtime-Version: 3.12.4\r\n" +
		"X-Stainless-Async: false\r\n" +
		"x-stainless-retry-count: 0\r\n" +
		"x-stainless-read-timeout: 600\r\n" +
		"Authorization: Bearer sk-bench\r\n",
	"Host: %s\r\n" +
		"Connection: keep-alive\r\n" +
		"accept: application/json\r\n" +
		"content-type: application/json\r\n" +
		"user-agent: OpenAI/JS 5.12.0\r\n" +
		"x-stainless-arch: x64\r\n" +
		"x-stainless-lang: js\r\n" +
		"x-stainless-os: Linux\r\n" +
		"x-stainless-package-version: 5.12.0\r\n" +
		"x-stainless-retry-count: 0\r\n" +
		"x-stainless-runtime: node\r\n" +
		"x-stainless-runtime-version: v22.4.0\r\n" +
		"x-stainless-timeout: 600\r\n" +
		"accept-language: *\r\n" +
		"sec-fetch-mode: cors\r\n" +
		"accept-encoding: gzip, deflate\r\n" +
		"authorization: Bearer sk-bench\r\n",
	"Host: %s\r\n" +
		"User-Agent: curl/8.5.0\r\n" +
		"Accept: */*\r\n" +
		"Content-Type: application/json\r\n" +
		"Authorization: Bearer sk-bench\r\n",
	"Host: %s\r\n" +
		"Connection: keep-alive\r\n" +
		"sec-ch-ua-platform: \"Linux\"\r\n" +
		"Authorization: Bearer sk-bench\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) " +
		"Chrome/131.0.0.0 Safari/537.36\r\n" +
		"sec-ch-ua: \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\n" +
		"Content-Type: application/json\r\n" +
		"sec-ch-ua-mobile: ?0\r\n" +
		"Accept: */*\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Accept-Language: en-GB,en;q=0.9\r\n",
}

const (
	traceField = "traceparent: 00-TTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTT-TTTTTTTTTTTTTTTT-01\r\n"
	idField    = "X-Request-Id: RRRRRRRR-RRRR-RRRR-RRRR-RRRRRRRRRRRR\r\n"
)

// letter is a complete request whose varying digits are written again for each use.
type letter struct {
	bytes  []byte
	digits []int // offsets of the digits of the trace and of the request ID
	unique int   // offset of the user's digits
	varied int   // the offset after the last digit that varies
}

// newLetter returns a question with the headers of one of the clients.
func newLetter(to target, client, number, size int) *letter {
	question, unique := questionText(number, size)
	ids := traceField + idField
	begin := "POST /v1/chat/completions HTTP/1.1\r\n" + fmt.Sprintf(clientHeads[client], to.host)
	head := fmt.Sprintf("%s%sContent-Length: %d\r\n\r\n", begin, ids, len(question))
	l := &letter{bytes: []byte(head + question), unique: len(head) + unique}
	l.varied = l.unique + uniqueDigits
	for i := 0; i < len(ids); i++ {
		if digit := ids[i]; strings.IndexByte("TR", digit) >= 0 && !strings.HasPrefix(ids[i:], "Request-Id") {
			l.digits = append(l.digits, len(begin)+i)
		}
	}
	return l
}

const hexDigits = "0123456789abcdef"

// vary writes new IDs, and the user's number. The bytes must not be in use before l.varied.
func (l *letter) vary(random *rand.Rand, user int64) {
	noise, left := uint64(0), 0
	for _, at := range l.digits {
		if left == 0 {
			noise, left = random.Uint64(), 16
		}
		l.bytes[at] = hexDigits[noise&15]
		noise, left = noise>>4, left-1
	}
	writeDigits(l.bytes[l.unique:l.varied], user)
}
