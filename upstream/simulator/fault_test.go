package simulator_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	streamBody   = `{"model":"claude-opus-5-5","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}]}`
	documentBody = `{"model":"claude-opus-5-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`
)

func post(ctx context.Context, sim *simulator.Server, client *http.Client, credential, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, sim.URL+"/v1/messages?beta=true", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Api-Key", credential)
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Accept-Encoding", "identity")
	return client.Do(r)
}

// names are the types of the events in a stream, by their data.
func names(stream []byte) []string {
	var out []string
	lines := bufio.NewScanner(bytes.NewReader(stream))
	lines.Buffer(nil, 1<<30)
	for lines.Scan() {
		if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:")); ok {
			out = append(out, gjson.GetBytes(data, "type").String())
		}
	}
	return out
}

func TestFaultsOfAStream(t *testing.T) {
	three := []string{"message_start", "content_block_start", "ping"}
	for name, test := range map[string]struct {
		fault  simulator.Fault
		header bool  // a header came
		err    error // of the body, or of the request where no header came
		events []string
	}{
		"cut before the header":   {simulator.Fault{Kind: simulator.Cut, After: simulator.BeforeHeader}, false, io.EOF, nil},
		"reset before the header": {simulator.Fault{Kind: simulator.Reset, After: simulator.BeforeHeader}, false, syscall.ECONNRESET, nil},
		"cut after the header":    {simulator.Fault{Kind: simulator.Cut}, true, io.ErrUnexpectedEOF, nil},
		"cut":                     {simulator.Fault{Kind: simulator.Cut, After: 3}, true, io.ErrUnexpectedEOF, three},
		"reset":                   {simulator.Fault{Kind: simulator.Reset, After: 3}, true, syscall.ECONNRESET, three},
		"cut in mid-event":        {simulator.Fault{Kind: simulator.Cut, After: 3, Bytes: 20}, true, io.ErrUnexpectedEOF, three},
		"truncate":                {simulator.Fault{Kind: simulator.Truncate, After: 3}, true, nil, three},
		"first an error":          {simulator.Fault{Kind: simulator.ErrorEvent}, true, nil, []string{"error"}},
		"error later":             {simulator.Fault{Kind: simulator.ErrorEvent, After: 3}, true, nil, append(three[:3:3], "error")},
	} {
		t.Run(name, func(t *testing.T) {
			sim := start(t, simulator.Config{})
			sim.Queue("a", simulator.Reply{Fault: test.fault})
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			response, err := post(t.Context(), sim, client, "a", streamBody)
			if (err == nil) != test.header {
				t.Fatalf("header: %v", err)
			}
			var body []byte
			if err == nil {
				body, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			if !errors.Is(err, test.err) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.events, names(body)); diff != "" {
				t.Error(diff)
			}
			if bytes.Contains(body, []byte("event: content_blo")) != (test.fault.Bytes > 0 || len(test.events) > 2) {
				t.Errorf("body %q", body)
			}
			r := sim.Requests()[0]
			if r.Pieces != int64(len(test.events)) || r.Bytes != int64(len(body)) || r.Done.IsZero() || !r.Disconnected.IsZero() {
				t.Errorf("recorded %+v for a body of %d bytes", r, len(body))
			}
			if test.header != (r.Status == 200) {
				t.Errorf("status %d recorded", r.Status)
			}
		})
	}
}

// Silence, pings and endless streams last until the client leaves; time is the
// bubble's.
func TestEndlessFaultsLastUntilTheClientLeaves(t *testing.T) {
	for name, test := range map[string]struct {
		reply simulator.Reply
		lines string // that came in an hour
	}{
		"hang before the header": {simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: simulator.BeforeHeader}}, ""},
		"hang":                   {simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: 2}}, "content_block_start"},
		"pings":                  {simulator.Reply{Pause: time.Minute, Fault: simulator.Fault{Kind: simulator.Pings}}, "ping"},
		"endless":                {simulator.Reply{Pause: time.Minute, Fault: simulator.Fault{Kind: simulator.Endless, After: 2}}, "content_block_delta"},
		"hang after the end":     {simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: 1000}}, "message_stop"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := start(t, simulator.Config{Memory: true})
				sim.Set("a", simulator.Always(test.reply))
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				response, err := post(ctx, sim, sim.Client(), "a", streamBody)
				var body []byte
				if err == nil {
					body, err = io.ReadAll(response.Body)
				}
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Hour {
					t.Errorf("ended after %v with %v", time.Since(began), err)
				}
				synctest.Wait()
				if got := names(body); test.lines != "" && got[len(got)-1] != test.lines || test.lines == "" && got != nil {
					t.Errorf("events %q", got)
				}
				if r := sim.Requests()[0]; r.Disconnected.Sub(began) != time.Hour {
					t.Errorf("seen to leave after %v", r.Disconnected.Sub(began))
				}
				if a := sim.Account("a"); a.InFlight != 0 || a.MaxInFlight != 1 {
					t.Errorf("account %+v", a)
				}
			})
		})
	}
}

