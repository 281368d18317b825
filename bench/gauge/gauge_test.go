package main

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPercentilesAreWithinAThousandth(t *testing.T) {
	h := &histogram{}
	for i := int64(1); i <= 100_000; i++ {
		h.add(i * 1000)
	}
	for share, expected := range map[float64]float64{0.5: 50_000, 0.99: 99_000, 0.999: 99_900} {
		if found := h.micros(share); math.Abs(found/expected-1) > 0.001 {
			t.Errorf("%g: %g instead of %g", share, found, expected)
		}
	}
}

func TestNoPercentileExceedsTheMaximum(t *testing.T) {
	h := &histogram{}
	h.add(1 << 20) // the lowest value of its cell
	if found := h.micros(0.999); found != 1048.6 {
		t.Errorf("%g", found)
	}
}

func TestQuestionsAndAnswersHaveTheirSizesAndAreJSON(t *testing.T) {
	for _, size := range []int{500, 4_000, 200_000} {
		question, unique := questionText(7, size)
		if len(question) != size || question[unique:unique+uniqueDigits] != strings.Repeat("0", uniqueDigits) {
			t.Errorf("question of %d bytes instead of %d", len(question), size)
		}
		answer := answerText(7, size)
		if len(answer) != size || answer == answerText(8, size) {
			t.Errorf("answer of %d bytes instead of %d", len(answer), size)
		}
		if !json.Valid([]byte(question)) || !json.Valid([]byte(answer)) {
			t.Error("invalid JSON")
		}
		if string(valueOf([]byte(question), `"answer":`)) != "7" {
			t.Error("the upstream does not find the number of the answer")
		}
	}
}

func TestLetterVariesItsIDsAndItsUserOnly(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for client := range clientHeads {
		l := newLetter(target{host: "127.0.0.1:80"}, client, 3, 1000)
		l.vary(random, 0)
		first := append([]byte(nil), l.bytes...)
		if bytes.ContainsAny(first[:len(first)-1000], "\x00") || bytes.Contains(first, []byte("TTTT")) {
			t.Error("a digit was not written")
		}
		if !bytes.Contains(first, []byte("X-Request-Id: ")) || !bytes.Contains(first, []byte("traceparent: 00-")) {
			t.Error("a header is missing")
		}
		l.vary(random, 5)
		if bytes.Equal(first, l.bytes) || !bytes.Equal(first[l.varied:], l.bytes[l.varied:]) {
			t.Error("other bytes differ than those before the offset")
		}
	}
}

func TestSizesAreReadFromLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sizes")
	if err := os.WriteFile(path, []byte("300 500\n4000 20\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sizes, err := readSizes(path)
	if err != nil || len(sizes) != 2 || sizes[1] != (exchangeSize{4000, 20}) {
		t.Errorf("%v, %v", sizes, err)
	}
}

func TestStepHasGrownIfItsPercentileIsAMultipleOrAnswersAreMissing(t *testing.T) {
	step := func(micros int64, count, due int) *openStep {
		s := &openStep{latency: &histogram{}, due: due}
		for i := 0; i < count; i++ {
			s.latency.add(micros * 1000)
		}
		return s
	}
	first := step(100, 100, 100)
	for _, example := range []struct {
		step  *openStep
		grown bool
	}{
		{step(190, 100, 100), false},
		{step(210, 100, 100), true},
		{step(100, 90, 100), true},
	} {
		if example.step.grown(first, 2) != example.grown {
			t.Errorf("%+v", example)
		}
	}
}

func TestOpenQuestionHasItsHoldAndItsKind(t *testing.T) {
	l := &openLoop{random: rand.New(rand.NewSource(1))}
	for i := 0; i < 100; i++ {
		text := []byte(l.question(i%2 == 0))
		if !json.Valid(text) {
			t.Fatalf("invalid JSON: %s", text)
		}
		hold := readDigits(valueOf(text, `"hold_us":`))
		if hold < shortestHold.Microseconds()-1 || hold > longestHold.Microseconds() {
			t.Errorf("held for %d us", hold)
		}
		if streaming := string(valueOf(text, `"stream":`)) == "true"; streaming != (i%2 == 0) {
			t.Errorf("the wrong kind: %s", text)
		}
	}
}
