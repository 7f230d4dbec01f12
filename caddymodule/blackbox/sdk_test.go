package blackbox_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// sdk is one of the official clients, as far as the tests use it. It doesn't
// retry.
type sdk interface {
	// say sends a talk and returns the answer; stream does so event by event,
	// telling each of the type of every one.
	say(ctx context.Context, t talk) (reply, error)
	stream(ctx context.Context, t talk, each func(event string)) (reply, error)
	count(ctx context.Context, t talk) (int64, error)
	models(ctx context.Context, limit int64) ([]string, error)
	model(ctx context.Context, id string) (string, error)
	// failure tells what an error of the above is.
	failure(err error) (status int, kind, requestID string)
}

// talk is a conversation so far. turns are the SDK's own messages.
type talk struct {
	model          string
	tool, thinking bool
	turns          any
}

// reply is an answer. then goes on with the conversation: with a result where
// the answer calls a tool.
type reply struct {
	said    []said
	stop    string
	in, out int64
	then    func(text string) talk
}

type said struct{ Type, Text, Thinking, Signature, Name, Input string }

func (r reply) kinds() (kinds []string) {
	for _, s := range r.said {
		kinds = append(kinds, s.Type)
	}
	return kinds
}

// sdkClients are the clients by name: key as x-api-key and as bearer.
var sdkClients = map[string]func(url, key string) (client sdk, begin func(text string) talk){
	"go v1, x-api-key": openV1(false),
	"go v1, bearer":    openV1(true),
	"go v2, x-api-key": openV2(false),
	"go v2, bearer":    openV2(true),
}

func TestSDKs(t *testing.T) {
	for name, open := range sdkClients {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{CheckThinking: true}, mainAccount+alice)
			client, begin := open(g.url, aliceKey)
			t.Run("answers", func(t *testing.T) { sdkAnswers(t, client, begin) })
			t.Run("tools", func(t *testing.T) { sdkTools(t, g, client, begin) })
			t.Run("thinking", func(t *testing.T) { sdkThinking(t, g, client, begin) })
			t.Run("counts and models", func(t *testing.T) { sdkCountsAndModels(t, client, begin) })
			t.Run("abort", func(t *testing.T) { sdkAborts(t, g, client, begin) })
			t.Run("errors", func(t *testing.T) {
				stranger, _ := open(g.url, "sk-nobody")
				_, err := stranger.say(t.Context(), begin("hi"))
				wantFailure(t, stranger, err, 401, "authentication_error")
				sdkErrors(t, g, client, begin)
			})
		})
	}
}

