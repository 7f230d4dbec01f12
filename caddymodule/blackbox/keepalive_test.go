package blackbox_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const beating = "relay {\nkeepalive 50ms after 120ms\n}\n"

func TestKeepaliveWhileUpstreamThinks(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice+beating)
	quiet := simulator.Reply{FirstDelay: 400 * time.Millisecond}
	g.sim.Queue("sk-upstream-main", quiet)
	began := time.Now()
	a := g.say("claude-sonnet-5-5", true)
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Fatalf("the answer took %v", took)
	}
	text := string(a.body)
	comments := strings.Count(text, ": keepalive\n\n")
	// At 120 ms, then every 50: five or six before 400.
	if comments < 3 || comments > 7 {
		t.Errorf("%d comments", comments)
	}
	if !strings.HasPrefix(text, ": keepalive\n\n") || a.header.Get("Content-Type") != "text/event-stream; charset=utf-8" || a.header.Get("Request-Id") == "" {
		t.Errorf("%v %s", a.header, text)
	}
	if rest := strings.TrimLeft(text[strings.LastIndex(text, ": keepalive"):], ": kepaliv\n"); !strings.HasPrefix(rest, "t: message_start") && !strings.Contains(text, "event: message_start") {
		t.Errorf("no answer: %s", rest)
	}
	if got := names(readEvents(bytes.NewReader(a.body))); got[0] != ":" || got[1] != "message_start" || got[len(got)-1] != "message_stop" {
		t.Errorf("events %v", got)
	}

	// One that does not stream just waits.
	g.sim.Queue("sk-upstream-main", quiet)
	if a := g.say("claude-sonnet-5-5", false); a.status != 200 || a.body[0] != '{' {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestErrorsAfterKeepaliveAreEvents(t *testing.T) {
	for name, test := range map[string]struct {
		reply simulator.Reply
		kind  string
	}{
		"overloaded": {simulator.Reply{Status: 529, HeaderDelay: 250 * time.Millisecond}, "overloaded_error"},
		"refused":    {simulator.Reply{Status: 400, Message: "no such thing", HeaderDelay: 250 * time.Millisecond}, "invalid_request_error"},
		"timed out":  {fault(simulator.Hang, simulator.BeforeHeader), "timeout_error"},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, mainAccount+alice+"relay {\nkeepalive 50ms after 120ms\nheader_timeout 400ms\n}\n")
			g.sim.Queue("sk-upstream-main", test.reply)
			a := g.say("claude-sonnet-5-5", true)
			events := readEvents(bytes.NewReader(a.body))
			if got := names(events); a.status != 200 || !cmp.Equal(got, []string{":", "error"}) {
				t.Fatalf("%d %s", a.status, a.body)
			}
			last := events[len(events)-1]
			wantEnvelope(t, []byte(last.Data), test.kind, a.header.Get("Request-Id"))
			if test.reply.Message != "" && !strings.Contains(last.Data, test.reply.Message) {
				t.Errorf("upstream's words are missing: %s", last.Data)
			}
		})
	}
}

func TestKeepaliveInLine(t *testing.T) {
	g := serve(t, simulator.Config{}, alice+beating+`
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		concurrency 1
	}`)
	release := g.hold("claude-sonnet-5-5")
	waiting := make(chan answer)
	go func() { waiting <- g.say("claude-sonnet-5-5", true) }()
	time.Sleep(300 * time.Millisecond)
	release()
	a := <-waiting
	if got := names(readEvents(bytes.NewReader(a.body))); a.status != 200 || got[0] != ":" || got[len(got)-1] != "message_stop" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestKeepaliveNeverSplitsAnEvent has upstream pause in the midst of a line,
// where a comment would become part of the event. Until the content has begun,
// nothing has gone out that could be split.
func TestKeepaliveNeverSplitsAnEvent(t *testing.T) {
	g := serve(t, simulator.Config{}, mainAccount+alice+beating)
	g.sim.Queue("sk-upstream-main", spoken)
	whole := g.say("claude-sonnet-5-5", true).body
	begun := bytes.Index(whole, []byte("event: content_block_delta"))
	begun += bytes.Index(whole[begun:], []byte("\n\n")) + 2
	for _, test := range []struct {
		from  int    // where in the stream the text is looked for
		cut   string // upstream pauses after this text
		quiet bool   // no comment may come
	}{
		{begun, "event: content_block_delta", true},
		{begun, "event: content_block_delta\n", true},
		{begun, `"text_delta","text":"wo`, true},
		{begun, "event: content_block_delta\ndata: {", true},
		{begun, "word \"}}\n", true},
		{begun, "word \"}}\n\n", false},
		{begun, "event: message_delta\n", true},
		{begun, "event: message_stop\n", true},
		{0, "event: message_st", false},
		{0, "event: content_block_start\n", false},
		{0, "data: {\"type\":\"ping\"}\n", false},
		{0, "data: {\"type\":\"ping\"}\n\n", false},
		{0, "event: content_block_delta\ndata: {", false},
	} {
		at := bytes.Index(whole[test.from:], []byte(test.cut))
		if at < 0 {
			t.Fatalf("%q is not in %s", test.cut, whole)
		}
		at += test.from + len(test.cut)
		g.sim.Queue("sk-upstream-main", simulator.Reply{Body: whole, Pieces: []int{at, len(whole)}, Pause: 300 * time.Millisecond})
		got := g.say("claude-sonnet-5-5", true).body
		if comments := bytes.Count(got, []byte(": keepalive\n\n")); (comments == 0) != test.quiet {
			t.Errorf("%q: %d comments", test.cut, comments)
		}
		if got = bytes.ReplaceAll(got, []byte(": keepalive\n\n"), nil); !bytes.Equal(got, whole) {
			t.Errorf("%q: %s", test.cut, got)
		}
	}
}
