package sse

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type event struct {
	Name, Data string
	Len        int
}

// scan reads a stream in the pieces that cut gives, keeping all data.
func scan(stream []byte, cut func(rest int) int) (events []event) {
	var s Scanner
	take := func(step Step) {
		switch step {
		case Begin:
			s.Keep(1 << 30)
		case End:
			events = append(events, event{string(s.Name()), string(s.Data()), s.DataLen()})
		}
	}
	for len(stream) > 0 {
		piece := stream[:cut(len(stream))]
		stream = stream[len(piece):]
		for {
			if data, rest, ok := s.Whole(piece, "a"); ok {
				events = append(events, event{"a", string(data), len(data)})
				piece = rest
				continue
			}
			n, step := s.Next(piece)
			piece = piece[n:]
			if step == More {
				break
			}
			take(step)
		}
	}
	take(s.Finish())
	return events
}

func whole(rest int) int { return rest }

// parts reads a stream in the pieces that cut gives, by the parts of the data alone.
func parts(stream []byte, cut func(rest int) int) (events []string) {
	var s Scanner
	var data []byte
	for len(stream) > 0 {
		piece := stream[:cut(len(stream))]
		stream = stream[len(piece):]
		for step := Begin; step != More; {
			var n int
			n, step = s.Next(piece)
			piece = piece[n:]
			switch step {
			case Begin:
				s.Parts()
			case Part:
				data = append(data, s.Part()...)
			case End:
				events, data = append(events, string(data)), nil
			}
		}
	}
	if s.Finish() == End {
		events = append(events, string(data))
	}
	return events
}