func sdkAnswers(t *testing.T, client sdk, begin func(string) talk) {
	talk := begin("héllo, wörld 🌧, how are you today?")
	whole, err := client.say(t.Context(), talk)
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	streamed, err := client.stream(t.Context(), talk, func(event string) { events = append(events, event) })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole.said, streamed.said); diff != "" || len(whole.said) != 1 {
		t.Errorf("stream and document differ: %s", diff)
	}
	if whole.stop != "end_turn" || streamed.stop != "end_turn" || whole.in == 0 || whole.in != streamed.in || whole.out == 0 || whole.out != streamed.out {
		t.Errorf("document %+v, stream %+v", whole, streamed)
	}
	want := []string{"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
	if diff := cmp.Diff(want, slices.Compact(events)); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

func sdkTools(t *testing.T, g *gateway, client sdk, begin func(string) talk) {
	talk := begin("USE_TOOL, please")
	talk.tool = true
	whole, err := client.say(t.Context(), talk)
	if err != nil {
		t.Fatal(err)
	}
	streamed, err := client.stream(t.Context(), talk, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []reply{whole, streamed} {
		last := r.said[len(r.said)-1]
		if r.stop != "tool_use" || last.Type != "tool_use" || last.Name != "get_weather" || last.Input == "" {
			t.Fatalf("%+v", r)
		}
		talk := r.then("17° \"there\" 🌦")
		talk.tool = true
		if r, err = client.say(t.Context(), talk); err != nil || r.stop != "end_turn" {
			t.Errorf("after the tool's result: %+v, %v", r, err)
		}
		if body := string(g.last().Body); !strings.Contains(body, `"tool_result"`) || !strings.Contains(body, "🌦") {
			t.Errorf("upstream got %s", body)
		}
	}
}

func sdkThinking(t *testing.T, g *gateway, client sdk, begin func(string) talk) {
	talk := begin("think")
	talk.thinking = true
	whole, err := client.say(t.Context(), talk)
	if err != nil {
		t.Fatal(err)
	}
	streamed, err := client.stream(t.Context(), talk, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []reply{whole, streamed} {
		if diff := cmp.Diff([]string{"thinking", "text"}, r.kinds()); diff != "" {
			t.Fatal(diff)
		}
		// The upstream checks the signature: an altered block is a 400, and a
		// second request without it.
		before := len(g.sim.Requests())
		talk := r.then("go on")
		talk.thinking = true
		if _, err := client.stream(t.Context(), talk, func(string) {}); err != nil {
			t.Errorf("the next turn: %v", err)
		}
		if sent := g.sim.Requests()[before:]; len(sent) != 1 || !strings.Contains(string(sent[0].Body), r.said[0].Signature) {
			t.Errorf("the thinking did not come back as it was: %d requests", len(sent))
		}
	}
}

func sdkCountsAndModels(t *testing.T, client sdk, begin func(string) talk) {
	if n, err := client.count(t.Context(), begin("how many?")); err != nil || n < 5 {
		t.Errorf("count_tokens: %d, %v", n, err)
	}
	all, err := client.models(t.Context(), 1000)
	if err != nil || len(all) < 10 || !slices.IsSorted(all) || !slices.Contains(all, "claude-sonnet-5-5") {
		t.Errorf("models %q, %v", all, err)
	}
	paged, err := client.models(t.Context(), 5)
	if diff := cmp.Diff(all, paged); err != nil || diff != "" {
		t.Errorf("models, five at a time: %v %s", err, diff)
	}
	if id, err := client.model(t.Context(), "claude-haiku-5-5"); err != nil || id != "claude-haiku-5-5" {
		t.Errorf("one model: %q, %v", id, err)
	}
	_, err = client.model(t.Context(), "gpt-5")
	wantFailure(t, client, err, 404, "not_found_error")
}

func sdkAborts(t *testing.T, g *gateway, client sdk, begin func(string) talk) {
	g.sim.Queue("sk-upstream-main", simulator.Reply{Pause: 2 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Endless, After: 3}})
	ctx, abort := context.WithCancel(t.Context())
	defer abort()
	events := 0
	_, err := client.stream(ctx, begin("go on for ever"), func(string) {
		if events++; events == 10 {
			abort()
		}
	})
	if err == nil {
		t.Error("an aborted stream ended well")
	}
	g.waitUpstream("upstream is let go", func() bool { return !g.last().Disconnected.IsZero() })
}

func sdkErrors(t *testing.T, g *gateway, client sdk, begin func(string) talk) {
	broken := simulator.Fault{Kind: simulator.Cut, After: 6, Bytes: 60}
	overloaded := simulator.Fault{Kind: simulator.ErrorEvent, After: 6}
	for _, test := range []struct {
		reply  simulator.Reply
		stream bool
		status int
		kind   string
	}{
		{simulator.Reply{Status: 400}, false, 400, "invalid_request_error"},
		{simulator.Reply{Status: 400}, true, 400, "invalid_request_error"},
		{simulator.Reply{Status: 404}, false, 404, "not_found_error"},
		{simulator.Reply{Status: 413}, false, 413, "request_too_large"},
		{simulator.Reply{Status: 500}, false, 502, "api_error"},
		{simulator.Reply{Status: 504}, true, 504, "timeout_error"},
		{simulator.Reply{Fault: broken}, true, 200, "api_error"},
		{simulator.Reply{Fault: overloaded}, true, 200, "overloaded_error"},
		{simulator.Reply{Status: 529}, false, 529, "overloaded_error"},
		{simulator.Reply{Status: 529}, true, 529, "overloaded_error"}, // it comes last, and is asked all the same
		{simulator.Reply{Status: 429, ErrorCode: "enforced_spend_limit_reached"}, true, 429, "rate_limit_error"},
		{simulator.Reply{}, true, http.StatusServiceUnavailable, "overloaded_error"}, // now it is out
	} {
		g.sim.Queue("sk-upstream-main", test.reply)
		var err error
		if test.stream {
			_, err = client.stream(t.Context(), begin("hi"), func(string) {})
		} else {
			_, err = client.say(t.Context(), begin("hi"))
		}
		wantFailure(t, client, err, test.status, test.kind)
	}
}

func wantFailure(t *testing.T, client sdk, err error, status int, kind string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %d %s", status, kind)
		return
	}
	if gotStatus, gotKind, id := client.failure(err); gotStatus != status || gotKind != kind || !strings.HasPrefix(id, "req_0") {
		t.Errorf("%d %s %q (%v), want %d %s", gotStatus, gotKind, id, err, status, kind)
	}
}
