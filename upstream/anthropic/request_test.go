package anthropic

import (
	"net/http"
	"strings"
	"testing"
)

func mustParse(t testing.TB, body string) *Request {
	t.Helper()
	r, err := ParseRequest([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return r
}

func TestParseRequest(t *testing.T) {
	for _, test := range []struct {
		body, want string // want is part of the error, "" for none
	}{
		{``, "empty"},
		{" \n", "empty"},
		{`{"model":`, "not valid JSON"},
		{`{"model":"m"} x`, "not valid JSON"},
		{`["m"]`, "not a JSON object"},
		{`"m"`, "not a JSON object"},
		{`{}`, "model: field required"},
		{`{"model":null}`, "model: must be a string"},
		{`{"model":7}`, "model: must be a string"},
		{`{"model":""}`, "model: must not be empty"},
		{`{"model":"m","stream":"yes"}`, "stream: must be true or false"},
		{`{"model":"m","stream":null}`, "stream: must be true or false"},
		{`{"model":"m","stream":1}`, "stream: must be true or false"},
		{`{"model":"m","x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, "levels deep"},
		{`{"model":"m"}`, ""},
		{"  {\"mod\\u0065l\" : \"m\",\n\"stream\":false}\n", ""},
		{`{"model":"x","model":"m"}`, ""},
	} {
		r, err := ParseRequest([]byte(test.body))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%.60s: %v", test.body, err)
		case test.want == "" && r.Model != "m":
			t.Errorf("%.60s: model %q", test.body, r.Model)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%.60s: error %v, want one with %q", test.body, err, test.want)
		}
	}
	r := mustParse(t, `{"model":"m","stream":true,"speed":"fast","max_tokens":7,"inference_geo":"us","service_tier":"auto"}`)
	if !r.Stream || !r.Fast || r.MaxTokens != 7 || r.Geo != "us" || r.Tier != "auto" {
		t.Errorf("stream %v, fast %v, max_tokens %d, geo %q, tier %q", r.Stream, r.Fast, r.MaxTokens, r.Geo, r.Tier)
	}
	if r.drop(); r.Body != nil || r.Model != "m" || !r.Stream {
		t.Errorf("after Drop: %+v", r)
	}
}

func TestSession(t *testing.T) {
	const id = "59c35873-8d4a-4303-8e44-e480425b1b00"
	long := strings.Repeat("s", 200)
	for _, test := range []struct {
		name, header, body, want string
	}{
		{"header first", "h-1", `{"model":"m","metadata":{"user_id":"user_a_account__session_` + id + `"}}`, "h-1"},
		{"long header is hashed", long, `{"model":"m"}`, "4b5d4e1da8a3fa33c8f1a2a1b0b4b7f1"},
		{"JSON user_id", "", `{"model":"m","metadata":{"user_id":"{\"device_id\":\"d\",\"session_id\":\"` + id + `\"}"}}`, id},
		{"text user_id", "", `{"model":"m","metadata":{"user_id":"user_a_account__session_` + id + `"}}`, id},
		{"user_id of another form", "", `{"model":"m","metadata":{"user_id":"alice"}}`, ""},
		{"session that is not a UUID", "", `{"model":"m","metadata":{"user_id":"a_session_1"}}`, ""},
		{"JSON without session_id", "", `{"model":"m","metadata":{"user_id":"{\"device_id\":\"d\"}"}}`, ""},
		{"JSON that is broken", "", `{"model":"m","metadata":{"user_id":"{\"session_id\":\"x\""}}`, ""},
		{"user_id that is no text", "", `{"model":"m","metadata":{"user_id":7}}`, ""},
		{"nothing", "", `{"model":"m","messages":[]}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := http.Header{}
			if test.header != "" {
				header.Set("x-claude-code-session-id", test.header)
			}
			got, _ := mustParse(t, test.body).Session(header, "k", Conversation)
			if test.header == long {
				if len(got) != 32 || got == test.header {
					t.Errorf("got %q, want 32 hexadecimal digits", got)
				}
			} else if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestContentSession(t *testing.T) {
	const (
		turn1  = `{"model":"m","system":[{"type":"text","text":"be kind"}],"messages":[{"role":"user","content":"hi"}]}`
		turn2  = `{"model":"m","system":[{"type":"text","text":"be kind"}],"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","content":"ho"},{"role":"user","content":"more"}]}`
		other  = `{"model":"m","system":[{"type":"text","text":"be kind"}],"messages":[{"role":"user","content":"hello"}]}`
		joined = `{"model":"m","system":"be kindhi","messages":[]}`
		marked = `{"model":"m","system":[{"type":"text","text":"a"},{"type":"text","text":"be kind","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"%"}]}`
		late   = `{"model":"m","system":"s","messages":[{"role":"user","content":"1"},{"role":"user","content":[{"type":"text","text":"big","cache_control":{"type":"ephemeral"}},{"type":"text","text":"x"}]}]}`
		image  = `{"model":"m","messages":[{"role":"user","content":[{"type":"image"}]}]}`
	)
	session := func(body, key string, content ContentSession) string {
		name, byContent := mustParse(t, body).Session(nil, key, content)
		if !byContent {
			t.Errorf("%s has a session that is not by content", body)
		}
		return name
	}
	same := func(what, a, b string) {
		t.Helper()
		if a != b || a == "" {
			t.Errorf("%s: %q and %q, want the same", what, a, b)
		}
	}
	differ := func(what, a, b string) {
		t.Helper()
		if a == b {
			t.Errorf("%s: both %q, want two", what, a)
		}
	}
	same("turns of a conversation", session(turn1, "k", Conversation), session(turn2, "k", Conversation))
	differ("conversations", session(turn1, "k", Conversation), session(other, "k", Conversation))
	differ("keys", session(turn1, "k", Conversation), session(turn1, "l", Conversation))
	differ("texts that join alike", session(turn1, "k", Conversation), session(joined, "k", Conversation))
	same("cacheable: one system, two conversations", session(turn1, "k", Cacheable), session(other, "l", Cacheable))
	same("cacheable: the marked system block", session(strings.Replace(marked, "%", "1", 1), "k", Cacheable), session(strings.Replace(marked, "%", "2", 1), "k", Cacheable))
	same("cacheable: the marked message", session(late, "k", Cacheable), session(strings.Replace(late, `"s"`, `"t"`, 1), "k", Cacheable))
	differ("cacheable: all of the marked message", session(late, "k", Cacheable), session(strings.Replace(late, `"x"`, `"y"`, 1), "k", Cacheable))
	if got := session(image, "k", Conversation); got != "" {
		t.Errorf("without any text the session is %q", got)
	}
	if got := session(turn1, "k", Conversation); len(got) != 32 {
		t.Errorf("session %q, want 16 bytes in hex", got)
	}
}