func TestEvents(t *testing.T) {
	for _, test := range []struct {
		name, stream string
		want         []event
	}{
		{"one event", "event: ping\ndata: {}\n\n", []event{{"ping", "{}", 2}}},
		{"two events", "event: a\ndata: 1\n\nevent: b\ndata: 2\n\n", []event{{"a", "1", 1}, {"b", "2", 1}}},
		{"no blank after the colon", "event:a\ndata:1\n\n", []event{{"a", "1", 1}}},
		{"only one blank goes", "data:  1\n\n", []event{{"", " 1", 2}}},
		{"CR LF", "event: a\r\ndata: 1\r\n\r\n", []event{{"a", "1", 1}}},
		{"CR alone", "event: a\rdata: 1\r\r", []event{{"a", "1", 1}}},
		{"no name", "data: 1\n\n", []event{{"", "1", 1}}},
		{"name after data", "data: 1\nevent: a\n\n", []event{{"a", "1", 1}}},
		{"the last name counts", "event: a\nevent: b\ndata: 1\n\n", []event{{"b", "1", 1}}},
		{"several lines of data", "data: 1\ndata: 2\n\n", []event{{"", "1\n2", 3}}},
		{"an empty line of data", "data\ndata: 2\n\n", []event{{"", "\n2", 2}}},
		{"comments and other fields", ": hi\nid: 7\nretry: 1\ndatax: no\nevent: a\n: hi\ndata: 1\n\n", []event{{"a", "1", 1}}},
		{"comments alone are no event", ": hi\n\n: hi\n\n", nil},
		{"blank lines are no event", "\n\n\r\n\n", nil},
		{"no blank line at the end", "event: a\ndata: 1", []event{{"a", "1", 1}}},
		{"a name and nothing else", "event: a\n\ndata: 1\n\n", []event{{"a", "", 0}, {"", "1", 1}}},
		{"a very long name is cut", "event: " + strings.Repeat("x", 100) + "\ndata: 1\n\n", []event{{strings.Repeat("x", maxName), "1", 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, scan([]byte(test.stream), whole)); diff != "" {
				t.Errorf("read at once (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, scan([]byte(test.stream), func(int) int { return 1 })); diff != "" {
				t.Errorf("read byte by byte (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTheRestOfABlankLine: the LF of a CR LF, whether it comes at once or later, and
// no other.
func TestTheRestOfABlankLine(t *testing.T) {
	for _, test := range []struct {
		event string
		next  []string
		want  int
	}{
		{"data: 1\r\n\r", []string{"\n\n"}, 1},
		{"data: 1\r\n\r", []string{"", "\n"}, 1},
		{"data: 1\r\n\r", []string{"\n", "\n"}, 1},
		{"data: 1\r\n\r", []string{"x", "\n"}, 0},
		{"data: 1\r\r", []string{"data"}, 0},
		{"data: 1\n\n", []string{"\n"}, 0},
	} {
		var s Scanner
		for p, step := []byte(test.event), More; step != End; {
			var n int
			n, step = s.Next(p)
			p = p[n:]
		}
		got := 0
		for _, p := range test.next {
			got += s.RestOfEnd([]byte(p))
		}
		if got != test.want {
			t.Errorf("%q, then %q: %d, want %d", test.event, test.next, got, test.want)
		}
	}
}

func TestBoundaries(t *testing.T) {
	stream := []byte("event: a\ndata: 1\n\n: hi\n\ndata: 2\n\n")
	between := map[int]bool{0: true, 18: true, 23: true, 24: true, len(stream): true}
	var s Scanner
	if !s.AtBoundary() {
		t.Error("the beginning is no boundary")
	}
	for i := range stream {
		for {
			n, step := s.Next(stream[i : i+1])
			if step == More || n == 1 {
				break
			}
		}
		if got := s.AtBoundary(); got != between[i+1] {
			t.Errorf("after %q: AtBoundary is %v", stream[:i+1], got)
		}
	}
}

func TestKeepBoundsMemory(t *testing.T) {
	var s Scanner
	const size = 40 << 20
	piece := bytes.Repeat([]byte("x"), 32<<10)
	feed := func(p []byte) Step {
		for {
			n, step := s.Next(p)
			p = p[n:]
			if step != Begin {
				return step
			}
			s.Keep(100)
		}
	}
	feed([]byte("event: huge\ndata: "))
	if allocs := testing.AllocsPerRun(10, func() {
		for range size / len(piece) / 10 {
			feed(piece)
		}
	}); allocs > 1 {
		t.Errorf("a line of %d MiB allocates %v times per 4 MiB", size>>20, allocs)
	}
	if step := feed([]byte("\n\n")); step != End {
		t.Fatalf("the step at the end is %v", step)
	}
	if s.DataLen() < size || len(s.Data()) != 100 {
		t.Errorf("DataLen %d, kept %d", s.DataLen(), len(s.Data()))
	}
}

// FuzzSplits holds that the pieces a stream comes in change nothing.
func FuzzSplits(f *testing.F) {
	f.Add([]byte("event: a\r\ndata: 1\n\ndata:2\r\rdata\n\n: c\nevent: b\ndata: 3"), uint64(1))
	f.Add([]byte("data: \n\n\n\revent:\ndata\r\n"), uint64(77))
	f.Add([]byte("event: a\ndata: 1\n\nevent: a\ndata: 2\ndata: 3\n\nevent: a\ndata:  4\r\n\n"), uint64(5))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		random := func(rest int) int {
			seed = seed*6364136223846793005 + 1442695040888963407
			return 1 + int(seed>>33)%min(rest, 7)
		}
		want := scan(stream, whole)
		if diff := cmp.Diff(want, scan(stream, func(int) int { return 1 })); diff != "" {
			t.Errorf("byte by byte (-whole +bytes):\n%s", diff)
		}
		if diff := cmp.Diff(want, scan(stream, random)); diff != "" {
			t.Errorf("in random pieces (-whole +pieces):\n%s", diff)
		}
		var withoutLF []string
		for _, e := range want {
			withoutLF = append(withoutLF, strings.ReplaceAll(e.Data, "\n", ""))
		}
		for _, cut := range []func(int) int{whole, random, func(int) int { return 1 }} {
			if diff := cmp.Diff(withoutLF, parts(stream, cut)); diff != "" {
				t.Errorf("by its parts (-whole +parts):\n%s", diff)
			}
		}
		if diff := cmp.Diff(reference(string(stream)), want); diff != "" {
			t.Errorf("against the plain reading (-plain +scanner):\n%s", diff)
		}
	})
}

// reference reads a stream as the specification says it, a line at a time.
func reference(stream string) (events []event) {
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(stream, "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	var name string
	var data []string
	end := func() {
		if name != "" || data != nil {
			text := strings.Join(data, "\n")
			events = append(events, event{name, text, len(text)})
		}
		name, data = "", nil
	}
	for i, line := range lines {
		if line == "" {
			end()
			continue
		}
		field, value, colon := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		unfinished := i == len(lines)-1 && !strings.HasSuffix(stream, "\n")
		switch {
		case field == "event" && colon:
			name = value[:min(len(value), maxName)]
		case field == "data" && (colon && (value != "" || !unfinished || strings.HasSuffix(line, " ")) || !colon && !unfinished):
			data = append(data, value)
		}
	}
	end()
	return events
}

func BenchmarkScanner(b *testing.B) {
	var stream []byte
	for i := range 200 {
		stream = fmt.Appendf(stream, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word %d\"}}\n\n", i)
	}
	var s Scanner
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		for p := stream; len(p) > 0; {
			n, _ := s.Next(p)
			p = p[n:]
		}
	}
}