func TestCloseEndsHungRequests(t *testing.T) {
	sim := start(t, simulator.Config{})
	sim.Set("", simulator.Always(simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: 1}}))
	response, err := post(t.Context(), sim, sim.Client(), "a", streamBody)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := sim.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("the hung answer ended well")
	}
	if r := sim.Requests()[0]; !r.Disconnected.IsZero() || r.Done.IsZero() {
		t.Errorf("Close is taken for the client's leaving: %+v", r)
	}
	_, err = net.Dial("tcp", strings.TrimPrefix(sim.URL, "http://"))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed server gives %v", err)
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := start(t, simulator.Config{Memory: true})
		sim.Queue("a", simulator.Reply{
			HeaderDelay: time.Minute, FirstDelay: time.Hour, Pause: time.Second,
			Events: []simulator.Event{{Name: "ping", Data: `{"type":"ping"}`}, {Name: "ping", Data: `{"type":"ping"}`, Pause: 9 * time.Second}},
		})
		began := time.Now()
		response, err := post(t.Context(), sim, sim.Client(), "a", streamBody)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if got := time.Since(began); got != time.Minute {
			t.Errorf("header after %v", got)
		}
		if _, err := response.Body.Read(make([]byte, 1)); err != nil || time.Since(began) != time.Minute+time.Hour {
			t.Errorf("first byte after %v, %v", time.Since(began), err)
		}
		if _, err := io.ReadAll(response.Body); err != nil || time.Since(began) != time.Minute+time.Hour+10*time.Second {
			t.Errorf("end after %v, %v", time.Since(began), err)
		}
	})
}

func TestHugeLine(t *testing.T) {
	sim := start(t, simulator.Config{})
	sim.Queue("a", simulator.Reply{Text: "after", Fault: simulator.Fault{Kind: simulator.HugeLine, After: 3, Size: 10 << 20}})
	body := read(t, sim, "a", streamBody)
	longest := 0
	for line := range bytes.Lines(body) {
		longest = max(longest, len(line))
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && !gjson.ValidBytes(data) {
			t.Error("a line isn't JSON")
		}
	}
	if longest < 10<<20 || longest > 10<<20+1000 {
		t.Errorf("longest line %d bytes", longest)
	}
	all := names(body)
	if r := sim.Requests()[0]; r.Pieces != int64(len(all)) || r.Bytes != int64(len(body)) || all[len(all)-1] != "message_stop" {
		t.Errorf("events %q, recorded %d pieces, %d bytes of %d", all, r.Pieces, r.Bytes, len(body))
	}
}

