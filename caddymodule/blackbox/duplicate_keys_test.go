package blackbox_test

import (
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// Of a key that stands twice, the last one counts, for everything.
func TestKeysThatStandTwice(t *testing.T) {
	const allowed, other = "claude-sonnet-5-5", "claude-opus-5-5"
	g := serve(t, simulator.Config{}, `
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			`+allowed+` first-upstream
			claude-haiku-5-5 second-upstream
		}
	}`+alice)
	// The reader of the other side: the last of equal keys, escapes undone.
	upstreamReads := func(body []byte) (model string, stream bool) {
		gjson.ParseBytes(body).ForEach(func(key, value gjson.Result) bool {
			switch key.String() {
			case "model":
				model = value.String()
			case "stream":
				stream = value.Bool()
			}
			return true
		})
		return model, stream
	}
	g.sim.Set("", func(r *simulator.Request) simulator.Reply {
		if _, stream := upstreamReads(r.Body); stream {
			return streamOf(messageStart, emptyText, textDelta, blockStop, messageDelta, messageStop)
		}
		return typed("application/json", wholeMessage)
	})
	const rest = `"max_tokens":64,"messages":[{"role":"user","content":"hi"}]}`
	spelled := func(keys ...string) string { return "{" + strings.Join(keys, ",") + "," + rest }
	for _, test := range []struct {
		body   string
		model  string // "" = refused
		stream bool
	}{
		{spelled(`"model":"`+allowed+`"`, `"mod\u0065l":"`+other+`"`), "", false},
		{spelled(`"mod\u0065l":"`+other+`"`, `"model":"`+allowed+`"`), "first-upstream", false},
		{spelled(`"model":"`+other+`"`, `"mod\u0065l":"`+allowed+`"`), "first-upstream", false},
		{spelled(`"\u006dodel":"` + allowed + `"`), "first-upstream", false},
		{spelled(`"\u006Dodel":"claude-haiku-5-5"`), "second-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"model":"`+other+`"`), "", false},
		{spelled(`"model":"`+other+`"`, `"model":"`+allowed+`"`), "first-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"model":"claude-haiku-5-5"`), "second-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"Model":"`+other+`"`), "first-upstream", false},
		{spelled(`"MODEL":"`+other+`"`, `"model":"`+allowed+`"`), "first-upstream", false},
		{spelled(`"Model":"` + allowed + `"`), "", false},
		{spelled(`"model":5`, `"model":"`+allowed+`"`), "first-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"model":5`), "", false},
		{spelled(`"model":"`+allowed+`"`, `"metadata":{"model":"`+other+`"}`), "first-upstream", false},
		{spelled(`"model":"claude-\u0073onnet-5-5"`), "first-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"stream":true`, `"stream":false`), "first-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"stream":false`, `"stre\u0061m":true`), "first-upstream", true},
		{spelled(`"model":"`+allowed+`"`, `"stre\u0061m":true`, `"stream":false`), "first-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"Stream":true`), "first-upstream", false},
		{spelled(`"model":"`+allowed+`"`, `"stream":true`, `"stream":"no"`), "", false},
	} {
		t.Run(test.body[:min(len(test.body), 70)], func(t *testing.T) {
			before := len(g.sim.Requests())
			a := g.do(call{body: test.body})
			if test.model == "" {
				refusal{400, "invalid_request_error", true, ""}.check(t, a)
				if len(g.sim.Requests()) != before {
					t.Errorf("it went upstream")
				}
				return
			}
			if streamed := strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream"); a.status != 200 || streamed != test.stream {
				t.Errorf("%d %s", a.status, a.body)
			}
			if model, stream := upstreamReads(g.last().Body); model != test.model || stream != test.stream {
				t.Errorf("upstream was asked for %s, streamed %t: %s", model, stream, g.last().Body)
			}
		})
	}
	for _, r := range g.records() {
		if want := map[string]string{"first-upstream": allowed, "second-upstream": "claude-haiku-5-5"}[r.ModelSent]; r.Model != want {
			t.Errorf("%s was priced as %s", r.ModelSent, r.Model)
		}
		if r.Cost == 0 || r.Unpriced {
			t.Errorf("record %+v", r)
		}
	}
}
