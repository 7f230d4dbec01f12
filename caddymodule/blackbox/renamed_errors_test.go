package blackbox_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// A client that asks for claude-x never learns what it is called upstream, whatever
// upstream says about it.
func TestErrorsDoNotNameTheModelThatWasSent(t *testing.T) {
	const sent, asked = "glm-4.6", "claude-x"
	words := "model: " + sent + " is not what " + sent + " was"
	header := http.Header{
		"X-Model": {sent}, "Warning": {"199 - " + sent}, "Retry-After": {"1"}, "X-Should-Retry": {"false"}, "Location": {"https://x.example/" + sent},
		"Anthropic-Model": {sent}, "Server": {sent},
	}
	type row struct {
		name   string
		reply  simulator.Reply
		stream bool
		keeps  bool // upstream's words reach the client, but for that name
	}
	var rows []row
	for _, status := range []int{400, 404, 413, 422, 429, 529, 500, 502, 503, 504, 401, 402, 403, 408, 409, 418, 302} {
		passes := status == 400 || status == 404 || status == 413 || status == 422
		for _, stream := range []bool{false, true} {
			rows = append(rows,
				row{fmt.Sprintf("%d, stream %t", status, stream), simulator.Reply{Status: status, Message: words, Header: header}, stream, passes},
				row{fmt.Sprintf("%d in text, stream %t", status, stream), simulator.Reply{Status: status, Body: []byte(words), Header: header}, stream, passes},
				row{fmt.Sprintf("%d with escapes, stream %t", status, stream), simulator.Reply{Status: status, Header: header,
					Body: []byte(`{"type":"error","error":{"type":"invalid_request_error","message":"is not: \u0067lm-4\u002e6"}}`)}, stream, passes},
				row{fmt.Sprintf("%d with a type, stream %t", status, stream), simulator.Reply{Status: status, Header: header,
					Body: []byte(`{"type":"error","model":"` + sent + `","error":{"type":"` + sent + `","message":"is not","param":"` + sent + `"}}`)}, stream, passes},
			)
		}
	}
	errorInStream := simulator.Event{Name: "error", Data: `{"type":"error","error":{"type":"api_error","message":"` + words + `"}}`}
	escaped := simulator.Event{Name: "error", Data: `{"type":"error","error":{"type":"api_error","message":"is not: \u0067lm-4.6"}}`}
	rows = append(rows,
		row{"an error first in a stream", streamOf(errorInStream), true, false},
		row{"a refusal first in a stream", streamOf(messageStart, simulator.Event{Name: "error", Data: strings.Replace(errorInStream.Data, "api_error", "invalid_request_error", 1)}), true, true},
		row{"an error after an empty block", streamOf(messageStart, emptyText, errorInStream), true, false},
		row{"an error in a stream", streamOf(messageStart, emptyText, textDelta, errorInStream), true, true},
		row{"an error with escapes", streamOf(messageStart, emptyText, textDelta, escaped), true, true},
		row{"an error without a name", simulator.Reply{Events: []simulator.Event{messageStart, emptyText, textDelta, errorInStream}, Framing: simulator.Framing{DataOnly: true}}, true, true},
		row{"an error byte by byte", simulator.Reply{Events: []simulator.Event{messageStart, emptyText, textDelta, errorInStream}, Pieces: []int{1}}, true, true},
		row{"an error without an end", simulator.Reply{Events: []simulator.Event{messageStart, emptyText, textDelta, errorInStream}, Framing: simulator.Framing{Unterminated: true}}, true, true},
		row{"a refusal after a comment", simulator.Reply{Status: 400, Message: words, HeaderDelay: 300 * time.Millisecond}, true, true},
		row{"an error after a comment", simulator.Reply{Status: 529, Message: words, HeaderDelay: 300 * time.Millisecond}, true, false},
		row{"an error in a 200", simulator.Reply{Body: []byte(`{"type":"error","error":{"type":"api_error","message":"` + words + `"}}`)}, false, false},
		row{"a page in a 200", simulator.Reply{Body: []byte("<html>" + words + "</html>")}, false, false},
	)
	g := serve(t, simulator.Config{}, `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			`+asked+` `+sent+`
		}
	}
	relay {
		keepalive 100ms after 200ms
	}`+alice)
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			g := *g
			g.t = t
			g.sim.Set("", func(request *simulator.Request) simulator.Reply {
				if isQuestion(request) {
					return simulator.Reply{}
				}
				return r.reply
			})
			for _, path := range []string{"", "/v1/messages/count_tokens"} {
				if path != "" && r.stream {
					continue
				}
				a := g.do(call{path: path, body: asking(asked, r.stream)})
				if len(g.sim.Requests()) == 0 || g.last().Model != sent {
					t.Fatalf("upstream was not asked: %d %s", a.status, a.body)
				}
				text := string(a.body)
				for name, values := range a.header {
					if name != "Server" {
						text += "\n" + name + ": " + strings.Join(values, ",")
					}
				}
				for _, trace := range []string{sent, "glm", gjson.Parse(`"\u0067lm"`).Str, `\u0067lm`, "4.6"} {
					if strings.Contains(text, trace) {
						t.Errorf("%q in: %d %s", trace, a.status, text)
					}
				}
				if r.keeps != strings.Contains(string(a.body), "is not") {
					t.Errorf("upstream's words: %d %s", a.status, a.body)
				}
			}
		})
	}
}
