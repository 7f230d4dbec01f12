package blackbox_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func typed(contentType, body string) simulator.Reply {
	return simulator.Reply{Body: []byte(body), Header: http.Header{"Content-Type": {contentType}}}
}

const (
	wholeMessage = `{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":"hello"}],"usage":{"input_tokens":3,"output_tokens":4}}`
	apiError     = `{"type":"error","error":{"type":"api_error","message":"no"}}`
	pageBody     = "<!DOCTYPE html><html><body>Sign in</body></html>"
)

func TestAnAnswerThatIsNoMessageGoesElsewhere(t *testing.T) {
	stream := "event: message_start\ndata: " + messageStart.Data + "\n\nevent: content_block_start\ndata: " + emptyText.Data + "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	for _, test := range []struct {
		name   string
		reply  simulator.Reply
		stream bool
		status int // where no other account is left
	}{
		{"a page", typed("text/html", pageBody), false, 502},
		{"a page that says it is JSON", typed("application/json", pageBody), false, 502},
		{"nothing", typed("application/json", ""), false, 502},
		{"another API's error", typed("application/json", `{"code":1113,"msg":"Insufficient balance"}`), false, 502},
		{"an empty object", typed("application/json", `{}`), false, 502},
		{"null", typed("application/json", `null`), false, 502},
		{"a list", typed("application/json", `[`+wholeMessage+`]`), false, 502},
		{"a text", typed("application/json", `"hello"`), false, 502},
		{"half a message", typed("application/json", wholeMessage[:80]), false, 502},
		{"an error", typed("application/json", apiError), false, 502},
		{"an error of another's shape", typed("application/json", `{"error":{"code":"x","message":"no"}}`), false, 502},
		{"an overload", typed("application/json", strings.Replace(apiError, "api_error", "overloaded_error", 1)), false, 529},
		{"a completion of another API", typed("application/json", `{"object":"chat.completion","choices":[]}`), false, 502},
		{"a stream", typed("text/event-stream", stream), false, 502},
		{"a stream, in other words", typed("Text/Event-Stream;charset=utf-8", stream), false, 502},
		{"a message with the type of a stream", typed("text/event-stream", wholeMessage), false, 502},

		{"stream: a page", typed("text/html", pageBody), true, 502},
		{"stream: a message", typed("application/json", wholeMessage), true, 502},
		{"stream: another API's error", typed("application/json", `{"code":1113,"msg":"no"}`), true, 502},
		{"stream: an error", typed("application/json", apiError), true, 502},
		{"stream: a page that says it is a stream", typed("text/event-stream", pageBody), true, 502},
		{"stream: a message that says it is a stream", typed("text/event-stream", wholeMessage), true, 502},
		{"stream: nothing", typed("text/event-stream", ""), true, 502},
		{"stream: no type", simulator.Reply{Body: []byte(stream), Header: http.Header{"Content-Type": {}}}, true, 502},
		{"stream: comments alone", typed("text/event-stream", ": hello\n\n: hello\n\n"), true, 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
			g.sim.Queue("sk-upstream-a", test.reply, test.reply)
			a := g.say("claude-sonnet-5-5", test.stream)
			whole := gjson.GetBytes(a.body, "type").Str == "message"
			if test.stream {
				whole = strings.Count(string(a.body), "event: message_start") == 1 && strings.Count(string(a.body), "event: message_stop") == 1
			}
			if a.status != 200 || !whole {
				t.Errorf("%d %s", a.status, a.body)
			}
			g.sim.Queue("sk-upstream-b", test.reply)
			kind := map[int]string{502: "api_error", 529: "overloaded_error"}[test.status]
			a = g.do(call{header: http.Header{"X-Claude-Code-Session-Id": {"second"}}, body: asking("claude-sonnet-5-5", test.stream)})
			wantError(t, a, test.status, kind)
			if diff := cmp.Diff([]string{"a", "b", "b", "a"}, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
			records := g.records()
			if len(records) != 2 || records[0].Attempts != 2 || records[0].Charged == 0 || records[1].Charged != 0 || records[1].Billing != billing.PaidByNobody {
				t.Errorf("records %+v", records)
			}
		})
	}
}

func TestACountThatIsNone(t *testing.T) {
	for name, test := range map[string]struct {
		reply  simulator.Reply
		status int
	}{
		"a page":                      {typed("text/html", pageBody), 502},
		"a page that says it is JSON": {typed("application/json", pageBody), 502},
		"an empty object":             {typed("application/json", `{}`), 502},
		"null":                        {typed("application/json", `null`), 502},
		"nothing":                     {typed("application/json", ""), 502},
		"half a count":                {typed("application/json", `{"input_tokens":1`), 502},
		"a count in a text":           {typed("application/json", `{"input_tokens":"12"}`), 502},
		"a count that is null":        {typed("application/json", `{"input_tokens":null}`), 502},
		"another API's error":         {typed("application/json", `{"code":1113,"msg":"no"}`), 502},
		"an error":                    {typed("application/json", apiError), 502},
		"an error of another's shape": {typed("application/json", `{"error":{"message":"no"}}`), 502},
		"an overload":                 {typed("application/json", strings.Replace(apiError, "api_error", "overloaded_error", 1)), 529},
		"a limit":                     {typed("application/json", strings.Replace(apiError, "api_error", "rate_limit_error", 1)), 429},
		"a count":                     {typed("application/json", `{"input_tokens":12,"more":1}`), 200},
		"a count of none":             {typed("application/json", `{"input_tokens":0}`), 200},
		"a count, as text":            {typed("text/plain", `{"input_tokens":12}`), 200},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
			g.sim.Queue("sk-upstream-a", test.reply)
			counting := call{path: "/v1/messages/count_tokens", body: asking("claude-sonnet-5-5", false)}
			a := g.do(counting)
			if test.status == 200 {
				if a.status != 200 || string(a.body) != string(test.reply.Body) {
					t.Errorf("%d %s", a.status, a.body)
				}
			} else {
				wantError(t, a, test.status, map[int]string{502: "api_error", 529: "overloaded_error", 429: "rate_limit_error"}[test.status])
			}
			// One account is asked; what failed comes last for counts, and for nothing else.
			want := []string{"a", "b", "a"}
			if test.status == 200 {
				want[1] = "a"
			}
			for _, c := range []call{counting, {body: asking("claude-sonnet-5-5", false)}} {
				if a := g.do(c); a.status != 200 {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
			if diff := cmp.Diff(want, g.asked()); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
			if n := len(g.records()); n != 1 {
				t.Errorf("%d records of one message", n)
			}
		})
	}
}