func read(t *testing.T, sim *simulator.Server, credential, body string) []byte {
	t.Helper()
	response, err := post(t.Context(), sim, sim.Client(), credential, body)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	out, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFraming(t *testing.T) {
	sim := start(t, simulator.Config{})
	usual := names(read(t, sim, "a", streamBody))
	for name, framing := range map[string]simulator.Framing{
		"data only": {DataOnly: true}, "crlf": {CRLF: true}, "odd": {Odd: true}, "unterminated": {Unterminated: true},
		"all": {DataOnly: true, CRLF: true, Odd: true, Unterminated: true},
	} {
		sim.Queue("a", simulator.Reply{Framing: framing})
		body := read(t, sim, "a", streamBody)
		if diff := cmp.Diff(usual, names(body)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := bytes.Contains(body, []byte("event:")); got == framing.DataOnly {
			t.Errorf("%s: event: lines %v", name, got)
		}
		if got := bytes.Count(body, []byte("\r\n")); framing.CRLF != (got == bytes.Count(body, []byte("\n"))) {
			t.Errorf("%s: %d CRLF", name, got)
		}
		if got := bytes.HasSuffix(bytes.ReplaceAll(body, []byte("\r"), nil), []byte("\n\n")); got == framing.Unterminated {
			t.Errorf("%s: terminated %v", name, got)
		}
	}
	sim.Queue("a", simulator.Reply{Framing: simulator.Framing{Odd: true, CRLF: true}})
	if _, err := stream(t, sdk(sim), ask("hi")); err != nil {
		t.Errorf("odd framing breaks a client: %v", err)
	}
}

func TestGzipComesUnasked(t *testing.T) {
	sim := start(t, simulator.Config{})
	for _, body := range []string{streamBody, documentBody} {
		want := read(t, sim, "a", body)
		sim.Queue("a", simulator.Reply{Gzip: true})
		response, err := post(t.Context(), sim, sim.Client(), "a", body)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if got := response.Header.Get("Content-Encoding"); got != "gzip" {
			t.Fatalf("content-encoding %q", got)
		}
		zip, err := gzip.NewReader(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(zip)
		if err != nil || len(got) != len(want) {
			t.Errorf("%d bytes, want %d; %v", len(got), len(want), err)
		}
	}
}

func TestTranscriptIsReplayedByteForByte(t *testing.T) {
	sim := start(t, simulator.Config{})
	transcript := []byte("event: ping\ndata: {\"type\": \"ping\"}   \n\nevent: odd\ndata: not terminated")
	for _, pieces := range [][]int{nil, {1}, {5, 0, 1, 20}, {1000}} {
		sim.Queue("a", simulator.Reply{Body: transcript, Pieces: pieces})
		if got := read(t, sim, "a", streamBody); !bytes.Equal(got, transcript) {
			t.Errorf("in pieces of %v: %q", pieces, got)
		}
	}
	if got := sim.Requests()[1].Pieces; got != int64(len(transcript)) {
		t.Errorf("%d pieces of one byte each, want %d", got, len(transcript))
	}
	plain := read(t, sim, "a", streamBody)
	sim.Queue("a", simulator.Reply{Pieces: []int{7}})
	if got := len(read(t, sim, "a", streamBody)); got != len(plain) {
		t.Errorf("cut again: %d bytes, want %d", got, len(plain))
	}
	requests := sim.Requests()
	if a, b := requests[4], requests[5]; a.OutputTokens != b.OutputTokens || b.Pieces != (b.Bytes+6)/7 {
		t.Errorf("cut again: recorded %+v, before %+v", b, a)
	}
}

func TestUsageIsReportedAsScripted(t *testing.T) {
	sim := start(t, simulator.Config{})
	usage := upstream.Usage{
		Input: 612, Output: 2819, CacheWrite5m: 10, CacheWrite1h: 20, CacheRead: 3000, WebSearches: 2,
		Speed: "fast", Tier: "priority", Geo: "us",
		Iterations: []upstream.Iteration{{Input: 60385, Output: 522}, {Model: "claude-opus-5-5", Input: 612, Output: 2819, CacheWrite1h: 20}},
	}
	reply := simulator.Reply{Usage: &usage, StartUsage: &upstream.Usage{Input: 43, Output: 3}}
	sim.Set("a", simulator.Always(reply))
	document := gjson.GetBytes(read(t, sim, "a", documentBody), "usage").Raw
	want := `{"input_tokens":612,"cache_creation_input_tokens":30,"cache_read_input_tokens":3000,` +
		`"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":2819,` +
		`"service_tier":"priority","inference_geo":"us","speed":"fast","server_tool_use":{"web_search_requests":2,"web_fetch_requests":0},` +
		`"iterations":[{"type":"compaction","model":null,"input_tokens":60385,"output_tokens":522,"cache_read_input_tokens":0,` +
		`"cache_creation_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},` +
		`{"type":"message","model":"claude-opus-5-5","input_tokens":612,"output_tokens":2819,"cache_read_input_tokens":0,` +
		`"cache_creation_input_tokens":20,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":20}}]}`
	if diff := cmp.Diff(want, document); diff != "" {
		t.Error(diff)
	}
	var first, last string
	for line := range bytes.Lines(read(t, sim, "a", streamBody)) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			if u := gjson.GetBytes(data, "message.usage"); u.Exists() {
				first = u.Raw
			}
			if u := gjson.GetBytes(data, "usage"); u.Exists() {
				last = u.Raw
			}
		}
	}
	if gjson.Get(first, "input_tokens").Int() != 43 || gjson.Get(first, "speed").Exists() {
		t.Errorf("message_start has %s", first)
	}
	if gjson.Get(last, "output_tokens").Int() != 2819 || gjson.Get(last, "iterations.#").Int() != 2 || gjson.Get(last, "speed").Exists() {
		t.Errorf("message_delta has %s", last)
	}
}

func TestFixedSaysWhatWouldBeSaid(t *testing.T) {
	sim := start(t, simulator.Config{})
	for _, body := range []string{streamBody, documentBody} {
		reply := simulator.Reply{Deltas: 7}
		sim.Queue("a", reply, simulator.Fixed(reply, []byte(body)))
		want, got := read(t, sim, "a", body), read(t, sim, "a", body)
		if len(got) != len(want) || bytes.Count(got, []byte("word ")) != bytes.Count(want, []byte("word ")) {
			t.Errorf("fixed: %s, else %s", got, want)
		}
	}
}
